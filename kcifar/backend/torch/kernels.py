"""What a known layer computes, as one native call each.

Stock Keras on torch computes BatchNorm as a chain of elementwise operations and copies around every convolution. The
kernels here take and give images as torch does, (batch, channels, height, width), in channels_last memory: a view of
Keras's (batch, height, width, channels), so nothing is copied. Values of other ranks are Keras's own.

A layer that is not known has no kernel, and runs as stock Keras runs it. To be known its class must be exactly a stock
one, in channels_last (or a ZeroPadding2D) and without LoRA or quantization, of dtype float32, float64 or bfloat16.
"""

import functools
import operator

import keras
import torch
from keras import layers, ops

from kcifar.backend.torch import activation, resize, window
from kcifar.backend.torch.batch_norm import batch_norm
from kcifar.backend.torch.kernel import (
    Kernel,
    NativeCall,
    bias_of,
    cast,
    channels_first,
    channels_last,
    identity,
    stock_call,
)

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def kernel_of(layer, ranks):
    """The kernel of a layer whose inputs have these ranks (a tuple of ints); None for a layer that is not known."""
    maker = _MAKERS.get(type(layer))
    dtype = _DTYPES.get(getattr(layer, "compute_dtype", None))
    if maker is None or dtype is None or _is_special(layer) or (dtype == torch.float64 and not _keeps_float64()):
        return None
    return maker(layer, dtype, ranks)


@functools.cache
def _keeps_float64():
    """Whether float64 stays float64 in stock layers. From Keras 3.16 on some of them, and not all, give float32."""
    value = torch.zeros((), dtype=torch.float64)
    return ops.add(value, value).dtype == torch.float64


