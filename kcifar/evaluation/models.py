"""Classifiers opened and run: what they take, what they give, how good they are on a split."""

import contextlib
import functools
import math
import re
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from kcifar import backend, reading
from kcifar.data import Batches
from kcifar.errors import InputError, nearest, one_line
from kcifar.evaluation.scores import Scores, are_probabilities, normalised
from kcifar.evaluation.test_time import TEST_TIME_AUGMENTATIONS
from kcifar.models.weight_files import expect_stored
from kcifar.output import warn_once

# Inference only: the figures do not depend on it. On a CPU larger batches leave the cache and are slower.
_EVALUATED_AT_ONCE = 100
_LARGE_AT_ONCE = 25  # where an image has more than 96×96 pixels: no more memory than a training step of 50

_SIGMOIDS = ("sigmoid", "hard_sigmoid")
_ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid"}  # layers and operations
_ONLY_SHAPING = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity, keras.layers.Dropout)


def evaluate(model, split, tta="none"):
    """The `Scores` of a model that takes raw images, on every image of a split.

    Args:
        model: gives logits, or probabilities (rows of numbers from 0 that sum to 1, as an ensemble's), or by one
            sigmoid that of the second of two classes.
        tta: test-time augmentation, for which the logits are a mean: "flip", over each image and its mirror image;
            "flip+shift", half of that, and half over both moved by a pixel down and right, and up and left.

    Raises:
        InputError: the model is no classifier of such images, gives another number of classes than the split has, or
            NaN or infinity; or an unknown `tta`.
    """
    if tta not in TEST_TIME_AUGMENTATIONS:
        raise InputError(f"the test-time augmentation is '{tta}'; {nearest(tta, TEST_TIME_AUGMENTATIONS)}")
    model = of_both_classes(model)
    expect_classifier(model, f"the model '{model.name}'", split.images.shape[1:])
    logits = sum(
        share * log_probabilities(_outputs(model, split, view), model)
        for view, share in TEST_TIME_AUGMENTATIONS[tta].items()
    )
    if logits.shape != (len(split), split.classes):
        raise InputError(
            f"the model gives {logits.shape[-1]} classes, the data has {split.classes}: not of this data set"
        )
    return Scores(normalised(logits), split.labels)


def evaluation_batches(model, split, transforms=()):
    """A split in its own order, every image once, for a model behind transforms that draw nothing."""
    layers = model._flatten_layers(include_self=False)
    tensors = [tensor for layer in layers for node in layer._inbound_nodes[:1] for tensor in node.output_tensors]
    images = [tensor.shape[1:3] for tensor in tensors if len(tensor.shape) == 4]
    large = any(None not in sides and math.prod(sides) > 96 * 96 for sides in images)
    at_once = min(_LARGE_AT_ONCE if large else _EVALUATED_AT_ONCE, len(split))
    return Batches(split, _shared(at_once, len(split)), transforms, shuffle=False)


