"""KerasCV's layers as transforms: seeded by what is drawn, the same on both backends; clear errors without it."""

import hashlib
import importlib.util
import random
import sys

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError, data, experiment, recipe
from kcifar.augment import KerasCV, MixUp, RandomFlip
from tests.conftest import NO_KERAS_CV, ROOT

INSTALLED = importlib.util.find_spec("keras_cv") is not None
needs_keras_cv = pytest.mark.skipif(not INSTALLED, reason=NO_KERAS_CV)
# TensorFlow and KerasCV warn of their own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

JITTER = {"brightness_factor": 0.2, "contrast_factor": 0.2, "saturation_factor": 0.2, "hue_factor": 0.1}
LAYERS = {
    "RandAugment": {"magnitude": 0.3},
    "GridMask": {},
    "RandomColorJitter": JITTER,
    "RandomCutout": {"height_factor": 0.3, "width_factor": 0.3},
    "MixUp": {},
    "CutMix": {},
}


def batch(count=4):
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype("uint8")
    return ops.convert_to_tensor(images), ops.convert_to_tensor(np.eye(10, dtype="float32")[:count])


def applied(transform, seed):
    return tuple(map(ops.convert_to_numpy, transform.apply(*batch(), seed)))


@needs_keras_cv
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_follows_from_the_seed_alone(name):
    transform = KerasCV(name, **LAYERS[name])
    first, other, again = (applied(transform, seed) for seed in (5, 6, 5))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(applied(KerasCV(name, **LAYERS[name]), 5)[0], first[0])  # not from what came before
    assert np.abs(first[0] - other[0]).max() > 1
    images, labels = first
    assert images.dtype == labels.dtype == "float32"
    assert images.shape == (4, 32, 32, 3)
    assert images.min() >= 0
    assert images.max() < 255.001
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


@needs_keras_cv
def test_both_backends_see_the_same_bytes():
    """Of a layer that draws by TensorFlow's generators, as most do, and only covers pixels: nothing is rounded."""
    found = hashlib.sha256(applied(KerasCV("RandomCutout", **LAYERS["RandomCutout"]), 5)[0].tobytes()).hexdigest()
    assert found[:16] == "79785cca84058122"  # on torch and on JAX


@needs_keras_cv
def test_values_that_a_layer_computes_are_of_0_to_255():
    images = applied(KerasCV("Solarization"), 0)[0]
    np.testing.assert_array_equal(images, 255 - ops.convert_to_numpy(batch()[0]).astype("float32"))


@needs_keras_cv
def test_in_batches_beside_other_transforms_a_step_can_be_had_again():
    split = data.Split(ops.convert_to_numpy(batch(8)[0]), np.arange(8), 10)
    batches = data.Batches(split, 4, [RandomFlip(), KerasCV("RandomCutout", **LAYERS["RandomCutout"])], seed=3)
    one, two, again = (tuple(map(ops.convert_to_numpy, batches[step])) for step in (0, 1, 0))
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert (one[0] != two[0]).any()


@needs_keras_cv
def test_what_python_and_the_backend_draw_is_left_alone():
    def drawn():
        return random.random(), ops.convert_to_numpy(keras.random.uniform((3,))).tolist()

    keras.utils.set_random_seed(1)
    expected = drawn(), drawn()
    keras.utils.set_random_seed(1)
    first = drawn()
    applied(KerasCV("RandomColorJitter", **JITTER), 5)
    assert (first, drawn()) == expected


@needs_keras_cv
def test_the_recipe_runs_a_step():
    path = ROOT / "recipes" / "randaugment_kerascv.py"
    chosen = recipe.load(path).override(["data=demo", "batch_size=4", "select_on=last"])
    planned = experiment.plan(chosen)
    images, labels = planned.batches[0]
    assert np.isfinite(planned.model.train_on_batch(images, labels)).all()


@needs_keras_cv
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: KerasCV("RandAugmen"), "did you mean 'RandAugment'"),
        (lambda: KerasCV("RandAugment", magnitud=0.3), "magnitud"),
        (lambda: KerasCV("RandAugment", magnitude=30), "[0, 1]"),
        (lambda: KerasCV("MixUp", seed=1), "the recipe's"),
        (lambda: data.Batches(data.load("demo").train, 4, [MixUp(0.2), KerasCV("CutMix")]), "MixUpOrCutMix"),
    ],
)
def test_wrong_use_is_refused(make, says):
    with pytest.raises(InputError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install keras-cv tensorflow-cpu"):
        KerasCV("RandAugment", magnitude=0.3)
