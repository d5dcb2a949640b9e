"""What a known layer computes, as one native call each.

Stock Keras on torch computes BatchNorm as a chain of elementwise operations and copies around every convolution. The
kernels here take and give images as torch does, (batch, channels, height, width), in channels_last memory: a view of
Keras's (batch, height, width, channels), so nothing is copied. Values of other ranks are Keras's own.

A layer that is not known has no kernel, and runs as stock Keras runs it. To be known its class must be exactly a stock
one, in channels_last and without LoRA or quantization, of dtype float32, float64 or bfloat16.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import torch
import torch.nn.functional as F
from keras import activations, layers, ops

from kcifar.backend.torch.batch_norm import batch_norm

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A layer's computation.

    Attributes:
        run: (training, *inputs) -> output.
        overwritable: the output is a tensor of its own which the backward pass of this layer does not read.
        overwriting: the same as `run`, in the memory of its input; None where there is no such form.
        stock_layout: images are taken and given as (batch, height, width, channels).
        padding: (rows, columns) of zeros that it puts on each side of an image and does nothing else.
        padded: a function of such a padding that gives this kernel with it in front; None where there is no such form.
    """

    run: Callable
    overwritable: bool = False
    overwriting: Callable | None = None
    stock_layout: bool = False
    padding: tuple[int, int] | None = None
    padded: Callable | None = None


def kernel_of(layer, ranks):
    """The kernel of a layer whose inputs have these ranks (a tuple of ints); None for a layer that is not known."""
    maker = _MAKERS.get(type(layer))
    dtype = _DTYPES.get(getattr(layer, "compute_dtype", None))
    if maker is None or dtype is None or _is_special(layer):
        return None
    return maker(layer, dtype, ranks)


def configuration(layer):
    """What may change on a layer and makes its kernel another one."""
    return (
        getattr(layer, "activation", None),
        getattr(layer, "lora_enabled", False),
        getattr(layer, "quantization_mode", None),
    )


def channels_first(image):
    """(batch, height, width, channels) as (batch, channels, height, width), a view; other ranks as they are."""
    return image.permute(0, 3, 1, 2) if image.ndim == 4 else image


def channels_last(image):
    """(batch, channels, height, width) as (batch, height, width, channels), a view; other ranks as they are."""
    return image.permute(0, 2, 3, 1) if image.ndim == 4 else image


def _is_special(layer):
    return (
        getattr(layer, "data_format", "channels_last") != "channels_last"
        or getattr(layer, "lora_enabled", False)
        or getattr(layer, "quantization_mode", None) is not None
        or layer.activity_regularizer is not None
        or layer._remat_mode is not None
        or not layer.autocast
    )


def _cast(x, dtype):
    """As Keras casts a layer's inputs: whole numbers stay."""
    return x.to(dtype) if x.is_floating_point() else x


# Convolutions


def _conv2d(layer, dtype, ranks):
    return _convolution(layer, dtype, layer._kernel, _oihw, layer.groups)


def _depthwise_conv2d(layer, dtype, ranks):
    channels = layer.kernel.shape[2]
    return _convolution(layer, dtype, layer.kernel, _depthwise, channels)


def _separable_conv2d(layer, dtype, ranks):
    depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
    spread, activate = _convolving(layer, dtype, depthwise, _depthwise, depthwise.shape[2]), _fused(layer.activation)

    def run(training, x):
        return activate(F.conv2d(spread(x, None), _oihw(pointwise._value).to(dtype), _bias(layer, dtype)))

    return Kernel(run, overwritable=_is_linear(layer.activation))


def _convolution(layer, dtype, kernel, to_torch, groups, padding=0):
    convolve, activate = _convolving(layer, dtype, kernel, to_torch, groups, padding), _fused(layer.activation)
    padded = functools.partial(_convolution, layer, dtype, kernel, to_torch, groups)
    return Kernel(
        lambda training, x: activate(convolve(x, _bias(layer, dtype))),
        overwritable=_is_linear(layer.activation),
        padded=padded if layer.padding == "valid" else None,
    )


def _convolving(layer, dtype, kernel, to_torch, groups, given_padding=0):
    """A function of an image and a bias."""
    size, strides, dilation = kernel.shape[:2], tuple(layer.strides), tuple(layer.dilation_rate)
    pad = _same_padding(size, strides, dilation) if layer.padding == "same" else None

    def convolve(x, bias):
        x, padding = pad(_cast(x, dtype)) if pad else (_cast(x, dtype), given_padding)
        return F.conv2d(x, to_torch(kernel._value).to(dtype), bias, strides, padding, dilation, groups)

    return convolve


def _oihw(kernel):
    return kernel.permute(3, 2, 0, 1)


def _depthwise(kernel):
    return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)