def _shared(batch_size, images):
    """A batch size near this one by which all batches, or none, are shared evenly among devices."""
    devices = backend.device_count()
    if images % devices == 0:
        return max(batch_size // devices, 1) * devices
    return batch_size if batch_size % devices else batch_size - 1


def _outputs(model, split, view):
    outputs = model.predict(evaluation_batches(model, split, [view]), verbose=0)
    if not np.isfinite(np.asarray(outputs, np.float32)).all():
        raise InputError(f"the model '{model.name}' gives NaN or infinity: it diverged in training; leave it out")
    return outputs


def expect_classifier(model, what, image_shape=None):
    """Raises InputError unless a model goes from one image to one output (batch, classes), 2 classes or more.

    One of several sigmoids is no such model: its probabilities are each on its own. One of a single one is where
    `of_both_classes` made it such.

    Args:
        model: a `keras.Model`.
        what: it is, as the error names it.
        image_shape: (height, width, channels) that it has to take; None for any of 3 channels or 1.
    """
    taken, given = ([tensor.shape for tensor in _tensors(model, name)] for name in ("inputs", "outputs"))
    shapes = [image_shape] if image_shape else [(None, None, channels) for channels in (3, 1)]
    one_image = len(taken) == 1 and len(taken[0]) == 4 and taken[0][0] is None
    if not (one_image and any(all(map(_fits, taken[0][1:], shape)) for shape in shapes)):
        expected = " or ".join(
            f"(None, {', '.join('any' if side is None else str(side) for side in shape)})" for shape in shapes
        )
        raise InputError(f"{what} takes {_shapes(taken)}; expected a model of one image, {expected}")
    if not (len(given) == 1 and len(given[0]) == 2 and (given[0][1] or 0) > 1):
        raise InputError(f"{what} gives {_shapes(given)}; expected a classifier: (None, classes), 2 classes or more")
    if last_activation(model) in _SIGMOIDS:
        raise InputError(
            f"{what} ends in {given[0][1]} sigmoids, whose classes do not exclude one another; expected a classifier "
            "of one class an image: with a softmax, or with logits"
        )


def _fits(side, wanted):
    return side is None or wanted is None or side == wanted


def _tensors(model, name):
    return keras.tree.flatten(getattr(model, name, None) or [])


def _shapes(shapes):
    return " and ".join(map(str, shapes)) or "what it does not tell (it is no functional or sequential model)"


def of_both_classes(model):
    """A model that gives (batch, 2) probabilities, of one whose output is a sigmoid (batch, 1); another as it is.

    The sigmoid is the probability of the second class, as `keras.losses.BinaryCrossentropy` has it.
    """
    given = _tensors(model, "outputs")
    if not (len(given) == 1 and given[0].shape[1:] == (1,) and last_activation(model) in _SIGMOIDS):
        return model
    both = keras.layers.Dense(2, dtype="float32", name="both_classes")
    outputs = both(given[0])
    both.set_weights([np.array([[-1.0, 1.0]]), np.array([1.0, 0.0])])  # 1 − p and p
    return keras.Model(model.inputs, outputs, name=model.name)


def last_activation(model):
    """The name of the activation that a model's output comes from, as "softmax"; None where its layers do not tell."""
    tensor = _tensors(model, "outputs")[0]
    while True:
        layer, node, _ = tensor._keras_history
        if isinstance(layer, keras.Model) and _tensors(layer, "outputs"):
            return last_activation(layer)
        name = getattr(getattr(layer, "activation", None), "__name__", None)
        if isinstance(layer, _ONLY_SHAPING) or (isinstance(layer, keras.layers.Activation) and name == "linear"):
            tensor = layer._inbound_nodes[node].input_tensors[0]
        else:
            return name or _ACTIVATIONS.get(type(layer).__name__)


def gives_probabilities(model, outputs):
    """Whether a model's outputs (n, classes) are probabilities: of a softmax, or where `are_probabilities` says so.

    Else they are taken for logits.
    """
    return last_activation(model) == "softmax" or are_probabilities(np.asarray(outputs, np.float64))


def log_probabilities(outputs, model=None):
    """Logarithms of the probabilities that a model's outputs (n, classes) stand for, float64.

    Args:
        outputs: probabilities or logits, see `gives_probabilities`.
        model: that gave them; None where it is not known.
    """
    outputs = np.asarray(outputs, np.float64)
    if gives_probabilities(model, outputs) if model else are_probabilities(outputs):
        outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    return normalised(outputs)


def load_model(path, float32=False):
    """The model saved at `path`, uncompiled and accelerated; one of a sigmoid alone `of_both_classes`.

    Raises InputError where it is missing or damaged.

    Args:
        path: of a `.keras` file.
        float32: compute in float32, whatever precision it was trained in.
    """
    model = of_both_classes(open_model(path))
    return backend.accelerate(in_float32(model) if float32 else model)


def in_float32(model):
    """The model, whose layers compute in float32 from now on."""
    for layer in model._flatten_layers():
        layer.dtype_policy = "float32"
    return model


@contextlib.contextmanager
def _no_more_weights(most):
    """Within it, layers make no more weights than so many: those of a saved model are all in its file.

    Else a few bytes, which say that a layer has a billion units, would have Keras make and draw these first.
    """
    make, made = keras.Layer.add_weight, 0

    @functools.wraps(make)
    def counted(layer, shape=None, *args, **kwargs):
        nonlocal made
        made += math.prod(shape or ())
        if made > most:
            raise InputError(f"the layer '{layer.name}' is of shape {shape}, but its weights are not in the file")
        return make(layer, shape, *args, **kwargs)

    keras.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.Layer.add_weight = make


def open_model(path):
    """The model saved at `path`, uncompiled. Raises InputError where it is missing or damaged."""
    if Path(path).exists() and not (Path(path).is_file() and zipfile.is_zipfile(path)):  # never waits for a named pipe
        raise InputError(
            f"'{path}' cannot be opened as a Keras model: it is no whole .keras file: copy or make it again"
        )
    try:
        with reading.archive(path) as archive:
            if damaged := archive.testzip():  # of which Keras would leave what it unpacks
                raise ValueError(f"{damaged} is damaged")
            most = expect_stored(archive)
        with _no_more_weights(most), warnings.catch_warnings(record=True) as warned:
            model = keras.saving.load_model(path, compile=False)
    except MemoryError:
        raise
    except Exception as error:  # Keras raises whatever zip, JSON and HDF5 raise
        unknown = re.search(r"Could not locate (?:class|function) '(\w+)'", str(error))
        if unknown:
            raise InputError(
                f"'{path}' has a {unknown[1]} that is not Keras's; if you trust its code, give --import with its module"
            ) from None
        raise InputError(f"'{path}' cannot be opened as a Keras model: {one_line(error)}") from None
    for found in warned:
        warn_once(f"'{path}': {one_line(found.message)}")
    return model
