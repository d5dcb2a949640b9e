"""Image files as pixels: the one reader of them, in training, evaluation and prediction."""

import contextlib
import functools
import math
import warnings

import numpy as np

from kcifar.errors import InputError

# Pillow's mode "I" has 32 bits; these formats put 16 of them there, 0–65535.
_SIXTEEN_BITS = ("PNG", "PPM")
_GREY = ("1", "L", "LA", "La")
_PROGRAMS = ("EPS",)  # a file of these formats is a program, and Pillow has it run by Ghostscript
_MOST_SIDE = 2**16 - 1  # pixels; JPEG's own limit
_MOST_OF_WEBP = 2**25  # pixels, of which its decoder has four copies
_STRIP_PIXELS = 2**20
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
        opened = Image.open(file, formats=_formats())
    except UnidentifiedImageError:  # its text names an object in memory, not the file
        raise InputError("it is of no format that Pillow knows") from None
    with opened as image:
        _expect_sides(image)
        image.load()
        eight = _as_8_bits(image)
        ImageOps.exif_transpose(eight, in_place=True)
        return _plain(eight)


@functools.cache
def _formats():
    """All that Pillow reads, but those that it has other programs read."""
    from PIL import Image

    Image.init()
    return tuple(form for form in Image.ID if form not in _PROGRAMS)


def _expect_sides(image):
    if max(image.size) > _MOST_SIDE:
        raise InputError(f"it has {image.size[1]}×{image.size[0]} pixels; expected sides of at most {_MOST_SIDE:,}")
    if image.format == "WEBP" and math.prod(image.size) > _MOST_OF_WEBP:
        raise InputError(f"it has {image.size[1]}×{image.size[0]} pixels; expected at most {_MOST_OF_WEBP:,} of a WebP")


def _as_8_bits(image):
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        raise InputError(f"its pixels are 32-bit numbers ({image.format}); expected 8 or 16 bits: convert it first")
    if not image.mode.startswith("I"):
        return image
    eight = _by_strips(image, "L", _upper_bits)
    eight.info = image.info  # its orientation
    return eight


def _upper_bits(strip):
    from PIL import Image

    values = np.asarray(strip).astype(np.int32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 · 257


def _plain(image):
    mode = "L" if image.mode in _GREY else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    least = []

    def on_white(strip):
        from PIL import Image

        strip = strip.convert("RGBA")
        least.append(strip.getextrema()[3][0])
        # Of equal channels, Pillow's grey is just that: nothing is lost.
        return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB").convert(mode)

    plain = _by_strips(image, mode, on_white)
    plain.info = image.info | {ON_WHITE: min(least) < 255}
    return plain


def _by_strips(image, mode, change):
    """The image that is changed a strip at a time: the largest ones that are read would need gigabytes at once."""
    from PIL import Image

    (width, height), changed = image.size, Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        strip.info = image.info  # a palette's transparent colour
        changed.paste(change(strip), (0, top))
    return changed
