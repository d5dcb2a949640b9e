"""A split whose transforms are drawn once for each image."""

import numpy as np
from keras import ops

from kcifar.data.batches import Batches
from kcifar.errors import InputError

_AT_ONCE = 500  # images; part of what a seed means: results depend on it
_BEFORE_ALL = 2**63  # in the place of an epoch, so that no epoch draws the same


class Fixed:
    """What transforms make of a split when they are drawn once: each image stays the same in all epochs.

    So does a PyTorch program that hands `list(dataset)` to its loader. Itself a split, of images in memory: uint8
    where the transforms keep that, else float32.

    Args:
        split: a `kcifar.data.Split`.
        transforms: from `kcifar.augment`.
        seed: of what is drawn.

    Raises:
        InputError: a transform mixes images and labels.
    """

    def __init__(self, split, transforms, seed):
        mixing = [type(transform).__name__ for transform in transforms if getattr(transform, "mixes", False)]
        if mixing:
            raise InputError(f"{mixing[0]} mixes images, so it cannot be drawn once for each: put it among transforms")
        self.labels = split.labels
        self.classes = split.classes
        batches = Batches(split, min(_AT_ONCE, len(split)), transforms, seed, shuffle=False)
        parts = [batches.at(_BEFORE_ALL, step)[0] for step in range(len(batches))]
        self.images = np.concatenate([ops.convert_to_numpy(part) for part in parts])

    def __len__(self):
        return len(self.labels)
