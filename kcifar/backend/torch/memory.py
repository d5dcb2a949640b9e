"""How values lie in memory."""

import ctypes

import torch
from keras import layers

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ALWAYS = 2**31 - 1


def keep_freed_memory():
    """Lets glibc keep what the process frees, for the next batch: True where that worked.

    By default each large tensor's pages are given back to the system when it dies, and the system clears new ones for
    its successor: at a batch of 512 a third of a small CNN's step. Without glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ALWAYS) and mallopt(_M_TRIM_THRESHOLD, _ALWAYS))


def lay_out_kernels(model):
    """Puts the kernel of every convolution into memory as torch's convolutions read it. Its shape and values stay."""
    for layer in model._flatten_layers():
        if type(layer) is layers.Conv2D and layer.built and layer.data_format == "channels_last":
            kernel = layer._kernel._value
            torch_kernel = kernel.data.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
            kernel.data = torch_kernel.permute(2, 3, 1, 0)
