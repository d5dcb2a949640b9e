"""Split and Dataset: what they accept, the validation split, the fingerprint; what importing the room costs."""

import subprocess
import sys

import numpy as np
import pytest

from kcifar import InputError
from kcifar.data import Dataset, Split
from tests.data_fixtures import make

pytestmark = pytest.mark.once

IMAGES = np.zeros((3, 32, 32, 3), np.uint8)
LABELS = np.array([0, 1, 2], np.int64)


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, 3, "float32"),
        (IMAGES.reshape(3, 3, 32, 32), LABELS, 3, r"\(3, 3, 32, 32\)"),
        (IMAGES[..., :2], LABELS, 3, r"\(3, 32, 32, 2\)"),
        (IMAGES[..., 0], LABELS, 3, r"expected uint8 of shape \(n, height, width, channels\)"),
        (np.array(1, np.uint8), LABELS, 3, r"shape \(\)"),
        (IMAGES, LABELS.astype(np.int32), 3, "int32"),
        (IMAGES, LABELS[:2], 3, r"expected int64 of shape \(3,\)"),
        (IMAGES, LABELS, 2, "out of range: 2 at index 2"),
        (IMAGES, LABELS - 1, 3, "out of range: -1 at index 0"),
        (IMAGES[:0], LABELS[:0], 3, "no images"),
        (IMAGES, LABELS, 0, "classes is 0"),
        (IMAGES.tolist(), LABELS, 3, "images are a list"),
    ],
)
def test_a_split_of_other_arrays_is_refused(images, labels, classes, message):
    with pytest.raises(InputError, match=message):
        Split(images, labels, classes)


def test_a_split_is_read_only_and_leaves_the_callers_array_alone():
    images = IMAGES.copy()
    split = Split(images, LABELS, 3)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 1
    images[0] = 1
    assert len(split) == 3
    assert repr(split) == "Split(3 images, 3 classes)"


def test_class_names_fit_the_splits():
    split = Split(IMAGES, LABELS, 3)
    assert Dataset(split, split, ["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(InputError, match="3 classes but there are 2"):
        Dataset(split, split, ("a", "b"))
    with pytest.raises(InputError, match=r"named a; .*each name once"):
        Dataset(split, split, ("a", "b", "a"))


def test_the_splits_have_images_of_one_shape():
    split, grey = Split(IMAGES, LABELS, 3), Split(IMAGES[:2, :8, ..., :1], LABELS[:2], 3)
    assert Dataset(grey, grey, "abc").image_shape == (8, 32, 1)
    with pytest.raises(InputError, match=r"32×32 \(3 in train\), 8×32 grey \(2 in test\)"):
        Dataset(split, grey, "abc")


def test_validation_is_a_random_part_in_order():
    whole = make()
    parts = whole.split_validation(0.25, seed=3)
    assert (len(parts.train), len(parts.validation)) == (45, 15)
    assert parts.test is whole.test
    # Every image is in exactly one part, and each part is in the order of the whole.
    index = {image.tobytes(): i for i, image in enumerate(whole.train.images)}
    rows = [[index[image.tobytes()] for image in split.images] for split in (parts.train, parts.validation)]
    assert sorted(rows[0] + rows[1]) == list(range(60))
    assert all(part == sorted(part) for part in rows)
    np.testing.assert_array_equal(parts.validation.labels, whole.train.labels[rows[1]])
    # An independent reading of the definition: Philox with the key (seed, 3), 3 standing for SPLIT.
    order = np.random.Generator(np.random.Philox(key=np.array([3, 3], np.uint64))).permutation(60)
    assert rows[1] == sorted(order[:15])


def test_validation_depends_on_the_seed_only():
    whole = make()
    a, b, c = (whole.split_validation(0.2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.validation.images, b.validation.images)
    assert not np.array_equal(a.validation.images, c.validation.images)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), "0.1", None, True, 0.001, 0.999])
def test_a_validation_fraction_that_leaves_a_part_empty_is_refused(fraction):
    with pytest.raises(InputError, match="validation"):
        make().split_validation(fraction)


def test_a_second_validation_split_is_refused():
    with pytest.raises(InputError, match="already"):
        make().split_validation().split_validation()


def test_the_fingerprint_tells_data_apart():
    assert make().fingerprint() == make().fingerprint()
    assert make().fingerprint() != make(seed=1).fingerprint()
    assert make().fingerprint() != make().split_validation().fingerprint()


def test_importing_the_room_imports_no_backend():
    code = (
        "import sys, kcifar.data as data;"
        "assert {'Batches', 'CLASS_NAMES', 'Dataset', 'Split', 'load'} == set(dir(data));"
        "heavy = {'keras', 'torch', 'jax', 'tensorflow_datasets', 'PIL', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_are_imported_when_asked_for():
    import kcifar.data

    assert kcifar.data.Batches.__name__ == "Batches"
    with pytest.raises(AttributeError, match="no attribute 'Bathces'"):
        _ = kcifar.data.Bathces
