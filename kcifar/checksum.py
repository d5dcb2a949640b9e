"""What tells whether a file is the same."""

import hashlib

from kcifar import reading
from kcifar.errors import InputError


def sha256(path):
    """SHA-256, in hex, of a file's bytes. Raises InputError where it is no regular file."""
    try:
        reading.size(path)
    except InputError as error:
        raise InputError(f"'{path}' cannot be read: {error}") from None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
