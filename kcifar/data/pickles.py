"""Reads the pickles of CIFAR-10 and CIFAR-100 without running what is in them.

A pickle is a program: it may call anything that it can import. This reader lets it name only what a pickled NumPy
array names, and even these are stand-ins that collect the array's parts, so neither an import nor NumPy's own
`__setstate__` ever sees what the file says.
"""

import io
import math
import pickle
import pickletools

import numpy as np

from kcifar.errors import InputError

_PLAIN_DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"b1", "f4", "f8"}


class _Dtype:
    """Stands for `numpy.dtype`: a plain number type, no structure, no objects."""

    def __init__(self, name, *_):
        self.name = _text(name)
        if self.name not in _PLAIN_DTYPES:
            raise ValueError(f"arrays of dtype {self.name!r}")

    def __setstate__(self, state):
        order = _text(state[1])
        if order not in ("|", "<", ">", "="):
            raise ValueError(f"byte order {order!r}")
        self.name = order + self.name


class _Array:
    """Stands for `numpy.ndarray`: holds the parts until `value` builds the array from them."""

    parts = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        if not (isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)):
            raise ValueError("an array whose shape is no tuple of sizes")
        if not (isinstance(dtype, _Dtype) and isinstance(content, bytes)):
            raise ValueError("an array that is not made of plain numbers")
        self.parts = shape, dtype.name, bool(fortran), content

    def value(self):
        """The array, read-only, over the bytes of the file."""
        if self.parts is None:
            raise ValueError("an array without content")
        shape, dtype, fortran, content = self.parts
        dtype = np.dtype(dtype)
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"an array of shape {shape} with {len(content)} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind, shape, typecode):
    if kind is not _Array:
        raise ValueError("an array that is no ndarray")
    return _Array()


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 1, and the official files
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content, where):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.where = where
        self._left = len(content)

    def _encode(self, text, encoding):
        # Python 3 writes bytes this way in protocol 2; latin1 maps each character to its byte.
        if _text(encoding) != "latin1":
            raise ValueError(f"bytes encoded as {encoding!r}")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("more bytes than the file has")
        return text.encode("latin1")

    def find_class(self, module, name):
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise InputError(
                f"{self.where} is a pickle that wants {f'{module}.{name}'!r}; expected NumPy arrays and nothing else:"
                " do not trust this file, fetch the data set again"
            ) from None

    def persistent_load(self, pid):
        raise InputError(f"{self.where} is a pickle with references to outside; expected NumPy arrays and nothing else")


def read(content, where):
    """The dictionary in a pickle, its keys as `str`, its top-level arrays as NumPy arrays.

    Args:
        content: the bytes of the file.
        where: names the file in messages.

    Raises:
        InputError: not a pickle, cut short, no dictionary, or it asks for anything but NumPy arrays.
    """
    try:
        _expect_small_memo(content)
        found = _Unpickler(content, where).load()
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} where a dictionary should be")
        return {_text(key): value.value() if isinstance(value, _Array) else value for key, value in found.items()}
    except InputError:
        raise
    except Exception as error:  # damaged opcodes raise anything, from EOFError to UnicodeDecodeError
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{where} is no pickle of CIFAR ({reason}); expected a file of the published cifar-10-batches-py or"
            " cifar-100-python: unpack the archive again"
        ) from error


def _expect_small_memo(content):
    """Python's reader makes room for as many remembered objects as the largest number says that one is given."""
    for operation, number, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > len(content):
            raise ValueError(f"an object remembered as number {number:,}")


def _text(value):
    return value.decode("latin1") if isinstance(value, bytes) else value
