"""Batches: each image once an epoch, the same bytes whatever came before and on both backends, no copy of the data."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError
from kcifar.augment import MixUp, RandomCrop, RandomFlip
from kcifar.data import Batches, Split

ROOT = Path(__file__).parents[2]
CROP_FLIP = (RandomCrop(32, 4), RandomFlip())


def numbered(count=23, classes=10):
    """Image i is all i, so that it is known after a crop and a flip; its label is i mod `classes`."""
    images = np.zeros((count, 32, 32, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    return Split(images, np.arange(count) % classes, classes)


def noise(count=40, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return Split(images, np.arange(count) % 10, 10)


def arrays(batch):
    return tuple(ops.convert_to_numpy(part) for part in batch)


def read(batches, epoch, step):
    batches.epoch = epoch
    return arrays(batches[step])


def order(batches, epoch=0):
    """The numbers of the images, batch by batch."""
    return [read(batches, epoch, step)[0][:, 16, 16, 0].tolist() for step in range(len(batches))]


def flat(lists):
    return [number for numbers in lists for number in numbers]


@pytest.mark.parametrize("transforms", [(), CROP_FLIP])
def test_every_image_once_an_epoch(transforms):
    batches = Batches(numbered(), 5, transforms)
    for epoch in range(3):
        assert sorted(flat(order(batches, epoch))) == list(range(23))


def test_the_last_batch_is_smaller_or_left_out():
    assert [len(numbers) for numbers in order(Batches(numbered(), 5))] == [5, 5, 5, 5, 3]
    assert [len(numbers) for numbers in order(Batches(numbered(), 5, drop_last=True))] == [5, 5, 5, 5]
    assert [len(numbers) for numbers in order(Batches(numbered(20), 5, drop_last=True))] == [5, 5, 5, 5]
    assert [len(numbers) for numbers in order(Batches(numbered(20), 5))] == [5, 5, 5, 5]
    assert [len(numbers) for numbers in order(Batches(numbered(), 23, drop_last=True))] == [23]


def test_what_is_dropped_differs_from_epoch_to_epoch():
    batches = Batches(numbered(), 20, drop_last=True)
    missing = [frozenset(range(23)) - frozenset(flat(order(batches, epoch))) for epoch in range(5)]
    assert {len(numbers) for numbers in missing} == {3}
    assert len(set(missing)) > 1


def test_drop_last_changes_no_other_batch():
    assert order(Batches(numbered(), 5, drop_last=True)) == order(Batches(numbered(), 5))[:-1]


def test_without_shuffle_the_order_is_the_splits():
    batches = Batches(numbered(), 5, shuffle=False)
    assert flat(order(batches)) == list(range(23))
    assert flat(order(batches, epoch=4)) == list(range(23))


def test_without_shuffle_and_transforms_the_bytes_are_the_splits():
    split = noise()
    images, labels = read(Batches(split, 16, shuffle=False), 0, 1)
    np.testing.assert_array_equal(images, split.images[16:32])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels.argmax(axis=1), split.labels[16:32])


def test_another_epoch_or_seed_is_another_order():
    orders = [flat(order(Batches(numbered(), 5, seed=seed), epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(numbers) for numbers in orders}) == 9
    assert list(range(23)) not in orders


def test_an_order_is_a_fair_shuffle():
    """Image 0 is at each of 4 places alike: 400 epochs, each place within 5 standard deviations (8.7) of 100."""
    batches = Batches(numbered(4), 4)
    counts = np.bincount([order(batches, epoch)[0].index(0) for epoch in range(400)], minlength=4)
    assert (abs(counts - 100) < 5 * 8.7).all()


def test_labels_are_one_hot_and_belong_to_their_images():
    batches = Batches(numbered(), 5, CROP_FLIP)
    for step in range(5):
        images, labels = read(batches, 1, step)
        assert labels.dtype == np.float32
        expected = np.eye(10)[images[:, 16, 16, 0] % 10]
        np.testing.assert_array_equal(labels, expected)


def test_there_is_a_column_for_a_class_that_does_not_occur():
    split = Split(np.zeros((4, 32, 32, 3), np.uint8), np.int64([0, 1, 1, 0]), 7)
    assert read(Batches(split, 4), 0, 0)[1].shape == (4, 7)


def test_the_same_bytes_whatever_was_read_before():
    transforms = (*CROP_FLIP, MixUp(0.4))
    forwards, backwards = Batches(noise(), 16, transforms, seed=3), Batches(noise(), 16, transforms, seed=3)
    places = [(epoch, step) for epoch in range(3) for step in range(3)]
    first = {place: read(forwards, *place) for place in places}
    for place in [*reversed(places), (1, 1), (1, 1), (0, 2)]:
        images, labels = read(backwards, *place)
        np.testing.assert_array_equal(images, first[place][0])
        np.testing.assert_array_equal(labels, first[place][1])


def test_reading_leaves_numpys_and_pythons_generators_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    read(Batches(noise(), 16, (*CROP_FLIP, MixUp(0.4))), 0, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_draws_differ_by_epoch_step_seed_and_place_in_the_list():
    """Two crops in a row draw apart, and so do batches, epochs and seeds: all corners of the black frame differ."""
    white = Split(np.full((32, 32, 32, 3), 255, np.uint8), np.zeros(32, np.int64), 1)

    def frames(seed, epoch, step):
        return read(Batches(white, 16, (RandomCrop(32, 4),), seed=seed, shuffle=False), epoch, step)[0].tobytes()

    drawn = [frames(s, e, t) for s in (0, 1) for e in (0, 1) for t in (0, 1)]
    assert len(set(drawn)) == 8
    once, twice = RandomCrop(32, 4), (RandomCrop(32, 4), RandomCrop(32, 4))
    images = read(Batches(white, 16, twice, shuffle=False), 0, 0)[0]
    corners = read(Batches(white, 16, (once,), shuffle=False), 0, 0)[0]
    # Were both the same draw, an image moved up by one would be moved up by two: an even number of black rows.
    rows = (images.max(axis=(2, 3)) == 0).sum(axis=1)
    assert (corners.max(axis=(2, 3)) == 0).sum(axis=1).max() <= 4
    assert (rows % 2 == 1).any()


def test_mixup_mixes_images_and_labels_alike():
    """An image of all i becomes λi + (1−λ)j; labels say which i, j and λ."""
    images, labels = read(Batches(numbered(10), 10, (MixUp(1.0),)), 0, 0)
    expected = labels.astype(np.float64) @ np.arange(10)
    np.testing.assert_allclose(images[:, 5, 7, 1], expected, atol=1e-5)  # values to 9, float32
    assert images.dtype == np.float32
    assert ((labels > 0) & (labels < 1)).any()


class Recorded(Batches):
    """Notes what it serves."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.served = []

    def __getitem__(self, step):
        images, labels = super().__getitem__(step)
        self.served.append((self.epoch, step, tuple(ops.convert_to_numpy(images)[:, 16, 16, 0].tolist())))
        return images, labels


