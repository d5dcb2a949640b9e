"""What several transforms do with their parameters: checks, and the draw of the images that they are for."""

import numbers

import keras
import numpy as np

from kcifar.errors import InputError


def expect_probability(transform, probability, name="probability"):
    """Raises InputError unless it is a number from 0 to 1."""
    if not (is_number(probability) and 0 <= probability <= 1):
        raise InputError(f"{transform}({name}={probability!r}): expected a number from 0 to 1")


def expect_alpha(transform, name, alpha, above=False):
    """Raises InputError unless it is a number ≥ 0, or above that."""
    if not (is_number(alpha) and alpha >= 0 and (alpha or not above)):
        raise InputError(f"{transform}({name}={alpha!r}): expected a number {'above' if above else '≥'} 0")


def expect_one_hot(transform, images, labels):
    """Raises InputError unless labels are (batch, classes) and can hold fractions of classes."""
    dtype, shape = keras.backend.standardize_dtype(labels.dtype), tuple(labels.shape)
    if len(shape) != 2 or shape[0] != images.shape[0] or "int" in dtype:
        raise InputError(
            f"{transform} mixes labels, and needs them one-hot, float32 (batch, classes); these are {dtype} {shape}: "
            "use keras.ops.one_hot"
        )


def expect_rgb_or_grey(transform, image_shape, colours=()):
    """Raises InputError unless images have three channels, or one where `colours`, arguments that change what grey has
    none of, are none."""
    channels = image_shape[2]
    if channels not in (1, 3):
        raise InputError(f"{transform}: these images have {channels} channels; expected RGB or grey: leave it out")
    if channels == 1 and colours:
        zero = " and ".join(f"{name}=0" for name in colours)
        raise InputError(f"{transform}: images of 1 channel have no {' or '.join(colours)}; expected RGB: set {zero}")


def interval(transform, name, value, below=np.inf, given=None):
    """(low, high) of a pair, or (−value, value) of a number ≥ 0.

    Args:
        below: both are smaller than that, whatever their signs.
        given: what the error shows, where it is not the value.

    Raises:
        InputError: neither of them, or outside of it.
    """
    low, high = (-value, value) if is_number(value) else value if is_pair(value) else (np.nan, np.nan)
    if not -below < low <= high < below:
        limit = "" if below == np.inf else f", below {below:g}"
        shown = value if given is None else given
        raise InputError(f"{transform}({name}={shown!r}): expected a number ≥ 0, or two in order{limit}")
    return float(low), float(high)


def is_pair(value):
    """Whether it is a list or tuple of two finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_number(item) for item in value)


def chosen(rng, probability, batch_size):
    """Which images a transform is for: bool (batch,). Draws nothing where it is for all."""
    return np.ones(batch_size, bool) if probability == 1 else rng.random(batch_size) < probability


def is_number(value):
    """Whether it is one, and finite."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and np.isfinite(value)


def is_whole(value):
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
