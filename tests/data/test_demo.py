"""The drawn shapes: balanced, repeatable, and nothing to be learned from colour."""

import hashlib

import numpy as np
import pytest

from kcifar import InputError
from kcifar.data import demo

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def drawn():
    return demo.draw()


def test_sizes_and_balance(drawn):
    assert (len(drawn.train), len(drawn.test)) == (5000, 1000)
    assert len(drawn.class_names) == 10
    assert np.bincount(drawn.train.labels).tolist() == [500] * 10
    assert np.bincount(drawn.test.labels).tolist() == [100] * 10


def test_the_seed_decides():
    a, b, c = (demo.draw(50, 20, seed=seed) for seed in (0, 0, 1))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    with pytest.raises(InputError, match="seed"):
        demo.draw(10, 10, seed=-1)


def test_no_image_twice(drawn):
    images = np.concatenate([drawn.train.images, drawn.test.images])
    assert len({hashlib.sha256(image).digest() for image in images}) == 6000


def test_shapes_cover_equal_areas():
    """Within 10 % of a square of side 1, or the share of a colour would tell the class."""
    step = np.linspace(-1, 1, 401)
    x, y = np.meshgrid(step, step)
    for name, distance in demo.SHAPES.items():
        assert (distance(x, y) < 0).mean() * 4 == pytest.approx(1, abs=0.1), name


def test_shapes_stay_in_the_picture():
    """A disc of each size at the edge of its room still shows more than its half."""
    x, y = demo._grid()
    x, y = np.broadcast_arrays(x, y)
    for size in (0.4, 0.8):
        place = 1 - size * 0.9
        inside = np.hypot((x - place) / size, (y - place) / size) < 0.56
        assert inside.mean() * 4 > 0.9 * size**2 * np.pi * 0.56**2


def _colour_statistics(images):
    """Per channel mean, standard deviation and a histogram of eight bins, standardised later."""
    pixels = images.reshape(len(images), -1, 3)
    bins = pixels // 32
    histograms = [(bins == level).mean(axis=1) for level in range(8)]
    return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1), *histograms], axis=1)


def test_colour_alone_tells_nothing(drawn):
    """Ridge regression on colour statistics stays under 25 %; chance is 10 %."""
    train, test = _colour_statistics(drawn.train.images), _colour_statistics(drawn.test.images)
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, test = (np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=1) for x in (train, test))
    weights = np.linalg.solve(train.T @ train + np.eye(train.shape[1]), train.T @ np.eye(10)[drawn.train.labels])
    assert ((test @ weights).argmax(axis=1) == drawn.test.labels).mean() < 0.25
