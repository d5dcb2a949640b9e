"""Runs as members: the images that all of them held out, what they predict there, and runs that cannot be members."""

import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kcifar import InputError, data, recipe
from kcifar.data.dataset import validation_rows
from kcifar.runs import folder, saved
from kcifar.voting.members import members

pytestmark = pytest.mark.once

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.py"
CLASSES = ("ant", "bee", "cow", "doe")
SIZE = 32 * 32 * 3


def teacher():
    return np.random.default_rng(77).normal(size=(SIZE, len(CLASSES))) / SIZE**0.5


def write_images(path, seed=0, train=60, test=50, class_names=CLASSES):
    """An .npz of noise, labelled by a linear function of the pixels."""
    rng, arrays = np.random.default_rng(seed), {"class_names": np.array(class_names)}
    for name, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = ((images.reshape(count, -1) / 255 - 0.5) @ teacher()).argmax(1)
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
    np.savez(path, **arrays)
    return str(path)


def student(seed, noise=1.0):
    """A linear model of logits that is right as often as little noise lets it be."""
    image = layers.Input((32, 32, 3), name="image")
    x = layers.Flatten()(layers.Rescaling(1 / 255, offset=-0.5)(image))
    model = keras.Model(image, layers.Dense(len(CLASSES), name="logits")(x), name="student")
    drawn = np.random.default_rng(seed).normal(size=(SIZE, len(CLASSES))) / SIZE**0.5
    model.get_layer("logits").set_weights([4 * (teacher() + noise * drawn), np.zeros(len(CLASSES))])
    return model


def make_run(path, images, seed=0, model=None, **fields):
    """The folder of a run as after its training, with a model that was never trained."""
    fields = {"validation": 0.5, "validation_seed": 0, "data": images, "seed": seed, "select_on": "last"} | fields
    resolved = dataclasses.replace(recipe.load(RECIPE), **fields)
    dataset = data.load(images)
    if resolved.validation:
        dataset = dataset.split_validation(resolved.validation, resolved.validation_seed)
    run = folder.create(path, resolved, RECIPE.read_text(), dataset)
    (model or student(seed)).save(run.best)
    run.metrics.write_text("{}")
    return run


def runs_of(splits, images, path):
    """Runs that held out these (fraction, seed)."""
    return [
        make_run(path / f"run{place}", images, place, validation=fraction, validation_seed=seed)
        for place, (fraction, seed) in enumerate(splits)
    ]


def logits(run, images):
    """Of a run's best model in plain Keras."""
    return np.float64(keras.saving.load_model(run.best).predict(np.float32(images), verbose=0))


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images.npz")


def assert_predicts(scores, run, images, labels):
    np.testing.assert_array_equal(scores.labels, labels)
    found = logits(run, images)
    expected = found - np.log(np.exp(found).sum(1, keepdims=True))
    # float32 sums of 3,072 products, as one model or accelerated, in batches of other sizes
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-4)


def test_members_that_held_out_the_same_images(images, tmp_path):
    runs = [make_run(tmp_path / f"run{seed}", images, seed) for seed in range(2)]
    found = members(runs)
    dataset = data.load(images)
    rows = validation_rows(60, 0.5, 0)
    assert len(rows) == 30
    assert found.warnings == []
    assert found.runs == runs
    assert found.dataset.validation is None
    assert len(found.dataset.train) == 60
    for place, run in enumerate(runs):
        assert_predicts(found.validation[place], run, dataset.train.images[rows], dataset.train.labels[rows])
        assert_predicts(found.test[place], run, dataset.test.images, dataset.test.labels)
    assert not np.array_equal(found.test[0].predicted, found.test[1].predicted)


@pytest.mark.parametrize(
    "splits",
    [
        [(0.8, 0), (0.7, 1)],
        [(0.5, 0), (0.4, 0)],
        [(0.8, 3), (0.7, 3), (0.9, 4)],
    ],
    ids=["seeds", "fractions", "both"],
)
def test_members_that_held_out_different_images(splits, tmp_path):
    """Only those that nobody trained on count, and each member's predictions are of just these."""
    images = write_images(tmp_path / "many.npz", train=1500)
    runs = runs_of(splits, images, tmp_path)
    held_out = [set(validation_rows(1500, fraction, seed).tolist()) for fraction, seed in splits]
    rows = sorted(set.intersection(*held_out))
    assert 500 <= len(rows) < max(map(len, held_out))
    found, dataset = members(runs), data.load(images)
    assert len(found.warnings) == 1
    assert "leak" in found.warnings[0]
    assert f" {len(rows):,} images" in found.warnings[0]
    for place, run in enumerate(runs):
        assert_predicts(found.validation[place], run, dataset.train.images[rows], dataset.train.labels[rows])


@pytest.mark.parametrize(("common", "enough"), [(500, True), (499, False), (1, False)])
def test_few_images_that_all_held_out(common, enough, tmp_path):
    """Fewer than 500 choose nothing, and it is said how many there are."""
    images = write_images(tmp_path / "many.npz", train=1000)
    found = members(runs_of([(0.6, 0), (common / 1000, 0)], images, tmp_path))
    assert [len(scores.labels) for scores in found.validation] == ([500, 500] if enough else [])
    assert len(found.warnings) == 1
    assert "leak" in found.warnings[0]
    assert f" {common}{' images' if enough else ', too few to choose on'}" in found.warnings[0]


def test_a_member_that_is_still_trained_votes_with_a_warning(images, tmp_path):
    runs = [make_run(tmp_path / f"run{seed}", images, seed) for seed in range(2)]
    runs[1].metrics.unlink()
    found = members(runs)
    assert [len(scores.labels) for scores in found.validation] == [30, 30]
    assert found.warnings == [f"{runs[1].path}: not ended yet; the best epoch so far votes"]


