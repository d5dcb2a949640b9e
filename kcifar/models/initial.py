"""Initial values drawn on the host, so that a seed gives the same model on every backend."""

import math

import numpy as np
from keras import initializers, layers

from kcifar import chance

# Part of what a seed means: results depend on it.
_FIRST_PLACE = 2


class _Drawn(initializers.Initializer):
    """Zeros, until `draw_initial_values` draws what the initializer in it describes.

    Keras would draw values that nobody uses; JAX compiles a program for each shape to do so, 4 s for ResNet-20.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        return np.zeros(shape, dtype)


class _DrawnIdentity(_Drawn):
    """As `_Drawn`, and then the first filters are such that each gives one channel of its input."""


def draw_initial_values(model, seed):
    """Gives every kernel and bias of `model` that starts from an initializer of this module its values, by NumPy.

    Each layer has a stream of its own (`kcifar.chance`, the layer's place as the step), so adding a layer behind does
    not change those before it, nor does what is in front of the network. From then on the layer has the stock
    initializer, as its configuration says it.

    Args:
        model: a built `keras.Model`.
        seed: int in [0, 2**64).
    """
    before = (layers.InputLayer, layers.Resizing, layers.Cropping2D, layers.Normalization)
    drawn = [layer for layer in model.layers if not isinstance(layer, before)]
    for place, layer in enumerate(drawn, start=_FIRST_PLACE):
        rng = chance.generator(seed, chance.WEIGHTS, step=place)
        for name in ("kernel", "bias"):
            initializer = getattr(layer, f"{name}_initializer", None)
            if isinstance(initializer, _Drawn):
                variable = getattr(layer, name)
                values = _draw(initializer.initializer, rng, variable.shape).astype("float32")
                variable.assign(_identity_first(values) if isinstance(initializer, _DrawnIdentity) else values)
                setattr(layer, f"{name}_initializer", initializer.initializer)


def he_normal(fan):
    """Normal with deviation √(2/fan), fan being `fan_in` or `fan_out`: PyTorch's `kaiming_normal_`.

    Keras's own HeNormal is truncated; PyTorch's is not.
    """
    return _Drawn(initializers.VarianceScaling(2.0, fan, "untruncated_normal"))


def normal(deviation):
    """Normal around 0 with this deviation: PyTorch's `normal_`."""
    return _Drawn(initializers.RandomNormal(0.0, deviation))


def pytorch_uniform(fan_in):
    """Where PyTorch's linear and convolution layers start: kernel and bias uniform in ±1/√fan_in, as arguments."""
    bound = 1 / math.sqrt(fan_in)
    return {
        "kernel_initializer": _Drawn(initializers.RandomUniform(-bound, bound)),
        "bias_initializer": _Drawn(initializers.RandomUniform(-bound, bound)),
    }


def identity_uniform(fan_in):
    """A kernel that starts as the identity on its input's channels; filters beyond these are uniform in ±1/√fan_in.

    `torch.nn.init.dirac_` on the first filters, in PyTorch's start for the others (Jordan 2024, arXiv 2404.00498,
    section 3.3), of a convolution with an odd size.
    """
    bound = 1 / math.sqrt(fan_in)
    return _DrawnIdentity(initializers.RandomUniform(-bound, bound))


def _identity_first(kernel):
    height, width, channels, filters = kernel.shape
    alike = min(channels, filters)
    kernel[..., :alike] = 0
    kernel[height // 2, width // 2, range(alike), range(alike)] = 1
    return kernel


def _draw(initializer, rng, shape):
    if isinstance(initializer, initializers.RandomUniform):
        return rng.uniform(initializer.minval, initializer.maxval, shape)
    if isinstance(initializer, initializers.RandomNormal):
        return rng.normal(initializer.mean, initializer.stddev, shape)
    receptive_field = math.prod(shape[:-2])
    fans = {"fan_in": shape[-2] * receptive_field, "fan_out": shape[-1] * receptive_field}
    return rng.normal(0, math.sqrt(initializer.scale / fans[initializer.mode]), shape)
