"""Images of any size and format, as a model takes them."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kcifar.errors import InputError, one_line

# Pillow's mode "I" has 32 bits; these formats put 16 of them there, 0–65535.
_SIXTEEN_BITS = ("PNG", "PPM")


class Photo(NamedTuple):
    """A file to read as an image; `named` tells that the user gave this very file, not a folder that it is in."""

    path: Path
    named: bool


def find(paths):
    """The `Photo`s at these paths, in their order; of a folder, all in it and below it, sorted by path.

    In a folder images are the files with a suffix that Pillow knows. Names that begin with a dot are left out, and
    links to other folders are not followed.

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
    from PIL import Image

    suffixes = Image.registered_extensions()
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        files = (Path(parent, name) for name in names if name[0] != ".")
        found += [path for path in files if path.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"'{folder}' holds no images; expected files as photo.jpg or photo.png in it or below it")
    return [Photo(path, named=False) for path in sorted(found)]


def _refuse(error):
    raise InputError(f"the folder '{error.filename}' cannot be read: {error.strerror}")


def read(path, size):
    """The image at `path`, scaled so that it covers `size`, of which the middle is cut: uint8 (height, width, 3), RGB.

    Turned as its EXIF orientation says; of an animation the first frame; what is transparent, on white. 16-bit grey is
    scaled by 255 / 65535 and rounded (of 16-bit colour Pillow itself keeps the upper 8 bits). Scaling is bicubic, over
    a support that grows as the image shrinks (antialiased). An opaque 8-bit image of just this size is left as it is.

    Args:
        path: of a file in any format that Pillow reads.
        size: (height, width) in pixels.

    Raises:
        InputError: it is missing, no image, damaged, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, and of palettes that are converted below
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(_as_8_bits(image))
                return np.array(ImageOps.fit(_as_rgb(upright), size[::-1], Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise InputError(f"'{path}' cannot be read as an image: {_reason(error)}") from None


def _as_8_bits(image):
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        raise InputError(f"its pixels are 32-bit numbers ({image.format}); expected 8 or 16 bits: convert it first")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    eight = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 · 257
    eight.info = image.info  # its orientation
    return eight


def _as_rgb(image):
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _reason(error):
    return one_line(getattr(error, "strerror", None) or error)
