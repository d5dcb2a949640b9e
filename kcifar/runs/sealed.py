"""Arrays and a record in one `.npz` file that says whether it is whole: its own SHA-256 is its last line."""

import hashlib
import json
import os
import zipfile

import numpy as np

from kcifar import reading
from kcifar.errors import InputError, one_line

_SEAL = b"kcifar sha256 "
_DIGITS = 64
_BLOCK = 2**20


def write(path, arrays, record):
    """Writes arrays by name, and `record`, to an `.npz` file which NumPy opens, with its checksum as the comment.

    Args:
        record: what else is to be kept, as JSON can hold it, and NumPy arrays anywhere in it.
    """
    inside = {}

    def apart(array):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a callback's state holds {array!r:.60}; expected what JSON can hold, or NumPy arrays")
        key = f"record_{len(inside)}"
        inside[key] = array
        return {"array": key}

    text = np.frombuffer(json.dumps(record, default=apart).encode(), np.uint8)
    np.savez(path, record=text, **arrays, **inside)
    with open(path, "r+b") as file:
        # Given the path, it would begin a new archive where that cannot be opened.
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = _SEAL + b"0" * _DIGITS
        digest = _sha256_inside(file)
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(digest)


def read(path):
    """The arrays by name and the record that `write` wrote; also what earlier versions wrote without a checksum.

    Raises:
        InputError: the file is damaged, or something else.
        OSError: it is missing or cannot be read.
    """
    try:
        _expect_whole(path)
        with reading.npz(path) as found:
            record = reading.parsed_json(
                found["record"].tobytes(), lambda part: found[part["array"]] if "array" in part else part
            )
            arrays = {name: found[name] for name in found.files if not name.startswith("record")}
    except (MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"'{path}' is damaged ({one_line(error)})") from None
    if not isinstance(record, dict):
        raise InputError(f"'{path}' is damaged (its record is {record!r:.40})")
    return arrays, record


def _expect_whole(path):
    if not reading.size(path):
        raise ValueError("it is empty")
    with open(path, "rb") as file:
        file.seek(max(0, reading.size(path) - _DIGITS - len(_SEAL)))
        seal = file.read()
        if seal.startswith(_SEAL) and _sha256_inside(file) != seal[-_DIGITS:]:
            raise ValueError("its checksum is of other bytes")


def _sha256_inside(file):
    """Of all but the digits of the checksum."""
    left, digest = file.seek(0, os.SEEK_END) - _DIGITS, hashlib.sha256()
    file.seek(0)
    while block := file.read(min(left, _BLOCK)):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
