"""Sizes of resized and cropped images, as torchvision rounds them."""

from kcifar.errors import InputError


def resized(shape, size):
    """(height, width) of an image whose shorter side becomes `size`, the other in proportion, rounded down."""
    short, long = sorted(shape[:2])
    other = size * long // short
    return (size, other) if shape[0] == short else (other, size)


def margins(shape, size):
    """Pixels before and behind the middle `size` × `size`: ((top, bottom), (left, right)).

    Raises:
        InputError: the image is smaller.
    """
    if min(shape[:2]) < size:
        raise InputError(
            f"{size}×{size} pixels are more than an image of {shape[0]}×{shape[1]} has: use a smaller crop"
        )
    before = [round((side - size) / 2) for side in shape[:2]]
    return tuple((first, side - size - first) for first, side in zip(before, shape[:2], strict=True))


def expect_pixels(what, size):
    """Raises InputError unless `size` is a whole number of pixels, at least 1."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{what} is {size!r}; expected whole pixels, at least 1")
