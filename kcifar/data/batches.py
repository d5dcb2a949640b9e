"""Batches of a split for `model.fit`, transformed on the device."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from kcifar import backend, chance
from kcifar.errors import InputError


class Batches(keras.utils.PyDataset):
    """A split as batches (images, labels) for `fit`, `evaluate` and `predict`, the same bytes on every backend.

    Images are (batch, height, width, 3) with values 0–255, uint8 until a transform makes them float32; labels are
    one-hot float32 (batch, classes). Order and transforms are drawn from (seed, epoch, step), see `kcifar.chance`.
    Call `fit(batches, shuffle=False)`: by default Keras visits the batches in another order, from Python's generator.

    Args:
        split: a `kcifar.data.Split`. Its arrays are not copied.
        batch_size: images in a batch.
        transforms: from `kcifar.augment`, applied in order.
        seed: of the order and of the transforms.
        shuffle: a new order every epoch, or the split's own.
        drop_last: leave out the last batch where it is smaller than the others.

    Attributes:
        epoch: the epoch that the next batch belongs to, counted from 0. Goes up by one when an epoch has been
            served to its last batch; set it to continue a run elsewhere.

    Raises:
        InputError: a batch size below 1 or above the number of images, or a transform that does not fit the images.
    """

    def __init__(self, split, batch_size, transforms=(), seed=0, shuffle=True, drop_last=False):
        super().__init__()
        if not (isinstance(batch_size, int) and 1 <= batch_size <= len(split)):
            raise InputError(
                f"batch_size is {batch_size!r}, but there are {len(split)} images; expected an integer from 1 to that"
            )
        self.split = split
        self.batch_size = batch_size
        self.transforms = tuple(transforms)
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self._one_hot = np.eye(split.classes, dtype="float32")
        self._shapes = self._shapes_around_each()
        self._apply = backend.compiled(self._apply_each)
        self._order = None, None
        self._thread = ThreadPoolExecutor(1) if backend.prepares_ahead() else None
        self._ahead = None, None  # (epoch, step) and the batch that the thread prepares
        self._served = 0

    @property
    def num_batches(self):
        """Batches in an epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self):
        return self.num_batches

    def __getitem__(self, step):
        self._served += 1
        if self._thread is None:
            return self._batch(self.epoch, step)
        (place, prepared), self._ahead = self._ahead, (None, None)
        batch = prepared.result() if place == (self.epoch, step) else self._batch(self.epoch, step)
        if step + 1 < len(self):
            self._ahead = (self.epoch, step + 1), self._thread.submit(self._batch, self.epoch, step + 1)
        return batch

    def _batch(self, epoch, step):
        chosen = self._epoch_order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        images = ops.convert_to_tensor(self.split.images[chosen])
        labels = ops.convert_to_tensor(self._one_hot[self.split.labels[chosen]])
        rng = chance.generator(self.seed, chance.TRANSFORMS, epoch, step)
        drawn = [
            transform.draw(rng, len(chosen), shape)
            for transform, shape in zip(self.transforms, self._shapes[:-1], strict=True)
        ]
        return self._apply(images, labels, drawn)

    def _apply_each(self, images, labels, drawn):
        for transform, of_transform in zip(self.transforms, drawn, strict=True):
            images, labels = transform.apply(images, labels, of_transform)
        return images, labels

    @property
    def image_shape(self):
        """(height, width, channels) of an image behind the transforms."""
        return self._shapes[-1] if self._shapes else self.split.images.shape[1:]

    def _shapes_around_each(self):
        """The shape of an image before each transform and behind the last, found on the first one."""
        if not self.transforms:
            return []
        images, labels = ops.convert_to_tensor(self.split.images[:1]), ops.convert_to_tensor(self._one_hot[:1])
        rng, shapes = chance.generator(self.seed, chance.TRANSFORMS), [tuple(images.shape[1:])]
        for transform in self.transforms:
            images, labels = transform.apply(images, labels, transform.draw(rng, 1, shapes[-1]))
            shapes.append(tuple(images.shape[1:]))
        return shapes

    def on_epoch_end(self):
        # Keras calls this also after a look at the first batch, before the first epoch.
        if self._served >= len(self):
            self.epoch += 1
        self._served = 0

    def _epoch_order(self, epoch):
        if not self.shuffle:
            return np.arange(len(self.split))
        of_epoch, order = self._order
        if of_epoch != epoch:
            order = chance.generator(self.seed, chance.ORDER, epoch).permutation(len(self.split))
            self._order = epoch, order
        return order
