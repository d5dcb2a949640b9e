"""How good a model is on a split."""

import keras
import numpy as np

from kcifar import backend
from kcifar.errors import InputError, nearest
from kcifar.training.part import evaluation_batches
from kcifar.training.scores import Scores, are_probabilities, normalised
from kcifar.training.test_time import TEST_TIME_AUGMENTATIONS


def evaluate(model, split, tta="none"):
    """The `Scores` of a model that takes raw images, on every image of a split.

    Args:
        model: gives logits, or probabilities (rows of numbers from 0 that sum to 1, as an ensemble's).
        tta: test-time augmentation, for which the logits are a mean: "flip", over each image and its mirror image;
            "flip+shift", half of that, and half over both moved by a pixel down and right, and up and left.

    Raises:
        InputError: the model gives another number of classes than the split has, or an unknown `tta`.
    """
    if tta not in TEST_TIME_AUGMENTATIONS:
        raise InputError(f"the test-time augmentation is '{tta}'; {nearest(tta, TEST_TIME_AUGMENTATIONS)}")
    logits = sum(
        share * log_probabilities(model.predict(evaluation_batches(model, split, [view]), verbose=0))
        for view, share in TEST_TIME_AUGMENTATIONS[tta].items()
    )
    if logits.shape != (len(split), split.classes):
        raise InputError(
            f"the model gives {logits.shape[-1]} classes, the data has {split.classes}: not of this data set"
        )
    return Scores(normalised(logits), split.labels)


def log_probabilities(outputs):
    """Logarithms of the probabilities that a model's outputs (n, classes) stand for, float64.

    Outputs are taken for probabilities where `are_probabilities` says so, else for logits.
    """
    outputs = np.asarray(outputs, np.float64)
    if are_probabilities(outputs):
        outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    return normalised(outputs)


def load_model(path, float32=False):
    """The model saved at `path`, uncompiled and accelerated. Raises InputError where it is missing or damaged.

    Args:
        path: of a `.keras` file.
        float32: compute in float32, whatever precision it was trained in.
    """
    model = open_model(path)
    return backend.accelerate(in_float32(model) if float32 else model)


def in_float32(model):
    """The model, whose layers compute in float32 from now on."""
    for layer in model._flatten_layers():
        layer.dtype_policy = "float32"
    return model


def open_model(path):
    """The model saved at `path`, uncompiled. Raises InputError where it is missing or damaged."""
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever zip, JSON and HDF5 raise
        raise InputError(f"'{path}' cannot be opened as a Keras model: {_first_line(error)}") from None


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]
