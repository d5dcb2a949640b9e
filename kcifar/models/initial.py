"""Initial values drawn on the host, so that a seed gives the same model on every backend."""

import math

from keras import initializers, layers

from kcifar import chance

# Part of what a seed means: results depend on it.
_FIRST_PLACE = 2
_DRAW_NOTHING = (initializers.Zeros, initializers.Ones, initializers.Constant, type(None))


def draw_initial_values(model, seed):
    """Overwrites every kernel and bias of `model` with values that its stock initializer describes, drawn by NumPy.

    Each layer has a stream of its own (`kcifar.chance`, the layer's place as the step), so adding a layer behind does
    not change those before it, nor does what is in front of the network. Initializers that draw nothing (zeros, ones)
    are left to Keras.

    Args:
        model: a built `keras.Model` whose layers use `VarianceScaling`, `RandomUniform` or `RandomNormal`.
        seed: int in [0, 2**64).

    Raises:
        NotImplementedError: a layer starts from another random initializer.
    """
    before = (layers.InputLayer, layers.Resizing, layers.Cropping2D, layers.Normalization)
    drawn = [layer for layer in model.layers if not isinstance(layer, before)]
    for place, layer in enumerate(drawn, start=_FIRST_PLACE):
        rng = chance.generator(seed, chance.WEIGHTS, step=place)
        for name in ("kernel", "bias"):
            initializer = getattr(layer, f"{name}_initializer", None)
            if not isinstance(initializer, _DRAW_NOTHING):
                variable = getattr(layer, name)
                variable.assign(_draw(initializer, rng, variable.shape).astype("float32"))


def pytorch_uniform(fan_in):
    """Where PyTorch's linear and convolution layers start: kernel and bias uniform in ±1/√fan_in, as arguments."""
    bound = 1 / math.sqrt(fan_in)
    return {
        "kernel_initializer": initializers.RandomUniform(-bound, bound),
        "bias_initializer": initializers.RandomUniform(-bound, bound),
    }


def _draw(initializer, rng, shape):
    if isinstance(initializer, initializers.RandomUniform):
        return rng.uniform(initializer.minval, initializer.maxval, shape)
    if isinstance(initializer, initializers.RandomNormal):
        return rng.normal(initializer.mean, initializer.stddev, shape)
    if isinstance(initializer, initializers.VarianceScaling):
        return _variance_scaling(initializer, rng, shape)
    raise NotImplementedError(f"initial values from {type(initializer).__name__}")


def _variance_scaling(initializer, rng, shape):
    receptive_field = math.prod(shape[:-2])
    fan_in, fan_out = shape[-2] * receptive_field, shape[-1] * receptive_field
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[initializer.mode]
    std = math.sqrt(initializer.scale / fan)
    if initializer.distribution == "untruncated_normal":
        return rng.normal(0, std, shape)
    if initializer.distribution == "uniform":
        return rng.uniform(-math.sqrt(3) * std, math.sqrt(3) * std, shape)
    raise NotImplementedError(f"initial values from a {initializer.distribution}")
