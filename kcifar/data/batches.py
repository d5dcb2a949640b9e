"""Batches of a split for `model.fit`, transformed on the device."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from kcifar import backend, chance
from kcifar.backend.keras_internals import ends_epoch_of_training
from kcifar.errors import InputError


@dataclasses.dataclass(eq=False)
class TrainingEpoch:
    """An epoch of a training, of which Keras tells callbacks, but not what it reads its batches from.

    Attributes:
        number: counted from 0.
        batches_read: how many batches the last `Batches` has that Keras began to read in it; None before the first.
    """

    number: int
    batches_read: int | None = None


class _Running(threading.local):
    epoch = None


_running = _Running()


def begin_training_epoch(number):
    """Has each `Batches` that Keras reads in this thread from now on be of this epoch; returns the `TrainingEpoch`.

    For callbacks, in `on_epoch_begin`: Keras begins to read the training's batches behind it.
    """
    _running.epoch = TrainingEpoch(number)
    return _running.epoch


def end_training():
    """Has each `Batches` count its epochs by itself again."""
    _running.epoch = None


class Batches(keras.utils.PyDataset):
    """A split as batches (images, labels) for `fit`, `evaluate` and `predict`, the same bytes on every backend.

    Images are (batch, height, width, channels) with values 0–255, uint8 until a transform makes them float32; labels
    are one-hot float32 (batch, classes). Order and transforms are drawn from (seed, epoch, step), see `kcifar.chance`.
    Call `fit(batches, shuffle=False)`: by default Keras visits the batches in another order, from Python's generator.

    A training with `kcifar.callbacks.Checkpoint` tells its epoch to all that are read in it, also those of validation.

    Args:
        split: a `kcifar.data.Split`. Its arrays are not copied.
        batch_size: images in a batch.
        transforms: from `kcifar.augment`, applied in order.
        seed: of the order and of the transforms.
        shuffle: a new order every epoch, or the split's own.
        drop_last: leave out the last batch where it is smaller than the others.
        of_epoch: a function from an epoch, counted from 0, to one more transform, applied behind the others, or None:
            images that grow in the course of a training.
        part: (place, count): of several processes that share each batch, the one that takes the part at that place.

    Attributes:
        epoch: the epoch that the next batch belongs to, counted from 0. Goes up by one when a training has read an
            epoch to its last batch, not behind `evaluate` and `predict`; set it to continue a training without a
            `Checkpoint`.
        image_shape: (height, width, channels) of an image behind the transforms, before that of the epoch.

    Raises:
        InputError: a batch size below 1 or above the number of images; a batch that cannot be shared evenly; a
            transform that does not fit the images, or two that mix them.
    """

    def __init__(
        self,
        split,
        batch_size,
        transforms=(),
        seed=0,
        shuffle=True,
        drop_last=False,
        of_epoch=None,
        part=(0, 1),
    ):
        super().__init__()
        if not (isinstance(batch_size, int) and 1 <= batch_size <= len(split)):
            raise InputError(
                f"batch_size is {batch_size!r}, but there are {len(split)} images; expected an integer from 1 to that"
            )
        expect_shared(0 if drop_last else len(split), batch_size, part[1])
        transforms = tuple(transforms)
        mixing = [type(transform).__name__ for transform in transforms if getattr(transform, "mixes", False)]
        if len(mixing) > 1:
            raise InputError(
                f"{' and '.join(mixing)} both mix images and labels: keep one of them, or take MixUpOrCutMix, which "
                "draws one of the two for each batch"
            )
        self.split = split
        self.batch_size = batch_size
        self.transforms = transforms
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.of_epoch = of_epoch
        self.part = part
        self.epoch = 0
        self._one_hot = np.eye(split.classes, dtype="float32")
        self._steps, self.image_shape = self._steps_and_image_shape()
        on_host = any(map(_on_host, transforms))
        self._apply = self._apply_each if on_host else backend.compiled(self._apply_each)
        self._of_epochs = {}  # what applies each transform of an epoch
        self._order = None, None
        self._thread = ThreadPoolExecutor(1) if backend.prepares_ahead() and not on_host else None
        self._ahead = None, None  # (epoch, step) and the batch that the thread prepares
        self._served = 0
        # What was told before is of a training that is over, if it was ended by an error.
        self._followed = _running.epoch

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
            return self.at(self.epoch, step)
        (place, prepared), self._ahead = self._ahead, (None, None)
        batch = prepared.result() if place == (self.epoch, step) else self.at(self.epoch, step)
        if step + 1 < len(self):
            self._ahead = (self.epoch, step + 1), self._thread.submit(self.at, self.epoch, step + 1)
        return batch

    def at(self, epoch, step):
        """The batch (images, labels) of an epoch and a step, both counted from 0, whatever was served before.

        Transforms are drawn and applied for the whole batch, of which a process then takes its part: it may be mixed.
        """
        chosen = self._epoch_order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        images = ops.convert_to_tensor(self.split.images[chosen])
        labels = ops.convert_to_tensor(self._one_hot[self.split.labels[chosen]])
        rng = chance.generator(self.seed, chance.TRANSFORMS, epoch, step)
        place = chance.Place(self.seed, epoch, chosen)
        drawn = [chance.drawn_by(transform, rng, len(chosen), shape, place) for transform, shape in self._steps]
        images, labels = self._apply(images, labels, drawn)
        if last := self.of_epoch and self.of_epoch(epoch):
            drawn = chance.drawn_by(last, rng, len(chosen), self.image_shape, place)
            if last not in self._of_epochs:
                self._of_epochs[last] = _compiled(last)
            images, labels = self._of_epochs[last](images, labels, drawn)
        rank, count = self.part
        size = len(chosen) // count
        own = slice(rank * size, (rank + 1) * size)
        return (images, labels) if count == 1 else (images[own], labels[own])

    def shape_in(self, epoch):
        """(height, width, channels) of an image of an epoch, counted from 0."""
        last = self.of_epoch and self.of_epoch(epoch)
        if not last:
            return self.image_shape
        rng, place = chance.generator(self.seed, chance.TRANSFORMS), chance.Place(self.seed, epoch, np.zeros(1, int))
        image = np.zeros((1, *self.image_shape), "float32")
        drawn = chance.drawn_by(last, rng, 1, self.image_shape, place)
        return tuple(last.apply(ops.convert_to_tensor(image), None, drawn)[0].shape[1:])

    def _apply_each(self, images, labels, drawn):
        for (transform, _), of_transform in zip(self._steps, drawn, strict=True):
            images, labels = transform.apply(images, labels, of_transform)
        return images, labels

    def _steps_and_image_shape(self):
        """The transforms, neighbours joined where they can be, each with the shape of the images that it takes; and
        the shape behind the last. Found on the first image."""
        images, labels = ops.convert_to_tensor(self.split.images[:1]), ops.convert_to_tensor(self._one_hot[:1])
        rng, steps = chance.generator(self.seed, chance.TRANSFORMS), []
        first = chance.Place(self.seed, 0, np.zeros(1, int))
        for transform in self.transforms:
            shape = tuple(images.shape[1:])
            images, labels = _compiled(transform)(images, labels, chance.drawn_by(transform, rng, 1, shape, first))
            if steps and (joined := _joined(steps[-1], transform)):
                steps[-1] = joined, steps[-1][1]
            else:
                steps.append((transform, shape))
        return steps, tuple(images.shape[1:])

    def on_epoch_begin(self):
        told = _running.epoch
        if told is None:
            return
        told.batches_read = len(self)
        if told is not self._followed:
            self._followed, self.epoch = told, told.number

    def on_epoch_end(self):
        if self._served >= len(self) and ends_epoch_of_training():
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


def expect_shared(images, batch_size, sharers):
    """Raises InputError where processes, or devices, cannot share each batch of so many images evenly."""
    for what, size in (("batch_size", batch_size), ("the size of the last batch", images % batch_size)):
        if size % sharers:
            raise InputError(
                f"{what} is {size}, which {sharers} processes or devices cannot share evenly; expected a multiple of "
                f"{sharers}: change batch_size, or leave the last batch out (drop_last=True)"
            )


def _on_host(transform):
    """Whether it does not run on the device alone, and cannot be compiled."""
    return getattr(transform, "on_host", False)


def _compiled(transform):
    """Its `apply`, compiled where that can be."""
    return transform.apply if _on_host(transform) else backend.compiled(transform.apply)


def _joined(step, following):
    """The transform that does a (transform, shape) and the following one at once; None where there is none."""
    transform, shape = step
    return transform.joined(following, shape[:2]) if hasattr(transform, "joined") else None