_MAY_CHANGE = (
    *("_calibration_capture", "_remat_mode", "activation", "activity_regularizer", "alpha", "antialias", "autocast"),
    *("axis", "crop_to_aspect_ratio", "cropping", "data_format", "dilation_rate", "dtype_policy", "groups"),
    *("interpolation", "invert", "lora_enabled", "max_value", "negative_slope", "noise_shape", "pad_to_aspect_ratio"),
    *("padding", "pool_size", "quantization_mode", "renorm", "seed", "strides", "threshold"),
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def configuration(layer):
    """A function that reads what may change on a layer and makes its kernel another one: a tuple.

    All else the kernels read at each call.
    """
    names = [name for name in _MAY_CHANGE if hasattr(layer, name)]
    settings = operator.attrgetter("built", "__class__", *names)
    return lambda: (settings(layer), has_hooks(layer), own_call(layer), _dtypes(layer))


def _dtypes(layer):
    return [variable._value.dtype for variable in layer._trainable_variables]


def may_have_kernel(layer):
    """Whether a layer is of a class that is known, so that with other settings it may have a kernel."""
    return type(layer) in _MAKERS


def has_hooks(layer):
    """Whether torch is to call somebody's function before or behind this layer or model."""
    return any(getattr(layer, name, None) for name in _HOOKS)


def own_call(layer):
    """The `call` that somebody else has set on this one layer or model, or on its class; None where that is Keras's."""
    call = vars(layer).get("call")
    if call is not None and not isinstance(call, NativeCall):
        return call
    kind = type(layer)
    return None if kind.call is _CALLS.get(kind, kind.call) else kind.call


def _is_special(layer):
    return (
        (getattr(layer, "data_format", "channels_last") != "channels_last" and type(layer) is not layers.ZeroPadding2D)
        or getattr(layer, "lora_enabled", False)
        or getattr(layer, "quantization_mode", None) is not None
        or getattr(layer, "_calibration_capture", None) is not None  # from Keras 3.16 on: it wants to see the inputs
        or layer.activity_regularizer is not None
        or layer._remat_mode is not None
        or not layer.autocast
        or has_hooks(layer)
        or own_call(layer) is not None
        or any(dtype != _DTYPES.get(layer.variable_dtype) for dtype in _dtypes(layer))  # as behind `model.double()`
    )


def _batch_normalization(layer, dtype, ranks):
    axis = layer.axis % ranks[0]
    if layer.renorm or ranks[0] not in (2, 4) or axis != ranks[0] - 1 or layer.variable_dtype != "float32":
        return None
    if dtype == torch.float64:
        return None

    def run(training, x):
        moving = layer.moving_mean._value, layer.moving_variance._value
        learns = training and layer.trainable
        # Of one value a channel, or none, torch knows no statistics; by statistics that it is given no gradient.
        unknown = x.numel() <= x.shape[1] if learns else any(statistic.requires_grad for statistic in moving)
        if unknown:
            return channels_first(stock_call(layer, channels_last(x), training=training).to(dtype))
        x = x.to(dtype)
        gamma = layer.gamma._value if layer.scale else torch.ones_like(moving[0])
        beta = layer.beta._value if layer.center else torch.zeros_like(moving[0])
        if learns:
            return batch_norm(x, gamma, beta, *moving, layer.momentum, layer.epsilon)
        if torch.is_grad_enabled():  # the backward pass reads them, when a call in training may have moved them
            moving = moving[0].clone(), moving[1].clone()
        return torch.batch_norm(x, gamma, beta, *moving, False, 0.0, layer.epsilon, True)

    return Kernel(run, overwritable=True)


def _global_average_pooling2d(layer, dtype, ranks):
    return Kernel(lambda training, x: cast(x, dtype).mean((2, 3), keepdim=layer.keepdims))


def _global_max_pooling2d(layer, dtype, ranks):
    return Kernel(lambda training, x: cast(x, dtype).amax((2, 3), keepdim=layer.keepdims))


def _flatten(layer, dtype, ranks):
    return Kernel(lambda training, x: channels_last(cast(x, dtype)).flatten(1)) if ranks[0] > 1 else None


def _dense(layer, dtype, ranks):
    if ranks != (2,):
        return None
    activate = activation.fused(layer.activation)

    def run(training, x):
        x, weight, bias = cast(x, dtype), layer._kernel._value.to(dtype), bias_of(layer, dtype)
        return activate(x @ weight if bias is None else torch.addmm(bias, x, weight))

    return Kernel(run, overwritable=activation.is_linear(layer.activation))


def _normalization(layer, dtype, ranks):
    if ranks != (4,) or layer.invert or layer.mean is None or tuple(layer.mean.shape[:3]) != (1, 1, 1):
        return None

    @functools.lru_cache(maxsize=1)
    @torch.inference_mode(False)  # kept for calls that gradients go through
    def constants(mean, variance):  # looked up again where the layer has other ones
        mean, variance = (channels_first(ops.convert_to_tensor(v, layer.compute_dtype)) for v in (mean, variance))
        return mean, variance.sqrt().clamp_min(keras.config.epsilon())

    def run(training, x):
        mean, deviation = constants(layer.mean, layer.variance)
        return (cast(x, dtype) - mean).div_(deviation)

    return Kernel(run)


def _merging(merge):
    def make(layer, dtype, ranks):
        if len(set(ranks)) != 1 or layer._reshape_required:
            return None
        if len(ranks) == 1:
            return identity(dtype)
        return Kernel(lambda training, *inputs: merge([cast(x, dtype) for x in inputs]), overwritable=True)

    return make


def _add(inputs):
    return functools.reduce(torch.add, inputs)


def _multiply(inputs):
    return functools.reduce(torch.mul, inputs)


def _concatenate(layer, dtype, ranks):
    if len(set(ranks)) != 1 or layer.axis % ranks[0] != ranks[0] - 1:
        return None
    return Kernel(lambda training, *inputs: torch.cat([cast(x, dtype) for x in inputs], dim=1 if ranks[0] == 4 else -1))


def _stock(layer, dtype, ranks):
    """The layer's own `call`, without the checks and scopes around it."""
    if layer._call_has_training_arg:
        return Kernel(lambda training, x: stock_call(layer, cast(x, dtype), training=bool(training)), stock_layout=True)
    return Kernel(lambda training, x: stock_call(layer, cast(x, dtype)), stock_layout=True)


def _dropout(layer, dtype, ranks):
    """With a seed the mask is stock Keras's to the bit: Bernoulli from a generator seeded by seed + counter."""
    if layer.noise_shape is not None or layer.seed is None:
        return _stock(layer, dtype, ranks)

    def run(training, x):
        x = cast(x, dtype)
        if not training or layer.rate == 0:
            return x
        if layer.rate == 1 or x.device.type != "cpu":
            return stock_call(layer, x, training=True)
        state = layer.seed_generator.state._value
        seed = sum(state.tolist()) & 0xFFFFFFFF
        state.data[1] += 1
        keep = 1.0 - layer.rate
        generator = torch.Generator().manual_seed(seed)
        mask = torch.bernoulli(torch.full(x.shape, keep), generator=generator)
        return x / keep * mask.to(dtype)

    return Kernel(run, stock_layout=True)


_MAKERS = {
    layers.Conv2D: window.conv2d,
    layers.DepthwiseConv2D: window.depthwise_conv2d,
    layers.SeparableConv2D: window.separable_conv2d,
    layers.BatchNormalization: _batch_normalization,
    layers.MaxPooling2D: window.max_pooling2d,
    layers.AveragePooling2D: window.average_pooling2d,
    layers.GlobalAveragePooling2D: _global_average_pooling2d,
    layers.GlobalMaxPooling2D: _global_max_pooling2d,
    layers.ZeroPadding2D: window.zero_padding2d,
    layers.Flatten: _flatten,
    layers.Dense: _dense,
    layers.Activation: activation.activation_layer,
    layers.ReLU: activation.relu,
    layers.LeakyReLU: activation.leaky_relu,
    layers.ELU: activation.elu,
    layers.Normalization: _normalization,
    layers.Resizing: resize.resizing,
    layers.Cropping2D: resize.cropping2d,
    layers.Add: _merging(_add),
    layers.Multiply: _merging(_multiply),
    layers.Concatenate: _concatenate,
    layers.Dropout: _dropout,
    layers.Reshape: _stock,
    layers.Rescaling: _stock,
}
_CALLS = {kind: kind.call for kind in _MAKERS}
