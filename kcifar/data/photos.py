"""Images of any size and format, as a model takes them."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kcifar.data import decoding, folders
from kcifar.errors import InputError, one_line
from kcifar.output import warn_once


class Photo(NamedTuple):
    """A file to read as an image; `named` tells that the user gave this very file, not a folder that it is in."""

    path: Path
    named: bool


def find(paths):
    """The `Photo`s at these paths, in their order; of a folder, all in it and below it, sorted by path.

    What of a folder are images `kcifar.data.folders.images` tells.

    Raises:
        InputError: there is nothing at a path, or no image in a folder.
    """
    return [photo for path in map(Path, paths) for photo in _at(path)]


def _at(path):
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise InputError(f"'{path}' does not exist; expected an image or a folder of images")
    return [Photo(path, named=True)]


def _in_folder(folder):
    found, _ = folders.images(folder)
    if not found:
        raise InputError(f"'{folder}' holds no images; expected files as photo.jpg or photo.png in it or below it")
    return [Photo(Path(path), named=False) for path in found]


def read(path, size, channels=3):
    """The image at `path`, scaled so that it covers `size`, the middle of it: uint8 (height, width, channels).

    Its pixels are those of `kcifar.data.decoding.upright`, as in training. Scaling is bicubic, over a support that
    grows as the image shrinks (antialiased). An image of just this size is left as it is.

    Args:
        path: of a file in any format that Pillow reads.
        size: (height, width) in pixels.
        channels: 3 for RGB; 1 for grey, into which colours are converted (ITU-R BT.601 luma).

    Raises:
        InputError: it is missing, no image, damaged, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image, ImageOps

    try:
        with decoding.strict():
            image = decoding.upright(io.BytesIO(folders.content(path)))
            if image.info.get(decoding.ON_WHITE):
                warn_once("transparent pixels are put on white")
            mode = "L" if channels == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)
            pixels = np.array(ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise InputError(f"'{path}' cannot be read as an image: {_reason(error)}") from None
    return pixels.reshape(*size, channels)


def _reason(error):
    return one_line(getattr(error, "strerror", None) or error)
