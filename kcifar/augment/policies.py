"""RandAugment and TrivialAugment: random operations of a fixed list, as Pillow computes them.

With two departures: what moves pixels does so by bilinear interpolation, rounded to the nearest whole number, where
torchvision takes the nearest pixel; AutoContrast is exact, where Pillow's floating-point product may fall short of a
whole number by its last digit and lose 1.
"""

import math

import numpy as np
from keras import ops

from kcifar import backend
from kcifar.augment.geometric import Origin
from kcifar.augment.parameters import expect_rgb_or_grey, is_whole
from kcifar.errors import InputError

_BINS = 31  # of magnitude, as in both programs
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
_HALF = 33 / 64  # a little more: halves are rounded up, whatever the last digits of a backend
_SIGNED = range(1, 10)  # places in it of those whose amount is negative by half


class _Policy:
    """Draws operations and how much of each, and applies them, to each image its own."""

    def draw(self, rng, batch_size, image_shape):
        """Which of `OPERATIONS`, int32 (operations, batch), and how much of each, float32 of that shape: the slope of
        a shear, whole pixels, degrees, a factor less 1, the bits that Posterize leaves, the threshold of Solarize."""
        expect_rgb_or_grey(type(self).__name__, image_shape)
        shape = self.operations, batch_size
        chosen = rng.integers(0, len(OPERATIONS), shape, dtype="int32")
        amounts = self._amounts(image_shape)[chosen, self._magnitudes(rng, shape)]
        negative = (rng.random(shape) < 0.5) & np.isin(chosen, _SIGNED)
        return chosen, np.where(negative, -amounts, amounts).astype("float32")

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, in whole numbers, and the labels as they are."""
        dtype, images = images.dtype, backend.clipped(ops.round(ops.cast(images, "float32")), 0, 255)
        chosen, amounts = map(ops.convert_to_tensor, drawn)
        for place in range(self.operations):
            images = _operated(images, chosen[place], amounts[place])
        return ops.cast(images, dtype), labels


class RandAugment(_Policy):
    """Applies random operations, all of the same magnitude, to each image one after another.

    Cubuk et al. 2020, arXiv 1909.13719, as torchvision.transforms.RandAugment: each is drawn uniformly from
    `OPERATIONS`, the sign of its amount by a coin. Departures: the module names them.

    Args:
        operations: how many for each image, `num_ops` there.
        magnitude: 0 to 30, of 31 steps from nothing to the most.

    Raises:
        InputError: a number outside its range, or (when drawing) images that are neither RGB nor grey.
    """

    def __init__(self, operations=2, magnitude=9):
        if not is_whole(operations) or operations < 1:
            raise InputError(f"RandAugment(operations={operations!r}): expected a whole number, at least 1")
        if not is_whole(magnitude) or not 0 <= magnitude < _BINS:
            raise InputError(f"RandAugment(magnitude={magnitude!r}): expected a whole number from 0 to {_BINS - 1}")
        self.operations = operations
        self.magnitude = magnitude

    def _magnitudes(self, rng, shape):
        return np.full(shape, self.magnitude)

    def _amounts(self, image_shape):
        height, width = image_shape[:2]
        return _amounts(0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, 4)


class TrivialAugment(_Policy):
    """Applies one random operation of a random magnitude to each image.

    Müller & Hutter 2021, arXiv 2103.10158, as torchvision.transforms.TrivialAugmentWide: the operation and one of 31
    magnitudes are uniform, the sign of its amount a coin. Departures: the module names them.

    Raises:
        InputError: (when drawing) images that are neither RGB nor grey.
    """

    operations = 1

    def _magnitudes(self, rng, shape):
        return rng.integers(0, _BINS, shape)

    def _amounts(self, image_shape):
        return _amounts(0.99, 32, 32, 135, 0.99, 6)


def _amounts(shear, right, down, degrees, strength, bits):
    """Amounts of each operation at each magnitude: (operations, 31). `bits` are those that Posterize takes away."""
    up_to, nothing = np.linspace(0, 1, _BINS), np.zeros(_BINS)
    return np.array(
        [
            nothing,
            shear * up_to,
            shear * up_to,
            np.trunc(right * up_to),
            np.trunc(down * up_to),
            degrees * up_to,
            strength * up_to,
            strength * up_to,
            strength * up_to,
            strength * up_to,
            8 - np.round(bits * up_to),
            255 * (1 - up_to),
            nothing,
            nothing,
        ]
    )


def _operated(images, chosen, amounts):
    """Images behind one operation each: a resampling, a table of values, and a blend, of which two change nothing.

    Args:
        images: float32 (batch, height, width, channels), whole numbers.
        chosen, amounts: (batch,).
    """

    def amount(name, nothing=0.0):
        return ops.where(chosen == OPERATIONS.index(name), amounts, nothing)

    images = backend.resampled(images, _origin(amount, images.shape[1:3]), images.shape[1:3])
    images = ops.floor(images + _HALF)
    images = _looked_up(images, _table(images, chosen, amount))
    return _blended(images, amount)


def _origin(amount, shape):
    """As Pillow's shears, the top left corner stays."""
    (height, width), slope_x, slope_y = shape, amount("ShearX"), amount("ShearY")
    turn = amount("Rotate") * (math.pi / 180)
    return Origin(
        xx=ops.cos(turn),
        xy=slope_x - ops.sin(turn),
        x=slope_x * (height / 2) - amount("TranslateX"),
        yx=slope_y + ops.sin(turn),
        yy=ops.cos(turn),
        y=slope_y * (width / 2) - amount("TranslateY"),
    )


