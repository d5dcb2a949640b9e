"""Kernels of activations: inside a layer, and as one.

A function named after a layer makes its kernel, or None where it is not known, from the layer, the torch dtype that it
computes in, and the ranks of its inputs.
"""

import functools
from collections.abc import Hashable

import keras
import torch
import torch.nn.functional as F
from keras import activations

from kcifar.backend.torch.kernel import Kernel, cast, channels_first, channels_last, identity


def _floating(x):
    """Whole numbers as floats, as from Keras 3.16 on."""
    return x if x.is_floating_point() else x.to(getattr(torch, keras.config.floatx()))


def _elementwise(run, overwriting=None):
    return Kernel(lambda training, x: run(x), overwriting=overwriting and (lambda training, x: overwriting(x)))


_ACTIVATIONS = {
    # Overwriting only where the gradient can be had from the result.
    None: _elementwise(lambda x: x),
    activations.linear: _elementwise(lambda x: x),
    activations.relu: _elementwise(torch.relu, torch.relu_),
    activations.relu6: _elementwise(F.relu6, functools.partial(F.relu6, inplace=True)),
    activations.elu: _elementwise(F.elu, functools.partial(F.elu, inplace=True)),
    activations.sigmoid: _elementwise(torch.sigmoid, torch.sigmoid_),
    activations.tanh: _elementwise(torch.tanh, torch.tanh_),
    activations.silu: _elementwise(F.silu),
    activations.hard_sigmoid: _elementwise(lambda x: F.hardsigmoid(_floating(x))),
    activations.hard_silu: _elementwise(lambda x: F.hardswish(_floating(x))),
}


def _activation(function):
    known = _ACTIVATIONS.get(function) if isinstance(function, Hashable) else None
    return known or _elementwise(lambda x: channels_first(function(channels_last(x))))


def _in_dtype(kernel, dtype):
    """The kernel of an elementwise layer, which first casts its input: a copy may be overwritten as well."""
    overwriting = kernel.overwriting
    return Kernel(
        lambda training, x: kernel.run(training, cast(x, dtype)),
        overwriting=overwriting and (lambda training, x: overwriting(training, cast(x, dtype))),
    )


def activation_layer(layer, dtype, ranks):
    if is_linear(layer.activation):
        return identity(dtype)
    return _in_dtype(_activation(layer.activation), dtype)


def relu(layer, dtype, ranks):
    slope, top = layer.negative_slope, layer.max_value
    if layer.threshold or (top is not None and (top != 6 or slope)):
        return None
    if slope:
        return _in_dtype(_leaky(slope), dtype)
    return _in_dtype(_ACTIVATIONS[activations.relu if top is None else activations.relu6], dtype)


def leaky_relu(layer, dtype, ranks):
    return _in_dtype(_leaky(layer.negative_slope), dtype)


def _leaky(slope):
    def run(x, inplace=False):
        return F.leaky_relu(_floating(x), slope, inplace)

    return _elementwise(run, functools.partial(run, inplace=True) if slope > 0 else None)


def elu(layer, dtype, ranks):
    overwriting = functools.partial(F.elu, alpha=layer.alpha, inplace=True) if layer.alpha >= 0 else None
    return _in_dtype(_elementwise(functools.partial(F.elu, alpha=layer.alpha), overwriting), dtype)


def fused(function):
    """The activation inside a layer: nobody else sees what it is applied to, so it may be overwritten."""
    activation = _activation(function)
    run = activation.overwriting or activation.run
    return lambda x: run(True, x)


def is_linear(function):
    return function in (None, activations.linear)
