"""Image files as pixels: the one reader of them, in training, evaluation and prediction."""

import contextlib
import warnings

import numpy as np

from kcifar.errors import InputError

# Pillow's mode "I" has 32 bits; these formats put 16 of them there, 0–65535.
_SIXTEEN_BITS = ("PNG", "PPM")
_GREY = ("1", "L", "LA", "La")
ON_WHITE = "kcifar on white"
"""In an image's `info`, whether transparent pixels of the file were put on white."""


@contextlib.contextmanager
def strict():
    """Inside, what Pillow warns of is no warning: too many pixels are an error, the rest is none."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, and of palettes that are converted below
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def upright(file):
    """The image in a file, as a Pillow image of mode "L" where it is grey, "RGB" else. Call it inside `strict`.

    Turned as its EXIF orientation says; of an animation the first frame; what is transparent, on white. 16-bit grey is
    scaled by 255 / 65535 and rounded (of 16-bit colour Pillow itself keeps the upper 8 bits).

    Args:
        file: a path, or an open binary file, in any format that Pillow reads.

    Raises:
        InputError: pixels of 32 bits, or of no format that Pillow knows.
        Exception: whatever Pillow raises of what is missing, no image, damaged, or larger than its
            `Image.MAX_IMAGE_PIXELS`: OSError, SyntaxError, struct.error and more.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(file)
    except UnidentifiedImageError:  # its text names an object in memory, not the file
        raise InputError("it is of no format that Pillow knows") from None
    with opened as image:
        return _plain(ImageOps.exif_transpose(_as_8_bits(image)))


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


def _plain(image):
    from PIL import Image

    mode = "L" if image.mode in _GREY else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("RGBA")
    # Of equal channels, Pillow's grey is just that: nothing is lost.
    plain = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").convert(mode)
    plain.info[ON_WHITE] = image.getextrema()[3][0] < 255
    return plain
