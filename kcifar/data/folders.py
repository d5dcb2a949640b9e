"""What is in a folder of images: the one reader of folders, in training and in prediction."""

import os

from kcifar import reading
from kcifar.errors import InputError

_LEFT_OUT = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"})  # what Windows and macOS put there
_MOST_BYTES = 2**28  # of an image's file


def entries(folder):
    """What is in a folder, `os.DirEntry`s, without what is hidden or the system's. Raises InputError if unreadable."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if entry.name[0] != "." and entry.name.lower() not in _LEFT_OUT]
    except OSError as error:
        raise InputError(f"the folder '{folder}' cannot be read: {error.strerror}") from None


def images(folder):
    """The images in a folder and below it, and what is no image.

    Images are what has a suffix that Pillow knows, whether or not it can be read. What is hidden or the system's is
    left out, and links to other folders are not followed.

    Returns:
        Two lists of paths, `str`, each sorted.

    Raises:
        InputError: a folder cannot be read.
    """
    from PIL import Image

    suffixes = Image.registered_extensions()
    found, others, waiting = [], [], [folder]
    while waiting:
        for entry in entries(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in suffixes:
                found.append(entry.path)
            else:
                others.append(entry.path)
    return sorted(found), sorted(others)


def content(path):
    """The bytes of an image's file.

    Raises:
        InputError: it is no regular file, or larger than images are.
        OSError: it cannot be read.
    """
    return reading.content(path, _MOST_BYTES)
