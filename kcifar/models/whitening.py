"""A first convolution that whitens the patches of the images."""

import keras
import numpy as np
from keras import layers, ops

from kcifar.errors import InputError

_AT_ONCE = 500  # images
_LEAST = 1e-6  # of the largest eigenvalue: a direction with less does not vary


def whiten(model, images, epsilon=5e-4):
    """Makes the filters of a model's first convolution those that whiten the patches of images, and freezes them.

    Each eigenvector v of the patches' second moments, with eigenvalue λ, gives the filter v/√(λ + ε), and its negative
    another one: what they give of these patches is uncorrelated, with a mean square of 1. In ascending order of λ, the
    negatives behind; an eigenvector's largest component is positive. The bias becomes 0 and is trained on.

    Page 2019 ("How to train your ResNet 8: Bag of tricks") as a frozen first layer; Jordan 2024, arXiv 2404.00498,
    section 3.2, with the negatives.

    Args:
        model: a built `keras.Model` from images, with a `Conv2D` of twice as many filters as a patch has values. What
            is in front of it, as a normalisation, is applied first.
        images: (n, height, width, channels) as the model takes them, training images; a few thousand do.
        epsilon: ε > 0, in squares of what the convolution sees.

    Returns:
        The convolution.

    Raises:
        InputError: no such convolution; an ε that is not above 0; fewer patches than a patch has values; constant or
            infinite images.
    """
    if not (isinstance(epsilon, (int, float)) and 0 < epsilon < np.inf):
        raise InputError(f"whiten(epsilon={epsilon!r}): expected a number above 0")
    conv = _first_convolution(model)
    size, channels, filters = conv.kernel_size, conv.kernel.shape[2], conv.filters
    values = size[0] * size[1] * channels
    if filters != 2 * values:
        raise InputError(
            f"the first convolution of '{model.name}', {conv.name}, has {filters} filters; expected {2 * values}, two "
            f"for each of the {values} values of a patch of {size[0]}×{size[1]}×{channels}"
        )
    eigenvalues, vectors = _eigenvectors(_moments(model, conv, images), channels)
    scaled = (vectors / np.sqrt(eigenvalues + epsilon)).reshape(*size, channels, values)
    conv.kernel.assign(np.concatenate([scaled, -scaled], axis=-1).astype("float32"))
    conv.kernel.trainable = False
    if conv.use_bias:
        conv.bias.assign(np.zeros(filters, "float32"))
    return conv


def _first_convolution(model):
    found = next((layer for layer in model.layers if type(layer) is layers.Conv2D), None)
    if found is None:
        raise InputError(f"'{model.name}' has no convolution to whiten patches with; expected a Conv2D as first layer")
    return found


def _moments(model, conv, images):
    """The patches' matrix of second moments, float64 (values, values), a value being (row, column, channel)."""
    front = keras.Model(model.input, conv.input)
    total, count = 0.0, 0
    for first in range(0, len(images), _AT_ONCE):
        seen = ops.convert_to_numpy(front(images[first : first + _AT_ONCE], training=False)).astype("float64")
        patches = _patches(seen, conv.kernel_size)
        total, count = total + patches.T @ patches, count + len(patches)
    values = np.prod(conv.kernel_size) * conv.kernel.shape[2]
    if count < values:
        raise InputError(
            f"whiten: {len(images)} images have {count} patches, of {values} values each; give more images"
        )
    return total / count


def _patches(images, size):
    windows = np.lib.stride_tricks.sliding_window_view(images, size, axis=(1, 2))
    return np.moveaxis(windows, 3, -1).reshape(-1, size[0] * size[1] * images.shape[-1])


def _eigenvectors(moments, channels):
    """Eigenvalues in ascending order, and the eigenvectors as columns."""
    if not np.isfinite(moments).all():
        raise InputError("whiten: the images have values that are not finite")
    eigenvalues, vectors = np.linalg.eigh(moments)
    if (eigenvalues > _LEAST * max(eigenvalues[-1], _LEAST)).sum() <= channels:
        raise InputError(
            "whiten: the images are constant, each of one colour, and patches of them have nothing to whiten; expected "
            "images that vary"
        )
    largest = vectors[np.abs(vectors).argmax(axis=0), range(len(vectors))]
    return eigenvalues.clip(0), vectors * np.sign(largest)
