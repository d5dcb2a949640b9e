"""How good a model is on a split."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kcifar import backend
from kcifar.errors import InputError, nearest
from kcifar.training.part import evaluation_batches


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of a model on one split, in float64 from its logits.

    Attributes:
        accuracy: fraction of images whose most probable class is the label.
        loss: mean cross-entropy in nats.
        per_class: accuracy of each class, (classes,); NaN for a class with no images.
        confusion: int64 (classes, classes), rows the labels, columns the predictions.
        probabilities: float64 (n, classes).
    """

    accuracy: float
    loss: float
    per_class: np.ndarray
    confusion: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class _View:
    """Images as test-time augmentation shows them: moved down and right by `shift` pixels, with the pixels at the sides
    reflected into what comes free, and then mirrored. A transform that draws nothing."""

    mirrored: bool = False
    shift: int = 0

    def draw(self, rng, batch_size, image_shape):
        return None

    def apply(self, images, labels, drawn):
        if self.shift:
            room = abs(self.shift)
            padded = ops.pad(images, ((0, 0), (room, room), (room, room), (0, 0)), "reflect")
            first, (height, width) = room - self.shift, images.shape[1:3]
            images = padded[:, first : first + height, first : first + width]
        return (ops.flip(images, axis=2) if self.mirrored else images), labels


def _both(shift):
    return _View(False, shift), _View(True, shift)


# Views and their shares in the mean of the logits, as airbench94's (Jordan 2024, arXiv 2404.00498, its program).
TEST_TIME_AUGMENTATIONS = {
    "none": {_View(): 1.0},
    "flip": dict.fromkeys(_both(0), 1 / 2),
    "flip+shift": dict.fromkeys(_both(0), 1 / 4) | dict.fromkeys(_both(1) + _both(-1), 1 / 8),
}


def evaluate(model, split, tta="none"):
    """Evaluates a model that takes raw images and gives logits on every image of a split.

    Args:
        tta: test-time augmentation, for which the logits are a mean: "flip", over each image and its mirror image;
            "flip+shift", half of that, and half over both moved by a pixel down and right, and up and left.

    Raises:
        InputError: the model gives another number of classes than the split has, or an unknown `tta`.
    """
    if tta not in TEST_TIME_AUGMENTATIONS:
        raise InputError(f"the test-time augmentation is '{tta}'; {nearest(tta, TEST_TIME_AUGMENTATIONS)}")
    logits = sum(
        share * np.asarray(model.predict(evaluation_batches(model, split, [view]), verbose=0), np.float64)
        for view, share in TEST_TIME_AUGMENTATIONS[tta].items()
    )
    if logits.shape != (len(split), split.classes):
        raise InputError(
            f"the model gives {logits.shape[-1]} classes, the data has {split.classes}: not of this data set"
        )
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((split.classes, split.classes), np.int64)
    np.add.at(confusion, (split.labels, predicted), 1)
    counts = confusion.sum(axis=1)
    per_class = np.divide(confusion.diagonal(), counts, out=np.full(split.classes, np.nan), where=counts > 0)
    return Evaluation(
        accuracy=float((predicted == split.labels).mean()),
        loss=float(-log_probabilities[np.arange(len(split)), split.labels].mean()),
        per_class=per_class,
        confusion=confusion,
        probabilities=np.exp(log_probabilities),
    )


def load_model(path, float32=False):
    """The model saved at `path`, uncompiled and accelerated. Raises InputError where it is missing or damaged.

    Args:
        path: of a `.keras` file.
        float32: compute in float32, whatever precision it was trained in.
    """
    try:
        model = keras.saving.load_model(path, compile=False)
        if float32:
            for layer in model._flatten_layers():
                layer.dtype_policy = "float32"
        return backend.accelerate(model)
    except Exception as error:  # Keras raises whatever zip, JSON and HDF5 raise
        raise InputError(f"'{path}' cannot be opened as a Keras model: {_first_line(error)}") from None


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]
