"""A square that is covered."""

import numpy as np
from keras import ops

from kcifar.errors import InputError


class Cutout:
    """Covers a square of `size` × `size` pixels around a random pixel of each image; what lies outside is cut off.

    DeVries & Taylor 2017, arXiv 1708.04552, and their program: every pixel is a centre with equal probability; a square
    of even size reaches one pixel further up and left. They cover with the mean colour (0 after normalisation).

    Args:
        size: side of the square in pixels, at least 1.
        fill: what it is covered with, from 0 to 255: a number, or one for each channel.

    Raises:
        InputError: a size or a fill outside its range, or (when drawing) of another number of channels.
    """

    def __init__(self, size, fill=0):
        if not isinstance(size, int) or size < 1:
            raise InputError(f"Cutout(size={size!r}): expected whole pixels, at least 1")
        if np.ndim(fill) > 1 or not np.all((np.asarray(fill) >= 0) & (np.asarray(fill) <= 255)):
            raise InputError(f"Cutout(fill={fill!r}): expected a number from 0 to 255, or one for each channel")
        self.size = size
        self.fill = fill

    def draw(self, rng, batch_size, image_shape):
        """Rows and columns of the centres: int32 (batch, 2)."""
        if np.ndim(self.fill) and len(self.fill) != image_shape[2]:
            raise InputError(
                f"Cutout(fill={self.fill!r}): images have {image_shape[2]} channels; expected one for each"
            )
        return rng.integers(0, image_shape[:2], (batch_size, 2), dtype="int32")

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        first = ops.convert_to_tensor(drawn) - self.size // 2
        rows, columns = (
            self._covered(first[:, axis, None], side) for axis, side in enumerate(tuple(images.shape)[1:3])
        )
        covered = ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])
        fill = ops.cast(ops.convert_to_tensor(np.asarray(self.fill, np.float32)), images.dtype)
        return ops.where(covered, fill, images), labels

    def _covered(self, first, side):
        place = ops.arange(side, dtype="int32") - first
        return ops.logical_and(place >= 0, place < self.size)
