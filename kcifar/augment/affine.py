"""Random rotations and other affine maps."""

import math

import numpy as np
from keras import ops

from kcifar.augment.geometric import Geometric, Origin
from kcifar.augment.parameters import chosen, expect_probability, interval, is_pair
from kcifar.errors import InputError

_RADIANS = math.pi / 180


class RandomRotation(Geometric):
    """Turns each image around its middle by a random angle; black comes in at the corners.

    As torchvision.transforms.RandomRotation(degrees, interpolation=BILINEAR); its default is the nearest pixel.

    Args:
        degrees: angles are from uniform [−degrees, degrees] or, given two numbers, between these; counter-clockwise.
        probability: that an image is turned at all.

    Raises:
        InputError: a negative number of degrees, two in the wrong order, or a probability outside [0, 1].
    """

    def __init__(self, degrees, probability=1.0):
        self.degrees = interval("RandomRotation", "degrees", degrees)
        self.probability = probability
        expect_probability("RandomRotation", probability)

    def draw(self, rng, batch_size, image_shape):
        """Angles in degrees: float32 (batch,), 0 for images that are not turned."""
        angles = rng.uniform(*self.degrees, batch_size)
        return np.where(chosen(rng, self.probability, batch_size), angles, 0).astype("float32")

    def origin(self, drawn, shape):
        angles = ops.convert_to_tensor(drawn) * _RADIANS
        return Origin(xx=ops.cos(angles), xy=-ops.sin(angles), yx=ops.sin(angles), yy=ops.cos(angles))


class RandomAffine(Geometric):
    """Turns, moves, scales and shears each image by random amounts around its middle; black comes in at the sides.

    As torchvision.transforms.RandomAffine(…, interpolation=BILINEAR); its default is the nearest pixel.

    Args:
        degrees: angles are from uniform [−degrees, degrees] or, given two numbers, between these; clockwise, as there.
        translate: largest movement to the sides and up and down, as shares of width and height. In whole pixels.
        scale: least and greatest factor of the size.
        shear: degrees that vertical lines lean by, from uniform [−shear, shear] or between two numbers; given four,
            the last two are bounds of how much horizontal lines lean.
        probability: that an image is changed at all.

    Raises:
        InputError: a number outside its range, or bounds in the wrong order.
    """

    def __init__(self, degrees=0, translate=(0.0, 0.0), scale=(1.0, 1.0), shear=0, probability=1.0):
        self.degrees = interval("RandomAffine", "degrees", degrees)
        if not (is_pair(translate) and min(translate) >= 0 and max(translate) <= 1):
            raise InputError(f"RandomAffine(translate={translate!r}): expected two shares of the size, from 0 to 1")
        if not (is_pair(scale) and 0 < scale[0] <= scale[1]):
            raise InputError(f"RandomAffine(scale={scale!r}): expected two factors above 0, in order")
        self.translate, self.scale = translate, scale
        self.shear_x, self.shear_y = _shears(shear)
        self.probability = probability
        expect_probability("RandomAffine", probability)

    def draw(self, rng, batch_size, image_shape):
        """Degrees, pixels to the right, pixels down, factor, and degrees of both shears: float32 (6, batch)."""
        height, width = image_shape[:2]
        across, down = self.translate[0] * width, self.translate[1] * height
        drawn = [
            rng.uniform(*self.degrees, batch_size),
            np.round(rng.uniform(-across, across, batch_size)),
            np.round(rng.uniform(-down, down, batch_size)),
            rng.uniform(*self.scale, batch_size),
            rng.uniform(*self.shear_x, batch_size),
            rng.uniform(*self.shear_y, batch_size),
        ]
        nothing = np.array([[0], [0], [0], [1], [0], [0]])
        return np.where(chosen(rng, self.probability, batch_size), drawn, nothing).astype("float32")

    def origin(self, drawn, shape):
        return affine_origin(*ops.convert_to_tensor(drawn))


def affine_origin(degrees, right, down, factor, shear_x, shear_y):
    """The `Origin` of images turned, moved, scaled and sheared as torchvision.transforms.functional.affine does it.

    The result is the image behind the map R(degrees) · Y(shear_y) · X(shear_x) · factor, then moved: R turns clockwise,
    X leans vertical lines by (x − y·tan, y), Y horizontal ones by (x, y − x·tan). Its inverse is written out.

    Args:
        degrees, right, down, factor, shear_x, shear_y: numbers or float32 (batch,); degrees, pixels and a factor.
    """
    turn, lean_x, lean_y = degrees * _RADIANS, shear_x * _RADIANS, shear_y * _RADIANS
    cosine, sine = ops.cos(turn) / factor, ops.sin(turn) / factor
    tan_x, tan_y = ops.tan(lean_x), ops.tan(lean_y)
    # X⁻¹ · Y⁻¹ · R⁻¹ / factor
    yx, yy = tan_y * cosine - sine, tan_y * sine + cosine
    xx, xy = cosine + tan_x * yx, sine + tan_x * yy
    return Origin(xx, xy, -(xx * right + xy * down), yx, yy, -(yx * right + yy * down))


def _shears(shear):
    """The bounds in degrees of both shears."""
    both = isinstance(shear, (list, tuple)) and len(shear) == 4
    try:
        found = [interval("RandomAffine", "shear", part) for part in ((shear[:2], shear[2:]) if both else (shear, 0))]
    except InputError:
        found = [(-90, 90)]
    if np.abs(found).max() >= 90:
        raise InputError(
            f"RandomAffine(shear={shear!r}): expected degrees below 90, a number ≥ 0, or two or four in order"
        )
    return found
