"""What a kernel is, and the two ways to see an image."""

import dataclasses
import inspect
import types
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A layer's computation.

    Attributes:
        run: (training, *inputs) -> output.
        overwritable: the backward pass of this layer does not read its output.
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


class NativeCall:
    """What is put in the place of the `call` of a layer or model, `of`; seen as that."""

    __name__ = "call"

    def __init__(self, of):
        self.of = of

    @property
    def __signature__(self):
        return inspect.signature(types.MethodType(type(self.of).call, self.of))


def stock_call(layer, *args, **kwargs):
    """What the `call` of the layer's class gives; the layer's own may be a native one."""
    return type(layer).call(layer, *args, **kwargs)


def in_place(first, then):
    """A kernel and the activation behind it, which alone reads it: in place, where the memory is the kernel's own.

    Whether it is shows in the memory: a layer may give what it was given, or a view of it.
    """

    def run(training, *inputs):
        x = first.run(training, *inputs)
        if any(_share_memory(x, given) for given in inputs):
            return then.run(training, x)
        return then.overwriting(training, x)

    return run


def _share_memory(one, other):
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def channels_first(image):
    """(batch, height, width, channels) as (batch, channels, height, width), a view; other ranks as they are."""
    return image.permute(0, 3, 1, 2) if image.ndim == 4 else image


def channels_last(image):
    """(batch, channels, height, width) as (batch, height, width, channels), a view; other ranks as they are."""
    return image.permute(0, 2, 3, 1) if image.ndim == 4 else image


def cast(x, dtype):
    """As Keras casts a layer's inputs: whole numbers stay."""
    return x.to(dtype) if x.is_floating_point() else x


def identity(dtype):
    """The kernel of a layer that gives what it was given: the very tensor, as in stock."""
    return Kernel(lambda training, x: cast(x, dtype), stock_layout=True)


def bias_of(layer, dtype):
    """The layer's bias in a dtype, or None where it has none."""
    return None if layer.bias is None else layer.bias._value.to(dtype)
