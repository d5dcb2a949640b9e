"""Boxes that are covered: Cutout and random erasing."""

import numpy as np
from keras import ops

from kcifar.augment.parameters import chosen, expect_probability, is_number, is_pair, is_whole
from kcifar.errors import InputError


class Cutout:
    """Covers a square of `size` × `size` pixels around a random pixel of each image; what lies outside is cut off.

    DeVries & Taylor 2017, arXiv 1708.04552, and their program: every pixel is a centre with equal probability; a square
    of even size reaches one pixel further up and left; one of odd size is a pixel smaller there than here. They cover
    with the mean colour (0 after normalisation).

    Args:
        size: side of the square in pixels, at least 1.
        fill: what it is covered with, from 0 to 255: a number, or one for each channel.
        probability: that an image is covered at all.

    Raises:
        InputError: a number outside its range, or (when drawing) a fill of another number of channels.
    """

    def __init__(self, size, fill=0, probability=1.0):
        if not is_whole(size) or size < 1:
            raise InputError(f"Cutout(size={size!r}): expected whole pixels, at least 1")
        _expect_fill("Cutout", fill)
        expect_probability("Cutout", probability)
        self.size = size
        self.fill = fill
        self.probability = probability

    def draw(self, rng, batch_size, image_shape):
        """Rows and columns of the centres: int32 (batch, 2); far outside for images that are not covered."""
        _expect_channels("Cutout", self.fill, image_shape)
        centres = rng.integers(0, image_shape[:2], (batch_size, 2), dtype="int32")
        far = -np.int32(self.size)
        return np.where(chosen(rng, self.probability, batch_size)[:, None], centres, far)

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        first = ops.convert_to_tensor(drawn) - self.size // 2
        return _covered(images, first, self.size, self.fill), labels


class RandomErasing:
    """Covers a box of random size and shape at a random place of an image.

    Zhong et al. 2020, arXiv 1708.04896, as torchvision.transforms.RandomErasing: its area is a share of the image's
    from uniform `scale`, its height over its width from `ratio`, the logarithm uniform; of ten boxes the first that is
    smaller than the image in both directions is taken, and none where none is.

    Args:
        probability: that an image is covered.
        scale: least and greatest share of the area.
        ratio: least and greatest height over width.
        fill: what it is covered with, from 0 to 255: a number, one for each channel, or "random", each value from
            uniform 0–255, which a batch of as many bytes is drawn for (torchvision's are normal, behind its
            normalisation).

    Raises:
        InputError: a number outside its range, or (when drawing) a fill of another number of channels.
    """

    def __init__(self, probability=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), fill=0):
        expect_probability("RandomErasing", probability)
        if not (is_pair(scale) and 0 <= scale[0] <= scale[1] <= 1):
            raise InputError(f"RandomErasing(scale={scale!r}): expected two shares of the area in order, from 0 to 1")
        if not (is_pair(ratio) and 0 < ratio[0] <= ratio[1]):
            raise InputError(f"RandomErasing(ratio={ratio!r}): expected two numbers above 0, in order")
        if not (isinstance(fill, str) and fill == "random"):
            _expect_fill("RandomErasing", fill)
        self.probability = probability
        self.scale = scale
        self.ratio = ratio
        self.fill = fill

    def draw(self, rng, batch_size, image_shape):
        """Top and left, and height and width of the boxes, 0 for none: int32 (batch, 2) each; what they are filled
        with: a float32 number or (channels,), or uint8 (batch, height, width, channels)."""
        sides = np.array(image_shape[:2])
        tries = batch_size, 10
        area = rng.uniform(*self.scale, tries) * sides.prod()
        ratio = np.exp(rng.uniform(*np.log(self.ratio), tries))
        boxes = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], -1).round().astype("int32")
        fits = (boxes < sides).all(-1)
        box = boxes[np.arange(batch_size), fits.argmax(1)]
        box *= (fits.any(1) & chosen(rng, self.probability, batch_size))[:, None]
        first = rng.integers(0, sides - box, (batch_size, 2), dtype="int32", endpoint=True)
        return first, box, self._drawn_fill(rng, batch_size, image_shape)

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        first, box, fill = map(ops.convert_to_tensor, drawn)
        return _covered(images, first, box, fill), labels

    def _drawn_fill(self, rng, batch_size, image_shape):
        if isinstance(self.fill, str):
            return rng.integers(0, 256, (batch_size, *image_shape), dtype="uint8")
        _expect_channels("RandomErasing", self.fill, image_shape)
        return np.asarray(self.fill, "float32")


def _covered(images, first, box, fill):
    """Images with boxes covered, which begin at `first` (batch, 2) and have `box` pixels in each direction."""
    rows, columns = (
        _within(first[:, axis, None], box if isinstance(box, int) else box[:, axis, None], side)
        for axis, side in enumerate(tuple(images.shape)[1:3])
    )
    covered = ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])
    return ops.where(covered, ops.cast(ops.convert_to_tensor(fill), images.dtype), images)


def _within(first, length, side):
    place = ops.arange(side, dtype="int32") - first
    return ops.logical_and(place >= 0, place < length)


def _expect_fill(transform, fill):
    values = fill if isinstance(fill, (list, tuple)) else [fill]
    if not values or not all(is_number(value) and 0 <= value <= 255 for value in values):
        raise InputError(f"{transform}(fill={fill!r}): expected a number from 0 to 255, or one for each channel")


def _expect_channels(transform, fill, image_shape):
    if isinstance(fill, (list, tuple)) and len(fill) != image_shape[2]:
        raise InputError(f"{transform}(fill={fill!r}): images have {image_shape[2]} channels; expected one for each")
