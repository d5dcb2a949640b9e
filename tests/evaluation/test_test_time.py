"""Test-time augmentation: the mean of the logits over views, as airbench94's program takes it."""

import keras
import numpy as np
import pytest

from kcifar import InputError, data
from kcifar.evaluation.models import evaluate
from kcifar.evaluation.test_time import TEST_TIME_AUGMENTATIONS
from kcifar.recipe import VIEWS


@pytest.fixture(scope="module")
def split():
    """Images of noise, which a shift by one pixel changes."""
    rng = np.random.default_rng(0)
    return data.Split(rng.integers(0, 256, (7, 32, 32, 3)).astype("uint8"), rng.integers(0, 4, 7), 4)


@pytest.fixture(scope="module")
def model():
    """Logits that depend on where each pixel lies."""
    kernel = np.random.default_rng(1).normal(size=(32 * 32 * 3, 4)) / 5000
    dense = keras.layers.Dense(4)
    net = keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.Flatten(), dense])
    dense.set_weights([kernel, np.zeros(4)])
    return net


def logits(model, images):
    kernel = model.layers[-1].get_weights()[0].astype("float64")
    return images.reshape(len(images), -1).astype("float64") @ kernel


def moved(images, by):
    """One pixel after the other: what comes in at the sides is the image mirrored at its outermost pixels."""
    side = images.shape[1]

    def source(place):
        place = abs(place - by)
        return place if place < side else 2 * (side - 1) - place

    rows = [source(place) for place in range(side)]
    return images[:, rows][:, :, rows]


def expected(model, images, tta):
    def both(views):
        return (logits(model, views) + logits(model, views[:, :, ::-1])) / 2

    if tta == "none":
        return logits(model, images)
    if tta == "flip":
        return both(images)
    return both(images) / 2 + (both(moved(images, 1)) + both(moved(images, -1))) / 4


@pytest.mark.parametrize("tta", ["none", "flip", "flip+shift"])
def test_probabilities_are_those_of_the_mean_logits(model, split, tta):
    wanted = np.exp(expected(model, split.images, tta))
    found = evaluate(model, split, tta)
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-4)  # float32 sums of 3,072 products
    assert found.accuracy == (wanted.argmax(axis=1) == split.labels).mean()


def test_the_views_differ(model, split):
    found = [evaluate(model, split, tta).probabilities for tta in ("none", "flip", "flip+shift")]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[two]).max() > 0.01


def test_a_mirrored_image_has_the_same_mean(model, split):
    mirrored = data.Split(split.images[:, :, ::-1].copy(), split.labels, 4)
    one, two = (evaluate(model, images, "flip").probabilities for images in (split, mirrored))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_the_command_knows_all_of_them():
    assert {"none", *VIEWS} == set(TEST_TIME_AUGMENTATIONS)


def test_an_unknown_one_is_refused(model, split):
    with pytest.raises(InputError, match=r"'flips'; did you mean 'flip'\?"):
        evaluate(model, split, "flips")
