"""Files that are written whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from kcifar.errors import InputError

# How the names of files begin that are being written: no file of a user's is taken for one.
UNFINISHED = ".kcifar-"


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary path beside `path`, with the same suffix, and renames it over `path` if the block succeeds.

    So a reader, or a run that is killed or fills the disk, sees the old file or the new one, never a part; and so does
    who comes back after a power cut: what was written is on the disk before it has its name, and then its folder is.
    """
    path = Path(path)
    try:
        name = {"prefix": f"{UNFINISHED}{path.stem}-", "suffix": path.suffix}
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, **name)
    except FileNotFoundError:
        raise InputError(f"'{path.parent}' is not there any more: it was moved or removed meanwhile") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(descriptor)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):  # a name nobody knows
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def rename(path, new):
    """Renames a file within its file system, over one that is there; on the disk when this returns."""
    os.replace(path, new)
    for folder in {Path(path).parent, Path(new).parent}:
        _sync(folder)


def link(path, new):
    """Gives a file a second name, over one that is there; where the file system has no links, to a copy of it."""
    with replacing(new) as temporary:
        os.unlink(temporary)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def _sync(path):
    """Waits until a file, or the names in a folder, are on the disk; for folders where the system can."""
    if os.path.isdir(path):
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path, flags):
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder):
    """Removes what `replacing` could not, in `folder` and below it, because its process was killed."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        path.unlink()


def write_text(path, text):
    """Writes UTF-8 text whole or not at all."""
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def write_json(path, value):
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
