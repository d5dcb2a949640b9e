"""Reads the pickles of CIFAR-10 and CIFAR-100 without running what is in them.

A pickle is a program: it may call anything that it can import. This reader lets it name only what a pickled NumPy
array names, and even these are stand-ins that collect the array's parts, so neither an import nor NumPy's own
`__setstate__` ever sees what the file says.
"""

import io
import math
import pickle
import re

import numpy as np

from kcifar.errors import InputError

_PLAIN_DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"b1", "f4", "f8"}
_MOST_SIDES, _MOST_SIDE = 64, 2**48  # of an array
# What a dictionary of text, numbers, lists and NumPy arrays is written with, in any protocol.
_NOTATION = re.findall(
    r"\w+",
    """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD PERSID BINPERSID""",
)


class _Dtype:
    """Stands for `numpy.dtype`: a plain number type, no structure, no objects."""

    def __init__(self, name, *_):
        self.name = _expect_text(name)
        if self.name not in _PLAIN_DTYPES:
            raise ValueError(f"arrays of dtype {self.name!r}")

    def __setstate__(self, state):
        order = _expect_text(state[1])
        if order not in ("|", "<", ">", "="):
            raise ValueError(f"byte order {order!r}")
        self.name = order + self.name


class _Array:
    """Stands for `numpy.ndarray`: holds the parts until `value` builds the array from them."""

    parts = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        sides = isinstance(shape, tuple) and len(shape) <= _MOST_SIDES and all(isinstance(side, int) for side in shape)
        if not (sides and all(0 <= side < _MOST_SIDE for side in shape)):
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


class _Unpickler(pickle._Unpickler):
    """Python's reader in Python: that in C makes room for what a few bytes claim, and knows no fewer operations."""

    def __init__(self, content, where):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.where = where
        self._left = len(content)

    def load_dict(self):
        _expect_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self):
        _expect_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _expect_keys(self.stack[::2])
        super().load_setitems()

    def load_build(self):
        if not isinstance(self.stack[-2], (_Array, _Dtype)):
            raise ValueError("a state of what has none")
        super().load_build()

    def _encode(self, text, encoding):
        # Python 3 writes bytes this way in protocol 2; latin1 maps each character to its byte.
        if _expect_text(encoding) != "latin1":
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


class _Operations(dict):
    def __missing__(self, code):
        raise ValueError(f"the operation {bytes([code])!r}")


_Unpickler.dispatch = _Operations(
    {
        code: getattr(_Unpickler, load.__name__)
        for code, load in pickle._Unpickler.dispatch.items()
        if code in [getattr(pickle, name)[0] for name in _NOTATION]
    }
)


def read(content, where):
    """The dictionary in a pickle, its keys as `str`, its top-level arrays as NumPy arrays.

    Args:
        content: the bytes of the file.
        where: names the file in messages.

    Raises:
        InputError: not a pickle, cut short, no dictionary, or it asks for anything but NumPy arrays.
    """
    try:
        found = _Unpickler(content, where).load()
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} where a dictionary should be")
        return {_text(key): value.value() if isinstance(value, _Array) else value for key, value in found.items()}
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged opcodes raise anything, from EOFError to UnicodeDecodeError
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{where} is no pickle of CIFAR ({reason}); expected a file of the published cifar-10-batches-py or"
            " cifar-100-python: unpack the archive again"
        ) from error


def _expect_text(value):
    """Text as `str`, whose repr and hash are no work; of what else a pickle may hold, nobody knows."""
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"a {type(value).__name__} where text should be")
    return _text(value)


def _expect_keys(keys):
    """Raises ValueError unless these are text: to hash tuples of the same tuples again and again takes for ever."""
    for key in keys:
        _expect_text(key)


def _text(value):
    return value.decode("latin1") if isinstance(value, bytes) else value
