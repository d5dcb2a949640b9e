"""Files that users bring, read within bounds: of what the data can be, before room is made for what a file claims."""

import contextlib
import json
import math
import os
import stat
import zipfile

import numpy as np

from kcifar.errors import InputError, one_line

MOST_TEXT = 2**26  # bytes of a file that people or kcifar wrote as text
_MOST_UNPACKED, _MOST_EXPANSION = 2**28, 100  # bytes; how often an archive's size. Weights and noise do not shrink.


def size(path):
    """The bytes of a file, of which there is an end.

    Raises:
        InputError: it is no regular file but a folder, a pipe or a device.
        OSError: there is none.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("it is no regular file")
    return status.st_size


def content(path, most=MOST_TEXT):
    """The bytes of a file.

    Raises:
        InputError: it is no regular file, or has more than `most` bytes.
        OSError: it cannot be read.
    """
    found = size(path)
    if found > most:
        raise InputError(f"it has {found:,} bytes; expected at most {most:,}")
    with open(path, "rb") as file:
        return file.read()


def text(path):
    """The text in a file, UTF-8. Raises ValueError where it is none, is too long, or the file is no regular one."""
    return content(path).decode("utf-8")


def parsed_json(text, object_hook=None):
    """The value of a JSON text, see `json.loads`. Raises ValueError where it is none, or nested too deep."""
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextlib.contextmanager
def archive(path):
    """A `zipfile.ZipFile` to read from, which unpacks to no more than an archive of its size can be meant to.

    Raises:
        InputError: it would unpack to more than 256 MiB and a hundred times its size, or it has several entries of the
            same name, or it is no regular file.
        zipfile.BadZipFile, and whatever zipfile raises else: it is no archive, or damaged.
    """
    packed = size(path)
    with open(path, "rb") as file, _opened(file) as opened:
        names, unpacked = opened.namelist(), sum(member.file_size for member in opened.infolist())
        if unpacked > max(_MOST_UNPACKED, _MOST_EXPANSION * packed):
            raise InputError(f"it has {packed:,} bytes and would unpack to {unpacked:,}")
        if len(set(names)) < len(names):
            raise InputError("it has several entries of the same name")
        yield opened


def _opened(file):
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, MemoryError):
        raise
    except Exception as error:  # as of names that are no text
        raise zipfile.BadZipFile(one_line(error)) from None


@contextlib.contextmanager
def npz(path):
    """The `numpy.lib.npyio.NpzFile` at a path, without pickles, none of whose arrays claims more than it holds.

    Raises:
        ValueError: an array claims more, or a version of the format that is for other than plain arrays.
        Exception: whatever `archive` and NumPy raise.
    """
    with archive(path) as opened:
        for member in opened.infolist():
            if member.filename.endswith(".npy"):
                _expect_held(opened, member)
    # Opened here, since NumPy leaves the file open where it cannot read it.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays


def _expect_held(opened, member):
    with opened.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{member.filename} is of version {version} of the format")
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python's objects, for which a pickle would be run")
    if math.prod(shape) * max(dtype.itemsize, 1) > member.file_size:
        raise ValueError(f"{member.filename} claims to be {dtype} {shape} in {member.file_size:,} bytes")