def _table(images, chosen, amount):
    """What becomes of each value of each channel: float32 (batch, channels, 256), whole numbers."""

    def each(name, nothing=0.0):
        return amount(name, nothing)[:, None, None]

    values = ops.arange(256, dtype="float32")
    step = 2.0 ** (8 - each("Posterize", 8.0))
    table = ops.floor(values / step) * step
    table = ops.where(table < each("Solarize", 256.0), table, 255 - table)
    mean = ops.floor(ops.mean(_grey(images), axis=(1, 2)) + 0.5)[:, None, None] * (each("Contrast") != 0)
    table = _between(mean, table, 1 + each("Brightness") + each("Contrast"))
    for name, changed in (("AutoContrast", _stretched), ("Equalize", _equalized)):
        table = ops.where((chosen == OPERATIONS.index(name))[:, None, None], changed(images, values), table)
    return table


def _stretched(images, values):
    """The least value of a channel becomes 0, the greatest 255."""
    least, most = (extreme(images, axis=(1, 2))[..., None] for extreme in (ops.min, ops.max))
    stretched = backend.clipped(ops.floor((values - least) * 255 / ops.maximum(most - least, 1)), 0, 255)
    return ops.where(most > least, stretched, values)


def _equalized(images, values):
    """As many pixels of a channel at each value, as PIL.ImageOps.equalize computes it."""
    batch, height, width, channels = images.shape
    counts = ops.reshape(
        ops.segment_sum(
            ops.ones(batch * height * width * channels, "float32"), _places(images), batch * channels * 256
        ),
        (batch, channels, 256),
    )
    greatest = ops.max(ops.where(counts > 0, values, 0), axis=-1, keepdims=True)
    of_greatest = ops.sum(ops.where(values == greatest, counts, 0), axis=-1, keepdims=True)
    step = ops.floor((height * width - of_greatest) / 255)
    before = ops.cast(ops.cumsum(ops.cast(counts, "int32"), axis=-1), "float32") - counts
    equal = backend.clipped(ops.floor((ops.floor(step / 2) + before) / ops.maximum(step, 1)), 0, 255)
    return ops.where(step > 0, equal, values)


def _looked_up(images, table):
    return ops.reshape(ops.take(ops.reshape(table, (-1,)), _places(images)), images.shape)


def _places(images):
    """Where each value of each pixel lies among 256 for each image and channel: int32, flat."""
    batch, _, _, channels = images.shape
    first = 256 * ops.reshape(ops.arange(batch * channels, dtype="int32"), (batch, 1, 1, channels))
    return ops.reshape(ops.cast(images, "int32") + first, (-1,))


def _blended(images, amount):
    """Colour blends with the grey of each pixel, Sharpness with a mean of its neighbourhood, where it has one."""
    color, sharpness = amount("Color")[:, None, None, None], amount("Sharpness")[:, None, None, None]
    other = ops.where(sharpness != 0, _smooth(images), _grey(images)[..., None])
    return _between(other, images, 1 + color + sharpness)


def _smooth(images):
    """Pillow's SMOOTH: the mean over 3×3 pixels, the middle one five times; pixels at the sides stay."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    inside = images[:, 1:-1, 1:-1]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inside
    change = ops.floor(around / 13 + 0.5) - inside
    return images + ops.pad(change, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _grey(images):
    """Pillow's luma, (19595·R + 38470·G + 7471·B) / 65536 to the nearest whole number: exact in float32."""
    if images.shape[-1] == 1:
        return images[..., 0]
    red, green, blue = (images[..., channel] for channel in range(3))
    return ops.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _between(other, values, factor):
    """`other` at a factor of 0, `values` at 1, and beyond; rounded towards 0, as Pillow."""
    return ops.floor(backend.clipped(other + factor * (values - other), 0, 255))
