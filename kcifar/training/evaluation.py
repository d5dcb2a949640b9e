"""How good a model is on a split."""

import dataclasses

import keras
import numpy as np

from kcifar import backend
from kcifar.errors import InputError
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


def evaluate(model, split):
    """Evaluates a model that takes raw images and gives logits on every image of a split.

    Raises:
        InputError: the model gives another number of classes than the split has.
    """
    logits = np.asarray(model.predict(evaluation_batches(model, split), verbose=0), np.float64)
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