def tiny_model():
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="sgd", loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["categorical_accuracy"]
    )
    return model


@pytest.mark.parametrize("shuffle", [False, True], ids=["shuffle=False", "Keras's own shuffle"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_fit_serves_each_epoch_once(shuffle, drop_last):
    batches = Recorded(numbered(), 5, drop_last=drop_last)
    # Keras may peek at a batch to build the metrics: sets, not lists.
    tiny_model().fit(batches, shuffle=shuffle, epochs=3, verbose=0)
    assert batches.epoch == 3
    alone = Batches(numbered(), 5, drop_last=drop_last)
    expected = {(epoch, i, tuple(n)) for epoch in range(3) for i, n in enumerate(order(alone, epoch))}
    assert set(batches.served) == expected


def test_fit_without_keras_shuffle_goes_step_by_step():
    batches = Recorded(numbered(), 5)
    tiny_model().fit(batches, shuffle=False, epochs=2, verbose=0)
    assert [step for _, step, _ in batches.served[-10:]] == [0, 1, 2, 3, 4] * 2


def test_a_second_fit_goes_on_at_the_next_epoch():
    batches, model = Recorded(numbered(), 5), tiny_model()
    model.fit(batches, shuffle=False, epochs=2, verbose=0)
    batches.served.clear()
    model.fit(batches, shuffle=False, epochs=1, verbose=0)
    assert {epoch for epoch, _, _ in batches.served} == {2}
    assert batches.epoch == 3


def test_a_set_epoch_is_where_fit_begins():
    batches = Recorded(numbered(), 5)
    batches.epoch = 7
    tiny_model().fit(batches, shuffle=False, epochs=2, verbose=0)
    assert {epoch for epoch, _, _ in batches.served} == {7, 8}


@pytest.mark.parametrize("batch_size", [5, 23])
def test_reading_them_otherwise_counts_no_epoch(batch_size):
    """The batches are the same whatever looks at them in between: with one batch an epoch, the first look too."""
    batches, model = Recorded(numbered(), batch_size), tiny_model()
    validation = Batches(numbered(), batch_size)
    for epoch in range(2):
        model.fit(batches, shuffle=False, validation_data=validation, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
        model.evaluate(batches, verbose=0), model.predict(batches, verbose=0)
        assert (batches.epoch, validation.epoch) == (epoch + 1, 0)
    served = [numbers for epoch, _, numbers in batches.served if epoch == 1]
    alone = Batches(numbered(), batch_size)
    assert served[-len(alone) :] == [tuple(numbers) for numbers in order(alone, 1)]


def test_predict_and_evaluate_take_them():
    model, split = tiny_model(), numbered()
    batches = Batches(split, 5, shuffle=False)
    assert model.predict(batches, verbose=0).shape == (23, 10)
    pixels = split.images.astype(np.float32)
    expected = model.evaluate(pixels, np.eye(10)[split.labels], batch_size=5, verbose=0)
    np.testing.assert_allclose(model.evaluate(batches, verbose=0), expected, rtol=1e-6)


def test_the_images_are_not_copied():
    split = Split(np.zeros((4000, 32, 32, 3), np.uint8), np.zeros(4000, np.int64), 10)  # 12 MB
    tracemalloc.start()
    batches = Batches(split, 8, CROP_FLIP)
    read(batches, 0, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6


def test_the_split_is_left_as_it_was():
    split = noise()
    before = split.images.tobytes()
    for step in range(3):
        images, _ = read(Batches(split, 16, (*CROP_FLIP, MixUp(0.4)), shuffle=False), 0, step)
        assert not np.shares_memory(images, split.images)
    assert split.images.tobytes() == before


@pytest.mark.parametrize("batch_size", [0, -1, 24, 2.5, "5"])
def test_a_batch_size_that_does_not_fit_is_refused(batch_size):
    with pytest.raises(InputError, match=str(batch_size)) as caught:
        Batches(numbered(), batch_size)
    assert "\n" not in str(caught.value)


def test_the_whole_split_is_a_batch():
    assert len(Batches(numbered(), 23)) == 1


# The same on both backends


def hashes():
    """sha256 of the images and labels of every batch of crop and flip, for two seeds and three epochs."""
    found = {}
    for seed in (0, 11):
        batches = Batches(noise(), 16, CROP_FLIP, seed=seed)
        for epoch in range(3):
            for step in range(len(batches)):
                images, labels = read(batches, epoch, step)
                bytes_of_both = images.tobytes() + labels.tobytes()
                found[f"{seed} {epoch} {step} {images.dtype}"] = hashlib.sha256(bytes_of_both).hexdigest()
    return found


def mixed():
    """Images and labels of every batch of crop, flip and MixUp, for three epochs."""
    batches = Batches(noise(), 16, (*CROP_FLIP, MixUp(0.4)), seed=5)
    return [part for epoch in range(3) for step in range(3) for part in read(batches, epoch, step)]


@pytest.mark.once
def test_both_backends_see_the_same_batches(tmp_path):
    other = "jax" if keras.backend.backend() == "torch" else "torch"
    program = """
import json, sys
import numpy as np, keras
from tests.data import test_batches
assert keras.backend.backend() == sys.argv[2]
np.savez(sys.argv[1], *test_batches.mixed())
print(json.dumps(test_batches.hashes()))
"""
    environment = os.environ | {"KERAS_BACKEND": other, "PYTHONPATH": str(ROOT)}
    file = tmp_path / "mixed.npz"
    done = subprocess.run(
        [sys.executable, "-c", program, file, other], env=environment, capture_output=True, text=True, check=True
    )
    ours, theirs = hashes(), json.loads(done.stdout.splitlines()[-1])
    assert ours == theirs
    assert len(set(ours.values())) == 2 * 3 * 3
    with np.load(file) as stored:
        theirs = list(stored.values())
    for i, (here, there) in enumerate(zip(mixed(), theirs, strict=True)):
        # Images on the scale 0–255, labels on 0–1: a sum of two products in float32.
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-6 * (255 if i % 2 == 0 else 1))


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_prepared_ahead_are_the_same(ahead, monkeypatch):
    monkeypatch.setattr("kcifar.backend.prepares_ahead", lambda: ahead)
    batches, expected = Batches(noise(), 16, CROP_FLIP, seed=3), Batches(noise(), 16, CROP_FLIP, seed=3)
    for epoch in range(2):
        for step in (*range(len(batches)), 1, 0):
            expected.epoch = epoch
            for got, wanted in zip(batches[step], expected.at(epoch, step), strict=True):
                np.testing.assert_array_equal(ops.convert_to_numpy(got), ops.convert_to_numpy(wanted))
        batches.on_epoch_end()


class RunsOut:
    """Draws nothing three times, then fails."""

    left = 3

    def draw(self, rng, batch_size, image_shape):
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError("no more")

    def apply(self, images, labels, drawn):
        return images, labels


def test_what_fails_while_a_batch_is_prepared_ahead_is_raised(monkeypatch):
    monkeypatch.setattr("kcifar.backend.prepares_ahead", lambda: True)
    batches = Batches(noise(), 10, [RunsOut()])  # looks at one image
    assert len(batches[0]) == len(batches[1]) == 2
    with pytest.raises(ArithmeticError, match="no more"):
        batches[2]