def _same_padding(size, strides, dilation=(1, 1), mode="constant"):
    """A function of an image: padded where the two sides differ, and the padding that is left to torch."""

    @functools.cache
    def amounts(height, width):
        return tuple(
            _split(side, k, s, d) for side, k, s, d in zip((height, width), size, strides, dilation, strict=True)
        )

    def pad(x):
        (top, bottom), (left, right) = amounts(*x.shape[2:])
        if top == bottom and left == right:
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom), mode), 0

    return pad


def _split(side, size, stride, dilation):
    """The pixels before and behind, as in TensorFlow: the odd one goes behind."""
    reach = (size - 1) * dilation + 1
    total = reach - 1 if stride == 1 else max(0, (-(-side // stride) - 1) * stride + reach - side)
    return total // 2, total - total // 2


def _bias(layer, dtype):
    return None if layer.bias is None else layer.bias._value.to(dtype)


def _fused(function):
    """The activation inside a layer: nobody else sees what it is applied to, so it may be overwritten."""
    activation = _activation(function)
    run = activation.overwriting or activation.run
    return lambda x: run(True, x)


def _is_linear(function):
    return function in (None, activations.linear)


# Batch normalisation


def _batch_normalization(layer, dtype, ranks):
    axis = layer.axis % ranks[0]
    if layer.renorm or ranks[0] not in (2, 4) or axis != ranks[0] - 1 or layer.variable_dtype != "float32":
        return None
    if dtype == torch.float64:
        return None

    def run(training, x):
        x = _cast(x, dtype)
        moving = layer.moving_mean._value, layer.moving_variance._value
        gamma = layer.gamma._value if layer.scale else torch.ones_like(moving[0])
        beta = layer.beta._value if layer.center else torch.zeros_like(moving[0])
        if not (training and layer.trainable):
            return torch.batch_norm(x, gamma, beta, *moving, False, 0.0, layer.epsilon, True)
        if x.numel() == x.shape[1]:  # one value a channel, which torch refuses
            return channels_first(layer.__class__.call(layer, channels_last(x), training=True).to(dtype))
        return batch_norm(x, gamma, beta, *moving, layer.momentum, layer.epsilon)

    return Kernel(run, overwritable=True)


# Pooling and shape


def _max_pooling2d(layer, dtype, ranks):
    return _pooling(layer, dtype, F.max_pool2d)


def _average_pooling2d(layer, dtype, ranks):
    return _pooling(layer, dtype, functools.partial(F.avg_pool2d, count_include_pad=False))


def _pooling(layer, dtype, pool):
    size, strides = tuple(layer.pool_size), tuple(layer.strides)
    pad = _same_padding(size, strides, mode="replicate") if layer.padding == "same" else None

    def run(training, x):
        x, padding = pad(_cast(x, dtype)) if pad else (_cast(x, dtype), 0)
        return pool(x, size, strides, padding)

    return Kernel(run)


def _global_average_pooling2d(layer, dtype, ranks):
    return Kernel(lambda training, x: _cast(x, dtype).mean((2, 3), keepdim=layer.keepdims))


def _global_max_pooling2d(layer, dtype, ranks):
    return Kernel(lambda training, x: _cast(x, dtype).amax((2, 3), keepdim=layer.keepdims))


def _zero_padding2d(layer, dtype, ranks):
    (top, bottom), (left, right) = layer.padding
    return Kernel(
        lambda training, x: F.pad(_cast(x, dtype), (left, right, top, bottom)),
        overwritable=True,
        padding=(top, left) if top == bottom and left == right else None,
    )


def _flatten(layer, dtype, ranks):
    return Kernel(lambda training, x: channels_last(_cast(x, dtype)).flatten(1)) if ranks[0] > 1 else None


# Dense, elementwise, merging


def _dense(layer, dtype, ranks):
    if ranks != (2,):
        return None
    kernel, activate = layer._kernel, _fused(layer.activation)

    def run(training, x):
        x, weight, bias = _cast(x, dtype), kernel._value.to(dtype), _bias(layer, dtype)
        return activate(x @ weight if bias is None else torch.addmm(bias, x, weight))

    return Kernel(run, overwritable=_is_linear(layer.activation))


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
    activations.hard_sigmoid: _elementwise(F.hardsigmoid),
    activations.hard_silu: _elementwise(F.hardswish),
}


def _activation(function):
    known = _ACTIVATIONS.get(function) if function is None or hasattr(function, "__hash__") else None
    return known or _elementwise(lambda x: channels_first(function(channels_last(x))))


def _in_dtype(kernel, dtype):
    """The kernel of an elementwise layer, which first casts its input: a copy may be overwritten as well."""
    overwriting = kernel.overwriting
    return Kernel(
        lambda training, x: kernel.run(training, _cast(x, dtype)),
        overwriting=overwriting and (lambda training, x: overwriting(training, _cast(x, dtype))),
    )


def _activation_layer(layer, dtype, ranks):
    return _in_dtype(_activation(layer.activation), dtype)


def _relu(layer, dtype, ranks):
    slope, top = layer.negative_slope, layer.max_value
    if layer.threshold or (top is not None and (top != 6 or slope)):
        return None
    if slope:
        return _in_dtype(_leaky(slope), dtype)
    return _in_dtype(_ACTIVATIONS[activations.relu if top is None else activations.relu6], dtype)


def _leaky_relu(layer, dtype, ranks):
    return _in_dtype(_leaky(layer.negative_slope), dtype)


def _leaky(slope):
    overwriting = functools.partial(F.leaky_relu, negative_slope=slope, inplace=True) if slope > 0 else None
    return _elementwise(functools.partial(F.leaky_relu, negative_slope=slope), overwriting)


def _elu(layer, dtype, ranks):
    overwriting = functools.partial(F.elu, alpha=layer.alpha, inplace=True) if layer.alpha >= 0 else None
    return _in_dtype(_elementwise(functools.partial(F.elu, alpha=layer.alpha), overwriting), dtype)


def _normalization(layer, dtype, ranks):
    if ranks != (4,) or layer.invert or layer.mean is None or tuple(layer.mean.shape[:3]) != (1, 1, 1):
        return None

    @functools.lru_cache(maxsize=1)
    def constants(mean, variance):  # looked up again where the layer has other ones
        mean, variance = (channels_first(ops.convert_to_tensor(v, layer.compute_dtype)) for v in (mean, variance))
        return mean, variance.sqrt().clamp_min(keras.config.epsilon())

    def run(training, x):
        mean, deviation = constants(layer.mean, layer.variance)
        return (_cast(x, dtype) - mean).div_(deviation)

    return Kernel(run)


def _merging(merge):
    def make(layer, dtype, ranks):
        if len(set(ranks)) != 1 or layer._reshape_required:
            return None
        return Kernel(lambda training, *inputs: merge([_cast(x, dtype) for x in inputs]), overwritable=True)

    return make


def _add(inputs):
    total = inputs[0] + inputs[1]
    for x in inputs[2:]:
        total += x
    return total


def _multiply(inputs):
    return functools.reduce(torch.mul, inputs)


def _concatenate(layer, dtype, ranks):
    if len(set(ranks)) != 1 or layer.axis % ranks[0] != ranks[0] - 1:
        return None
    return Kernel(
        lambda training, *inputs: torch.cat([_cast(x, dtype) for x in inputs], dim=1 if ranks[0] == 4 else -1)
    )


def _stock(layer, dtype, ranks):
    """The layer's own `call`, without the checks and scopes around it."""
    if layer._call_has_training_arg:
        return Kernel(lambda training, x: layer.call(_cast(x, dtype), training=bool(training)), stock_layout=True)
    return Kernel(lambda training, x: layer.call(_cast(x, dtype)), stock_layout=True)


def _dropout(layer, dtype, ranks):
    """With a seed the mask is stock Keras's to the bit: Bernoulli from a generator seeded by seed + counter."""
    if layer.noise_shape is not None or layer.seed is None:
        return _stock(layer, dtype, ranks)

    def run(training, x):
        x = _cast(x, dtype)
        if not training or layer.rate == 0:
            return x
        if layer.rate == 1 or x.device.type != "cpu":
            return layer.call(x, training=True)
        state = layer.seed_generator.state._value
        seed = sum(state.tolist()) & 0xFFFFFFFF
        state.data[1] += 1
        keep = 1.0 - layer.rate
        generator = torch.Generator().manual_seed(seed)
        mask = torch.bernoulli(torch.full(x.shape, keep), generator=generator)
        return x / keep * mask.to(dtype)

    return Kernel(run, stock_layout=True)


_MAKERS = {
    layers.Conv2D: _conv2d,
    layers.DepthwiseConv2D: _depthwise_conv2d,
    layers.SeparableConv2D: _separable_conv2d,
    layers.BatchNormalization: _batch_normalization,
    layers.MaxPooling2D: _max_pooling2d,
    layers.AveragePooling2D: _average_pooling2d,
    layers.GlobalAveragePooling2D: _global_average_pooling2d,
    layers.GlobalMaxPooling2D: _global_max_pooling2d,
    layers.ZeroPadding2D: _zero_padding2d,
    layers.Flatten: _flatten,
    layers.Dense: _dense,
    layers.Activation: _activation_layer,
    layers.ReLU: _relu,
    layers.LeakyReLU: _leaky_relu,
    layers.ELU: _elu,
    layers.Normalization: _normalization,
    layers.Add: _merging(_add),
    layers.Multiply: _merging(_multiply),
    layers.Concatenate: _concatenate,
    layers.Dropout: _dropout,
    layers.Reshape: _stock,
    layers.Rescaling: _stock,
}
