"""Predictions that are kept in a run's folder: used while they are of this model and these images, else made anew."""

import numpy as np
import pytest

from kcifar import InputError, data
from kcifar.evaluation import models
from kcifar.evaluation.predictions import predictions
from tests.voting.test_members import logits, make_run, student, write_images

pytestmark = pytest.mark.once


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", write_images(tmp_path / "images.npz"))


@pytest.fixture
def test(run):
    return data.load(run.recipe.data).test


@pytest.fixture
def opened(monkeypatch):
    """The paths of the models that are opened, as they are."""
    paths, load = [], models.load_model

    def counted(path, *arguments, **options):
        paths.append(path)
        return load(path, *arguments, **options)

    monkeypatch.setattr(models, "load_model", counted)
    return paths


def expected(run, images):
    found = logits(run, images)
    return found - np.log(np.exp(found).sum(1, keepdims=True))


def assert_predicts(scores, run, split):
    np.testing.assert_array_equal(scores.labels, split.labels)
    # float32 sums of 3,072 products in another order
    np.testing.assert_allclose(scores.log_probabilities, expected(run, split.images), atol=1e-4)


def test_they_are_computed_once(run, test, opened):
    first = predictions(run, "test", test)
    assert_predicts(first, run, test)
    assert [path.name for path in run.predictions("test").parent.iterdir()] == ["test.npz"]
    second = predictions(run, "test", test)
    assert len(opened) == 1
    np.testing.assert_array_equal(second.log_probabilities, first.log_probabilities)
    assert second.log_probabilities.dtype == np.float64
    np.testing.assert_array_equal(second.labels, test.labels)


def test_each_split_and_augmentation_has_its_own(run, test, opened):
    validation = run.splits(data.load(run.recipe.data)).validation
    for _ in range(2):
        assert_predicts(predictions(run, "test", test), run, test)
        assert_predicts(predictions(run, "validation", validation), run, validation)
        flipped = predictions(run, "test", test, "flip").log_probabilities
        views = (logits(run, test.images) + logits(run, test.images[:, :, ::-1])) / 2
        np.testing.assert_allclose(flipped, views - np.log(np.exp(views).sum(1, keepdims=True)), atol=1e-4)
    assert len(opened) == 3
    names = {path.name for path in run.predictions("test").parent.iterdir()}
    assert names == {"test.npz", "validation.npz", "test-flip.npz"}


def test_another_model_is_computed_anew(run, test, opened):
    predictions(run, "test", test)
    student(5).save(run.best)
    for _ in range(2):
        assert_predicts(predictions(run, "test", test), run, test)
    assert len(opened) == 2


@pytest.mark.parametrize("what", ["pixel", "label", "order", "fewer"])
def test_other_images_are_computed_anew(what, run, test, opened):
    predictions(run, "test", test)
    images, labels = test.images.copy(), test.labels.copy()
    if what == "pixel":
        images[0, 0, 0, 0] ^= 255
    elif what == "label":
        labels[0] = (labels[0] + 1) % 4
    rows = {"order": np.arange(50)[::-1], "fewer": np.arange(49)}.get(what, np.arange(50))
    other = data.Split(images[rows], labels[rows], 4)
    assert_predicts(predictions(run, "test", other), run, other)
    assert len(opened) == 2


def truncated(content):
    return content[: len(content) // 2]


DAMAGE = {
    "empty": lambda _: b"",
    "half": truncated,
    "its end lost": lambda content: content[:-1],
    "text": lambda _: b"no file of NumPy\n",
    "zip's beginning": lambda _: b"PK\x03\x04" + b"\0" * 40,
    "overwritten": lambda content: content[:200] + bytes(len(content) - 400) + content[-200:],
    "a byte": lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_file_is_made_anew(damage, run, test, opened):
    predictions(run, "test", test)
    path = run.predictions("test")
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert_predicts(predictions(run, "test", test), run, test)
    assert len(opened) == 2


@pytest.mark.parametrize("lost", ["log_probabilities", "model", "images"])
def test_a_file_that_lacks_an_array_is_made_anew(lost, run, test, opened):
    predictions(run, "test", test)
    path = run.predictions("test")
    with np.load(path) as arrays:
        left = {name: arrays[name] for name in arrays.files if name != lost}
    np.savez(path, **left)
    assert_predicts(predictions(run, "test", test), run, test)
    assert len(opened) == 2


def test_where_nothing_can_be_written_they_are_computed_each_time(run, test, opened):
    """A file takes the folder's place: that stops even a user who may write everywhere."""
    run.predictions("test").parent.write_text("")
    for _ in range(2):
        assert_predicts(predictions(run, "test", test), run, test)
    assert len(opened) == 2


def test_a_full_disk_leaves_nothing_behind(run, test, opened, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_predicts(predictions(run, "test", test), run, test)
    assert list(run.predictions("test").parent.iterdir()) == []


def test_what_is_kept_is_what_evaluating_gives(run, test):
    found = models.evaluate(models.load_model(run.best), test)
    predictions(run, "test", test)
    again = predictions(run, "test", test)
    assert (again.accuracy, again.loss) == (found.accuracy, found.loss)


def test_runs_without_a_model_that_fits(run, test):
    with pytest.raises(InputError, match="4"):
        predictions(run, "test", data.Split(test.images, test.labels, 5))
    predictions(run, "test", test)
    run.best.write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be opened"):
        predictions(run, "test", test)
    run.best.unlink()
    with pytest.raises(InputError, match=r"has no best\.keras"):
        predictions(run, "test", test)
