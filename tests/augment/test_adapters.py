"""Layers of Keras and transforms of Albumentations as transforms: seeded by what is drawn, and what is refused."""

import albumentations
import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError
from kcifar.augment import Albumentations, KerasLayer, RandomFlip, adapted
from kcifar.data import Batches, Split

rng = np.random.default_rng(0)
SPLIT = Split(rng.integers(0, 256, (20, 8, 8, 3), np.uint8), rng.integers(0, 10, 20), 10)


def images(batches, epoch, step):
    return ops.convert_to_numpy(batches.at(epoch, step)[0])


TRANSFORMS = {
    "layer": lambda: KerasLayer(keras.layers.RandomBrightness(0.3)),
    "layers": lambda: KerasLayer(
        keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomContrast(0.5)])
    ),
    "albumentations": lambda: Albumentations(albumentations.RandomBrightnessContrast(p=1)),
    "compose": lambda: Albumentations(
        albumentations.Compose([albumentations.HorizontalFlip(p=0.5), albumentations.RandomCrop(6, 6)])
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_step_gives_the_same_bytes_whatever_came_before(name):
    one, other = (Batches(SPLIT, 5, [TRANSFORMS[name]()], seed=3) for _ in range(2))
    in_order = {(epoch, step): images(one, epoch, step) for epoch in range(2) for step in range(4)}
    for place in [(1, 3), (0, 2), (1, 3), (0, 0)]:
        np.testing.assert_array_equal(images(other, *place), in_order[place])
    assert len({found.tobytes() for found in in_order.values()}) == 8
    seeded = Batches(SPLIT, 5, [TRANSFORMS[name]()], seed=4, shuffle=False)
    assert (images(seeded, 0, 0) != images(Batches(SPLIT, 5, [TRANSFORMS[name]()], seed=3, shuffle=False), 0, 0)).any()


def test_a_layer_does_what_it_does_alone():
    found = images(Batches(SPLIT, 20, [KerasLayer(keras.layers.RandomBrightness((0.2, 0.2)))], shuffle=False), 0, 0)
    np.testing.assert_allclose(found, np.clip(SPLIT.images + 0.2 * 255, 0, 255), atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype int64:UserWarning")  # Keras's own, on JAX
def test_a_layer_that_mixes_labels_gets_them():
    transform = KerasLayer(keras.layers.MixUp(alpha=1.0))
    assert transform.mixes
    mixed, labels = Batches(SPLIT, 20, [transform], shuffle=False).at(0, 0)
    one_hot, labels = np.eye(10)[SPLIT.labels], ops.convert_to_numpy(labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert (labels != one_hot).any()
    assert (ops.convert_to_numpy(mixed) != SPLIT.images).any()


@pytest.mark.once
def test_albumentations_flips_whole_images():
    found = images(Batches(SPLIT, 20, [Albumentations(albumentations.HorizontalFlip(p=0.5))], shuffle=False), 0, 0)
    flipped = [(found[place] == SPLIT.images[place, :, ::-1]).all() for place in range(20)]
    kept = [(found[place] == SPLIT.images[place]).all() for place in range(20)]
    assert found.dtype == np.uint8
    assert [a + b for a, b in zip(flipped, kept, strict=True)] == [1] * 20
    assert 3 < sum(flipped) < 17


def test_what_is_a_transform_stays_and_others_are_wrapped():
    flip = RandomFlip()
    assert adapted(flip) is flip
    assert isinstance(adapted(keras.layers.RandomContrast(0.1)), KerasLayer)
    assert isinstance(adapted(albumentations.VerticalFlip()), Albumentations)


@pytest.mark.parametrize("wrong", [3, "RandomFlip", object(), keras.losses.MeanSquaredError()])
def test_what_is_no_transform_is_refused(wrong):
    with pytest.raises(InputError, match="draw and apply"):
        adapted(wrong)
    with pytest.raises(InputError, match="layer of Keras"):
        KerasLayer(wrong)
    with pytest.raises(InputError, match="transform of Albumentations"):
        Albumentations(wrong)


def test_images_of_several_sizes_are_refused():
    several = albumentations.OneOf([albumentations.RandomCrop(6, 6, p=1), albumentations.RandomCrop(7, 7, p=1)], p=1)
    with pytest.raises(InputError, match="several sizes"):
        Batches(SPLIT, 20, [Albumentations(several)]).at(0, 0)
