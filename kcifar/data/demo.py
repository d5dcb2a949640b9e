"""Ten classes of drawn shapes: a data set that needs nothing and takes about a second."""

import numpy as np

from kcifar import chance
from kcifar.data.dataset import Dataset, Split

TRAIN, TEST = 5_000, 1_000


def _circle(x, y):
    return np.hypot(x, y) - 0.56


def _square(x, y):
    return np.maximum(abs(x), abs(y)) - 0.5


def _triangle(x, y):
    # The largest of three half-planes, each at the same distance from the middle.
    return np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.44


def _cross(x, y):
    x, y = abs(x), abs(y)
    return np.minimum(np.maximum(x - 0.72, y - 0.2), np.maximum(x - 0.2, y - 0.72))


def _ring(x, y):
    return abs(np.hypot(x, y) - 0.56) - 0.15


def _star(x, y):
    # Folded onto one of ten equal wedges, a five-pointed star has one straight edge, from a point to a notch.
    angle, radius = np.arctan2(x, -y), np.hypot(x, y)
    angle = abs(np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
    across, along = radius * np.sin(angle), radius * np.cos(angle)
    return 0.951 * across + 0.309 * (along - 0.95)


def _heart(x, y):
    x, y = abs(x), y + 0.12
    lobes = np.hypot(x - 0.3, y + 0.12) - 0.36
    point = np.maximum(0.707 * (x + y) - 0.46, -y - 0.12 - 0.3 * (x < 0.3))
    return np.minimum(lobes, np.maximum(point, 0.5 * (-y - 0.12)))


def _crescent(x, y):
    return np.maximum(np.hypot(x + 0.12, y) - 0.76, 0.58 - np.hypot(x - 0.25, y))


def _bars(x, y):
    return np.maximum(abs(abs(y) - 0.4) - 0.17, abs(x) - 0.72)


def _arrow(x, y):
    head = np.maximum(0.707 * (abs(x) - y) - 0.54, y)
    shaft = np.maximum(abs(x) - 0.24, abs(y - 0.35) - 0.4)
    return np.minimum(head, shaft)


SHAPES = {
    "arrow": _arrow,
    "bars": _bars,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
"""Signed distance of each shape, roughly, negative inside, in a plane whose y points down; areas are about equal."""


def draw(train=TRAIN, test=TEST, seed=0):
    """Images of one shape each, of any colour, place, size and slight rotation, on a busy background.

    The colours of shape and background are drawn alike for all classes and the shapes cover about equal areas, so
    colour tells nothing of the class. All numbers come from Philox with the key `(seed, DEMO)` (see `kcifar.chance`).

    Args:
        train, test: number of images, shared out evenly over the ten classes, in random order.
        seed: a whole number in 0 … 2**64 − 1.

    Returns:
        A `Dataset`, uint8 images `(n, 32, 32, 3)`, its classes named after the shapes.
    """
    rng = chance.generator(seed, chance.DEMO)
    splits = []
    for count in (train, test):
        labels = rng.permutation(np.arange(count, dtype=np.int64) % len(SHAPES))
        splits.append(Split(_paint(rng, labels), labels, len(SHAPES)))
    return Dataset(*splits, class_names=tuple(SHAPES), source=f"demo: drawn shapes, seed {seed}")


def _paint(rng, labels):
    n = len(labels)
    background, shape_colour = _colours(rng, n)
    cover = _coverage(rng, labels)[..., None]
    distractor = _distractors(rng, n)[..., None]
    image = background * (1 - distractor) + rng.uniform(0, 1, (n, 1, 1, 3)).astype(np.float32) * distractor
    image = image * (1 - cover) + shape_colour * cover
    image += rng.standard_normal(image.shape, np.float32) * _uniform(rng, 0.01, 0.06, n)[..., None]
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _grid():
    centres = (np.arange(32, dtype=np.float32) + 0.5) / 16 - 1
    return centres[None, None, :], centres[None, :, None]


def _uniform(rng, low, high, n):
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def _coverage(rng, labels):
    """How much of each pixel the shape covers, float32 `(n, 32, 32)`, 0–1: the antialiased edge is a pixel wide."""
    n = len(labels)
    size = _uniform(rng, 0.6, 0.95, n)
    room = 1 - size * 0.9
    x0, y0 = _uniform(rng, -1, 1, n) * room, _uniform(rng, -1, 1, n) * room
    angle = np.deg2rad(_uniform(rng, -15, 15, n))
    x, y = _grid()
    x, y = (x - x0) / size, (y - y0) / size
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    cover = np.empty(x.shape, np.float32)
    for label, distance in enumerate(SHAPES.values()):
        rows = labels == label
        cover[rows] = np.clip(0.5 - distance(x[rows], y[rows]) * size[rows] * 16, 0, 1)
    return cover


def _colours(rng, n):
    """Backgrounds, float32 `(n, 32, 32, 3)`: a gradient and a wave; and a shape colour that stands out from each."""
    x, y = _grid()
    angle, phase, waves = _uniform(rng, 0, 2 * np.pi, n), _uniform(rng, 0, 2 * np.pi, n), _uniform(rng, 2, 7, n)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    middle = rng.uniform(0, 1, (n, 1, 1, 3)).astype(np.float32)
    slope = rng.uniform(-0.2, 0.2, (n, 1, 1, 3)).astype(np.float32)
    wave = _uniform(rng, 0, 0.1, n) * np.sin(waves * across + phase)
    background = middle + slope * along[..., None] + wave[..., None]
    # At least 0.45 away from the background's middle in every channel's cyclic sense keeps all colours possible.
    shape_colour = np.mod(middle + rng.uniform(0.3, 0.7, middle.shape).astype(np.float32), 1)
    return background, shape_colour


def _distractors(rng, n):
    """A thin line across each image at a random place and angle, coverage float32 `(n, 32, 32)`."""
    x, y = _grid()
    angle = _uniform(rng, 0, np.pi, n)
    offset, width = _uniform(rng, -0.9, 0.9, n), _uniform(rng, 0.0, 0.08, n)
    distance = abs(np.cos(angle) * x + np.sin(angle) * y - offset) - width
    return np.clip(0.5 - distance * 16, 0, 1)
