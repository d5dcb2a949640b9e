"""The part of a model that training runs through, and what it is fed with."""

import dataclasses
import functools
import math
import time

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.progress import track

from kcifar import augment, backend
from kcifar.errors import InputError
from kcifar.evaluation.models import evaluation_batches
from kcifar.models.freezing import head_layers, weighted_layers
from kcifar.models.sizes import of_shapes
from kcifar.output import say

_MOST_FEATURE_BYTES = 2**30
_DRAW_NOTHING = (augment.Resize, augment.CenterCrop)


@dataclasses.dataclass(frozen=True)
class Part:
    """What training runs through.

    Attributes:
        model: the whole model, or what is behind one of its tensors: of the same layers.
        splits: what it takes, by the names of the data set's splits.
        evaluation: transforms of what it is evaluated on.
    """

    model: keras.Model
    splits: dict
    evaluation: tuple = ()

    @property
    def on_features(self):
        """Whether it takes what frozen layers make of the images."""
        return isinstance(self.splits["train"], Features)

    def compute_features(self, evaluated):
        """Computes those of the training split and of these, with a progress bar, where it takes features.

        Returns:
            The seconds.
        """
        if not self.on_features:
            return 0.0
        started = time.perf_counter()
        for name in dict.fromkeys(["train", *evaluated]):
            say(f"features of {len(self.splits[name]):,} {name} images, once")
            self.splits[name].images  # noqa: B018  (computed when it is first asked for)
        return time.perf_counter() - started


class Features:
    """What frozen layers make of a split, itself a split: its `images` are what they give, float32 (n, features)."""

    def __init__(self, trunk, split, transforms):
        self.labels = split.labels
        self.classes = split.classes
        self.trunk = trunk
        self._batches = evaluation_batches(trunk, split, transforms)

    def __len__(self):
        return len(self.labels)

    @functools.cached_property
    def images(self):
        backend.accelerate(self.trunk)
        found = [
            ops.convert_to_numpy(ops.cast(self.trunk.predict_on_batch(self._batches[step][0]), "float32"))
            for step in track(range(len(self._batches)), "", console=Console(stderr=True), transient=True)
        ]
        return np.concatenate(found)


def trained_part(whole, dataset, batches, epochs, unfreezes):
    """The part of a model that a training runs through.

    Images that come as the model takes them run through all of it. Those that already have the size that the model
    would give them come in behind its resizing. Where nothing but the head is trained, and no transform draws anything,
    the layers before it are run once over each image, and training is on what they give.

    Args:
        whole: the model.
        dataset: a `kcifar.data.Dataset`.
        batches: of its training images.
        epochs: that they are read in.
        unfreezes: whether layers that are frozen will be trained later.

    Raises:
        InputError: images of another size than the model takes.
    """
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test") if getattr(dataset, name)}
    entry, evaluation = _entry(whole, batches.image_shape)
    always_alike = not (unfreezes or batches.of_epoch) and all(
        isinstance(transform, _DRAW_NOTHING) for transform in batches.transforms
    )
    trunk = _frozen_trunk(whole, entry) if always_alike else None
    if trunk is None or _bytes(trunk.output, splits) > _MOST_FEATURE_BYTES:
        return Part(_of_all_sizes(_between(whole, entry, whole.output), batches, epochs), splits, evaluation)
    features = {name: Features(trunk, split, evaluation) for name, split in splits.items()}
    features["train"] = Features(trunk, batches.split, batches.transforms)
    return Part(_between(whole, _head_input(whole), whole.output), features)


def _entry(whole, shape):
    """Where images of this shape come in, and what brings raw images to it."""
    if shape == whole.input.shape[1:]:
        return whole.input, ()
    resized = _front(whole)[-1].output if _front(whole) else whole.input
    if shape == resized.shape[1:]:
        return resized, tuple(map(_as_transform, _front(whole)))
    sizes = [tensor.shape[1:3] for tensor in (whole.input, resized)]
    taken = " or ".join(dict.fromkeys(f"{height}×{width}" for height, width in sizes))
    raise InputError(
        f"the transforms give images of {shape[0]}×{shape[1]} pixels, the model takes {taken}: change the transforms, "
        "or resize and center_crop"
    )


def _front(whole):
    return [layer for layer in whole.layers if layer.name in ("resize", "center_crop")]


def _as_transform(layer):
    size = min(layer.output.shape[1:3])
    return augment.Resize(size) if layer.name == "resize" else augment.CenterCrop(size)


def _of_all_sizes(model, batches, epochs):
    """The model, or one of the same layers that takes images of the size of each epoch too."""
    shapes = list(dict.fromkeys(batches.shape_in(epoch) for epoch in range(epochs)))
    return model if shapes == [model.input.shape[1:]] else of_shapes(model, shapes)


def _between(whole, first, last):
    """The model from one tensor to another of the whole, of the same layers."""
    if first is whole.input and last is whole.output:
        return whole
    return keras.Model(first, last, name=whole.name)


def _frozen_trunk(whole, entry):
    """All before the head, where the head alone is trained; None where more is, or where chance acts before it."""
    head = head_layers(whole)
    if [layer for layer in weighted_layers(whole) if layer.trainable] != head or head[0] not in whole.layers:
        return None
    trunk = _between(whole, entry, _head_input(whole))
    return None if any(hasattr(layer, "seed_generator") for layer in trunk.layers) else trunk


def _head_input(whole):
    return head_layers(whole)[0]._inbound_nodes[0].input_tensors[0]


def _bytes(features, splits):
    return 4 * math.prod(features.shape[1:]) * sum(map(len, splits.values()))
