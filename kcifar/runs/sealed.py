"""Arrays and a record in one `.npz` file that says whether it is whole: its own SHA-256 is its last line."""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from kcifar.errors import InputError, one_line

_SEAL = b"kcifar sha256 "
_DIGITS = 64


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
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = _SEAL + b"0" * _DIGITS
    with open(path, "r+b") as file:
        digest = _sha256_inside(file.read())
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(digest)


def read(path):
    """The arrays by name and the record that `write` wrote; also what earlier versions wrote without a checksum.

    Raises:
        InputError: the file is damaged, or something else.
        OSError: it is missing or cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        _expect_whole(content)
        with np.load(io.BytesIO(content)) as found:
            record = json.loads(
                found["record"].tobytes(), object_hook=lambda part: found[part["array"]] if "array" in part else part
            )
            arrays = {name: found[name] for name in found.files if not name.startswith("record")}
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"'{path}' is damaged ({one_line(error)})") from None
    if not isinstance(record, dict):
        raise InputError(f"'{path}' is damaged (its record is {record!r:.40})")
    return arrays, record


def _expect_whole(content):
    if not content:
        raise ValueError("it is empty")
    seal = content[-_DIGITS - len(_SEAL) :]
    if seal.startswith(_SEAL) and _sha256_inside(content) != seal[-_DIGITS:]:
        raise ValueError("its checksum is of other bytes")


def _sha256_inside(content):
    """Of all but the digits of the checksum."""
    return hashlib.sha256(memoryview(content)[:-_DIGITS]).hexdigest().encode()
