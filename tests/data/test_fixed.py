"""Transforms that are drawn once for each image: what each batch of every epoch then holds."""

import numpy as np
import pytest
from keras import ops

from kcifar import InputError, data
from kcifar.augment import MixUp, RandomCrop, RandomFlip, RandomRotation
from kcifar.data import Batches
from kcifar.data.fixed import Fixed


@pytest.fixture(scope="module")
def split():
    drawn = data.load("demo").train
    return data.Split(drawn.images[:1100], drawn.labels[:1100], drawn.classes)  # 500, 500 and 100 at once


def test_each_image_is_its_crop_and_flip_in_all_epochs(split):
    fixed = Fixed(split, [RandomCrop(32, 4), RandomFlip()], seed=3)
    assert (fixed.images.dtype, fixed.images.shape, len(fixed)) == (np.uint8, split.images.shape, len(split))
    padded = np.pad(split.images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for place in (0, 499, 500, 1099):
        windows = [padded[place, top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
        candidates = [window[:, ::step] for window in windows for step in (1, -1)]
        assert any(np.array_equal(fixed.images[place], candidate) for candidate in candidates)
    assert (fixed.images != split.images).any(axis=(1, 2, 3)).mean() > 0.9
    batches = Batches(fixed, 100, shuffle=False)
    for epoch in (0, 7):
        images, labels = batches.at(epoch, 4)
        np.testing.assert_array_equal(ops.convert_to_numpy(images), fixed.images[400:500])
        np.testing.assert_array_equal(ops.convert_to_numpy(labels).argmax(axis=1), split.labels[400:500])


def test_they_follow_from_the_seed_and_are_none_of_an_epochs(split):
    transforms = [RandomCrop(32, 4), RandomFlip()]
    fixed = Fixed(split, transforms, seed=3).images
    np.testing.assert_array_equal(Fixed(split, transforms, seed=3).images, fixed)
    assert (Fixed(split, transforms, seed=4).images != fixed).any()
    images, _ = Batches(split, 500, transforms, seed=3, shuffle=False).at(0, 0)
    assert (ops.convert_to_numpy(images) != fixed[:500]).any()


def test_pixels_between_bytes_stay(split):
    assert Fixed(split, [RandomRotation(10)], seed=3).images.dtype == np.float32


def test_what_mixes_images_is_refused(split):
    with pytest.raises(InputError, match="MixUp mixes images"):
        Fixed(split, [RandomFlip(), MixUp(0.4)], seed=3)
