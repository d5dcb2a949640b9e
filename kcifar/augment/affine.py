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
        # The inverse of R(degrees) · Y(shear_y) · X(shear_x) · factor, written out: R turns clockwise, X leans vertical
        # lines by (x − y·tan, y), Y horizontal ones by (x, y − x·tan).
        degrees, right, down, factor, shear_x, shear_y = ops.convert_to_tensor(drawn)
        cosine, sine = ops.cos(degrees * _RADIANS) / factor, ops.sin(degrees * _RADIANS) / factor
        tan_x, tan_y = ops.tan(shear_x * _RADIANS), ops.tan(shear_y * _RADIANS)
        yx, yy = tan_y * cosine - sine, tan_y * sine + cosine
        xx, xy = cosine + tan_x * yx, sine + tan_x * yy
        return Origin(xx, xy, -(xx * right + xy * down), yx, yy, -(yx * right + yy * down))


def _shears(shear):
    """The bounds in degrees of both shears."""
    both = isinstance(shear, (list, tuple)) and len(shear) == 4
    parts = (shear[:2], shear[2:]) if both else (shear, 0)
    return [interval("RandomAffine", "shear", part, below=90, given=shear) for part in parts]
