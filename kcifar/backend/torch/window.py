"""Kernels that move a window over an image: convolutions, pooling, and padding.

A function named after a layer makes its kernel from the layer, the torch dtype that it computes in, and the ranks of
its inputs.
"""

import functools

import torch
import torch.nn.functional as F

from kcifar.backend.torch.activation import fused, is_linear
from kcifar.backend.torch.kernel import Kernel, bias_of, cast, channels_first, channels_last, stock_call

_LARGE = 2**14  # values
_BLOCK = 16  # channels that oneDNN takes together, at most


def conv2d(layer, dtype, ranks):
    return _convolution(layer, dtype, "_kernel", _oihw, layer.groups)


def depthwise_conv2d(layer, dtype, ranks):
    return _convolution(layer, dtype, "kernel", _depthwise, layer.kernel.shape[2])


def separable_conv2d(layer, dtype, ranks):
    channels = layer.depthwise_kernel.shape[2]
    spread, activate = _convolving(layer, dtype, "depthwise_kernel", _depthwise, channels), fused(layer.activation)

    def run(training, x):
        pointwise = _oihw(layer.pointwise_kernel._value).to(dtype)
        return activate(F.conv2d(spread(x, None), pointwise, _bias(layer, dtype)))

    return Kernel(run, overwritable=is_linear(layer.activation))


def _convolution(layer, dtype, kernel, to_torch, groups, padding=0):
    convolve, activate = _convolving(layer, dtype, kernel, to_torch, groups, padding), fused(layer.activation)
    padded = functools.partial(_convolution, layer, dtype, kernel, to_torch, groups)
    return Kernel(
        lambda training, x: activate(convolve(x, _bias(layer, dtype))),
        overwritable=is_linear(layer.activation),
        padded=padded if layer.padding == "valid" else None,
    )


def _convolving(layer, dtype, kernel, to_torch, groups, given_padding=0):
    """A function of an image and a bias; `kernel` is the name of the layer's attribute."""
    size, strides, dilation = getattr(layer, kernel).shape[:2], tuple(layer.strides), tuple(layer.dilation_rate)
    pad = _same_padding(size, strides, dilation) if layer.padding == "same" else None
    # Of so few channels oneDNN's gradient of the kernel writes beyond its memory: uxlfoundation/oneDNN#6035.
    skips = size == (1, 1) and strides != (1, 1) and not given_padding and getattr(layer, kernel).shape[2] < _BLOCK

    def convolve(x, bias):
        x, padding = pad(cast(x, dtype)) if pad else (cast(x, dtype), given_padding)
        weight = to_torch(getattr(layer, kernel)._value).to(dtype)
        if skips:
            return F.conv2d(x[:, :, :: strides[0], :: strides[1]], weight, bias, 1, padding, 1, groups)
        return F.conv2d(x, weight, bias, strides, padding, dilation, groups)

    return convolve


def _bias(layer, dtype):
    return bias_of(layer, dtype) if layer.use_bias else None


def _oihw(kernel):
    """Keras's (height, width, channels, filters) as torch has it; a large one in the order of memory that it reads."""
    if kernel.numel() < _LARGE or not kernel.is_contiguous():
        return kernel.permute(3, 2, 0, 1)
    height, width, channels, filters = kernel.shape
    rows = _Transposed.apply(kernel.view(-1, filters))
    return rows.view(filters, height, width, channels).permute(0, 3, 1, 2)


class _Transposed(torch.autograd.Function):
    """A matrix with rows for columns, copied both ways: of all changes of order torch does this one fast."""

    @staticmethod
    def forward(ctx, matrix):
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.t().contiguous()


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


def max_pooling2d(layer, dtype, ranks):
    return _pooling(layer, dtype, F.max_pool2d)


def average_pooling2d(layer, dtype, ranks):
    """Where the two sides are padded by unlike amounts Keras 3.16 has other values than 3.15: then it runs as stock."""
    native = _pooling(layer, dtype, _average_pool)
    if layer.padding == "valid":
        return native
    sizes, strides = tuple(layer.pool_size), tuple(layer.strides)

    def run(training, x):
        padding = [_split(side, k, s, 1) for side, k, s in zip(x.shape[2:], sizes, strides, strict=True)]
        if all(before == behind for before, behind in padding):
            return native.run(training, x)
        return channels_first(stock_call(layer, channels_last(cast(x, dtype))))

    return Kernel(run)


def _average_pool(x, size, strides, padding):
    if x.is_cuda and padding and any(padding):
        # In channels_last torch's gradient is wrong where it pads: pytorch#188344, mended in July 2026.
        x = x.contiguous()
    return F.avg_pool2d(x, size, strides, padding, count_include_pad=False)


def _pooling(layer, dtype, pool):
    size, strides = tuple(layer.pool_size), tuple(layer.strides)
    pad = _same_padding(size, strides, mode="replicate") if layer.padding == "same" else None

    def run(training, x):
        x, padding = pad(cast(x, dtype)) if pad else (cast(x, dtype), 0)
        return pool(x, size, strides, padding)

    return Kernel(run)


def zero_padding2d(layer, dtype, ranks):
    (top, bottom), (left, right) = layer.padding
    if layer.data_format == "channels_first":  # rows and columns are then the second and third of Keras's axes
        return Kernel(lambda training, x: F.pad(cast(x, dtype), (top, bottom, 0, 0, left, right)), overwritable=True)
    return Kernel(
        lambda training, x: F.pad(cast(x, dtype), (left, right, top, bottom)),
        overwritable=True,
        padding=(top, left) if top == bottom and left == right else None,
    )
