"""What a kernel is, and the two ways to see an image."""

import dataclasses
from collections.abc import Callable


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


def channels_first(image):
    """(batch, height, width, channels) as (batch, channels, height, width), a view; other ranks as they are."""
    return image.permute(0, 3, 1, 2) if image.ndim == 4 else image


def channels_last(image):
    """(batch, channels, height, width) as (batch, height, width, channels), a view; other ranks as they are."""
    return image.permute(0, 2, 3, 1) if image.ndim == 4 else image


def cast(x, dtype):
    """As Keras casts a layer's inputs: whole numbers stay."""
    return x.to(dtype) if x.is_floating_point() else x


def bias_of(layer, dtype):
    """The layer's bias in a dtype, or None."""
    return None if layer.bias is None else layer.bias._value.to(dtype)