def test_members_that_held_out_nothing_in_common(images, tmp_path):
    first, second = next(
        (a, b)
        for a in range(9)
        for b in range(a)
        if not set(validation_rows(60, 0.1, a).tolist()) & set(validation_rows(60, 0.1, b).tolist())
    )
    runs = [make_run(tmp_path / f"{s}", images, s, validation=0.1, validation_seed=s) for s in (first, second)]
    found = members(runs)
    assert found.validation == []
    assert [len(scores.labels) for scores in found.test] == [50, 50]
    assert len(found.warnings) == 1
    assert "no training image was held out from all members" in found.warnings[0]


@pytest.mark.parametrize("without", [[0], [0, 1]])
def test_members_without_validation_images(without, images, tmp_path):
    runs = [make_run(tmp_path / f"{place}", images, place, validation=0.5 * (place not in without)) for place in (0, 1)]
    found = members(runs)
    assert found.validation == []
    assert len(found.warnings) == 1
    assert "no training image was held out from all members" in found.warnings[0]


def test_a_member_that_was_trained_on_other_images(images, tmp_path):
    """Its own held-out images are not these: what it trained on is not known, so no image counts as held out."""
    other = write_images(tmp_path / "other.npz", seed=1)
    runs = [make_run(tmp_path / "here", images, 0), make_run(tmp_path / "there", other, 1)]
    found = members(runs)
    assert found.validation == []
    assert len(found.warnings) == 1
    assert str(runs[1].path) in found.warnings[0]
    assert f"{runs[0].path}" not in found.warnings[0].partition(":")[0]
    assert "the data given are not those that the run was trained on" in found.warnings[0]
    np.testing.assert_array_equal(found.test[1].labels, data.load(images).test.labels)


def test_other_images_than_those_of_the_runs(images, tmp_path):
    other = write_images(tmp_path / "other.npz", seed=1, test=20)
    runs = [make_run(tmp_path / f"run{seed}", images, seed) for seed in range(2)]
    found, dataset = members(runs, other), data.load(other)
    assert found.validation == []
    assert all(str(run.path) in found.warnings[0] for run in runs)
    for scores, run in zip(found.test, runs, strict=True):
        assert_predicts(scores, run, dataset.test.images, dataset.test.labels)
    copied = shutil.copy(images, tmp_path / "copied.npz")
    same = members(runs, str(copied))
    assert same.warnings == []
    assert len(same.validation) == 2


# --- Rejected ---


def refused(runs, *words, source=None):
    with pytest.raises(InputError) as caught:
        members(runs, source)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_members(images, tmp_path):
    refused([], "no members", "at least two")
    refused([make_run(tmp_path / "alone", images)], "one member", str(tmp_path / "alone"), "at least two")


@pytest.mark.parametrize("names", [("ant", "bee", "cow", "dog"), ("bee", "ant", "cow", "doe"), (*CLASSES, "eel")])
def test_different_classes(names, images, tmp_path):
    other = write_images(tmp_path / "other.npz", class_names=names)
    runs = [make_run(tmp_path / "these", images), make_run(tmp_path / "those", other)]
    refused(runs, str(runs[0].path), str(runs[1].path), ", ".join(CLASSES), ", ".join(names))
    both = [runs[0], make_run(tmp_path / "more", images, 1)]
    refused(both, str(both[0].path), ", ".join(CLASSES), ", ".join(names), source=other)


def test_a_run_without_a_model(images, tmp_path):
    runs = [make_run(tmp_path / f"run{seed}", images, seed) for seed in range(2)]
    runs[1].best.unlink()
    refused(runs, str(runs[1].path), "no best.keras", f"--resume {runs[1].path}")


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_damaged_model(kept, images, tmp_path):
    runs = [make_run(tmp_path / f"run{seed}", images, seed) for seed in range(2)]
    runs[0].best.write_bytes(runs[0].best.read_bytes()[:kept])
    refused(runs, str(runs[0].best))


def test_a_model_of_another_number_of_classes(images, tmp_path):
    two = keras.Sequential([layers.Input((32, 32, 3)), layers.Flatten(), layers.Dense(2)])
    runs = [make_run(tmp_path / "four", images), make_run(tmp_path / "two", images, 1, two)]
    refused(runs, "2", "4")


# --- Which runs ---


def test_a_folder_of_runs_is_its_runs_in_natural_order(images, tmp_path):
    for name in ("seed10", "seed2", "seed1", "other"):
        shutil.copytree(make_run(tmp_path / "made" / name, images).path, tmp_path / "runs" / name)
    (tmp_path / "runs" / "no run").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("")
    found = saved.find_all([tmp_path / "made" / "seed2", tmp_path / "runs"])
    assert [str(run.path.relative_to(tmp_path)) for run in found] == [
        "made/seed2",
        *(f"runs/{name}" for name in ("other", "seed1", "seed2", "seed10")),
    ]


def test_a_run_that_is_named_twice(images, tmp_path):
    make_run(tmp_path / "runs" / "seed0", images)
    make_run(tmp_path / "runs" / "seed1", images)
    for paths in (["runs/seed0", "runs/seed0"], ["runs", "runs/seed1"], ["runs/seed0", "runs/../runs/seed0"]):
        with pytest.raises(InputError, match="named twice"):
            saved.find_all([tmp_path / path for path in paths])


def test_paths_that_are_no_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nothing"):
        with pytest.raises(InputError, match=f"{name}' is no run"):
            saved.find_all([tmp_path / name])
