"""What of a model is trained: all, what is behind its resizing, or its head on features that are computed once."""

import csv
import dataclasses
import hashlib
import itertools
import json

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError, data, experiment, models
from kcifar.experiment import part
from kcifar.recipe import Component, Recipe
from kcifar.runs import folder

pytestmark = pytest.mark.usefixtures("quick_compilation", "blank_pictures")

TRUNK = ("stem", "layer1", "layer2", "layer3")
SIDE, SEED = 8, 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz with 120 + 30 drawn images."""
    drawn = data.load("demo")
    path = tmp_path_factory.mktemp("images") / "images.npz"
    arrays = {"x_train": drawn.train.images[:120], "y_train": drawn.train.labels[:120]}
    np.savez(path, **arrays, x_test=drawn.test.images[:30], y_test=drawn.test.labels[:30])
    return path


def recipe(images, **changes):
    fields = {
        "data": str(images),
        "validation": 0.25,
        "validation_seed": SEED,
        "model": Component("resnet20"),
        "pretrained": None,
        "freeze": TRUNK,
        "unfreeze_epoch": None,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "resize": SIDE,
        "center_crop": None,
        "transforms": (),
        "batch_size": 30,
        "drop_last": False,
        "loss": Component("CategoricalCrossentropy"),
        "optimizer": Component("SGD", learning_rate=0.1, momentum=0.9),
        "sharpness_aware": None,
        "schedule": None,
        "weight_ema": None,
        "epochs": 3,
        "early_stopping": None,
        "select_on": "validation",
        "select_from_epoch": 1,
        "precision": "float32",
        "deterministic": False,
        "tensorboard": False,
        "seed": SEED,
    }
    return Recipe(**(fields | changes))


def trained(recipe, path):
    """(the plan, rows of the log, metrics) of a run."""
    planned = experiment.plan(recipe)
    run = folder.create(path, recipe, b"", planned.dataset)
    metrics = experiment.train(planned, run)
    with open(run.log, encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return planned, rows, metrics


def assert_saved_is_what_was_evaluated(planned, rows, metrics, path):
    """best.keras in plain Keras, on raw images: accuracy and loss of its epoch."""
    model, best = keras.saving.load_model(path / "best.keras"), rows[metrics["best_epoch"] - 1]
    split = planned.dataset.validation
    logits = model.predict(split.images, verbose=0).astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    assert (logits.argmax(axis=1) == split.labels).mean() == pytest.approx(best["validation_accuracy"], abs=1e-6)
    # Float32, on images that may have been resized elsewhere.
    assert -log_p[np.arange(len(split)), split.labels].mean() == pytest.approx(best["validation_loss"], rel=1e-4)
    assert metrics["selected_accuracy"] == pytest.approx(best["validation_accuracy"], abs=1e-12)


SMALLER_LAST = {"batch_size": 32}  # for one of them: JAX compiles a step for each size
EXTRAS = {
    "plain": SMALLER_LAST,
    "SAM and averages": {
        "sharpness_aware": Component("SharpnessAware", rho=0.1),
        "weight_ema": Component("WeightEMA", decay=0.8),
        "accumulate": 4,
    },
}
RESIZED = {
    "transforms": (Component("Resize", size=SIDE + 2), Component("CenterCrop", size=SIDE)),
    "resize": SIDE + 2,
    "center_crop": SIDE,
}


@pytest.mark.once
@pytest.mark.parametrize("changes", [*EXTRAS.values(), RESIZED], ids=[*EXTRAS, "transforms that draw nothing"])
def test_features_that_are_computed_once_give_the_same_run(images, tmp_path, monkeypatch, changes):
    wanted = recipe(images, **changes)
    planned, rows, metrics = trained(wanted, tmp_path / "cached")
    assert planned.part.on_features
    assert planned.part.splits["train"].images.shape == (90, 64)
    assert metrics["trained_parameters"] == 650
    assert "run once over each image" in dict(planned.describe())["trained"]
    assert_saved_is_what_was_evaluated(planned, rows, metrics, tmp_path / "cached")
    monkeypatch.setattr(part, "_MOST_FEATURE_BYTES", 0)
    other, other_rows, _ = trained(wanted, tmp_path / "uncached")
    assert not other.part.on_features
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row.keys() == other_row.keys()
        # The same steps; float32 adds up in another order for 90 images at once than for 30.
        assert all(row[key] == pytest.approx(other_row[key], rel=1e-4, abs=1e-6) for key in row)
    for one, two in zip(planned.whole.weights, other.whole.weights, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(two), rtol=1e-3, atol=1e-5)


def test_the_trunk_does_not_change_and_the_head_does(images, tmp_path):
    wanted = recipe(images)
    planned, _, _ = trained(wanted, tmp_path / "run")
    before = experiment.plan(wanted).whole
    for layer in planned.whole.layers:
        same = [
            np.array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two))
            for one, two in zip(layer.weights, before.get_layer(layer.name).weights, strict=True)
        ]
        assert not any(same) if layer.name == "head_logits" else all(same), layer.name


def test_the_frozen_layers_run_once_over_each_image(images, tmp_path, monkeypatch):
    seen, own = [], keras.Model.predict_on_batch
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda model, x: seen.append(len(x)) or own(model, x))
    trained(recipe(images), tmp_path / "run")
    assert sum(seen) == 90 + 30


@pytest.mark.once
@pytest.mark.parametrize(
    "changes",
    [
        {"freeze": ()},
        {"freeze": ("stem", "layer1", "layer2")},
        {"freeze": ("layer1", "layer2", "layer3")},
        {"unfreeze_epoch": 2},
        {"transforms": (Component("RandomFlip"),)},
        {"transforms": (Component("MixUp", alpha=0.4),)},
        {
            "model": Component("elu_cnn", dropout=0.5),
            "freeze": ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "hidden", "norm4"),
        },
    ],
    ids=str,
)
def test_features_are_not_kept_where_they_change(images, changes):
    """The last: its dropout is before the head."""
    planned = experiment.plan(recipe(images, **changes))
    assert not planned.part.on_features
    assert planned.model is planned.whole


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "freeze", "features", "parameters"),
    [
        (Component("resnet18", stem="cifar", hidden=20, dropout=0.5), (*TRUNK, "layer4"), 512, 513 * 20 + 21 * 10),
        (Component("vgg16", hidden=16), (*TRUNK, "layer4"), 512, 513 * 16 + 17 * 16 + 17 * 10),
        (Component("densenet121"), (*TRUNK, "layer4"), 1024, 1025 * 10),
    ],
    ids=str,
)
def test_features_of_other_networks(images, model, freeze, features, parameters):
    """A head of several layers is trained whole; its dropout draws anew in each step."""
    planned = experiment.plan(recipe(images, model=model, freeze=freeze, resize=None))
    assert planned.part.on_features
    assert planned.model.input.shape == (None, features)
    assert sum(np.prod(variable.shape) for variable in planned.model.trainable_variables) == parameters


def test_images_that_are_resized_by_transforms_come_in_behind_the_resizing(images, tmp_path):
    """The saved model resizes and crops the middle by itself."""
    transforms = (Component("Resize", size=12), Component("RandomCrop", size=10, padding=0), Component("RandomFlip"))
    wanted = recipe(images, freeze=(), transforms=transforms, resize=12, center_crop=10)
    planned, rows, metrics = trained(wanted, tmp_path / "run")
    assert planned.model.input.shape == (None, 10, 10, 3)
    assert planned.whole.input.shape == (None, 32, 32, 3)
    assert dict(planned.describe())["image size"] == "32×32, scaled to 12, the middle 10"
    assert_saved_is_what_was_evaluated(planned, rows, metrics, tmp_path / "run")


@pytest.mark.once
def test_images_of_another_size_are_refused(images):
    with pytest.raises(InputError, match="give images of 9×9 pixels, the model takes 32×32 or 8×8") as caught:
        experiment.plan(recipe(images, transforms=(Component("Resize", size=9),)))
    assert "\n" not in str(caught.value)


@pytest.mark.once
def test_a_run_starts_from_another_runs_model(images, tmp_path):
    """Of fewer classes: all but the head is taken over."""
    few = np.load(images)
    kept = [few[f"y_{name}"] < 5 for name in ("train", "test")]
    arrays = {f"{letter}_{name}": few[f"{letter}_{name}"][rows] for (name, rows), letter in
              itertools.product(zip(("train", "test"), kept, strict=True), "xy")}  # fmt: skip
    np.savez(tmp_path / "few.npz", **arrays, class_names=list("abcde"))
    trained(recipe(tmp_path / "few.npz", freeze=(), epochs=1, validation=0.0, select_on="last"), tmp_path / "first")
    source = tmp_path / "first" / "best.keras"
    planned = experiment.plan(recipe(images, pretrained=str(source)))
    assert planned.new_layers == ["head_logits"]
    assert dict(planned.describe())["start"] == f"weights of {source}; new are head_logits"
    assert "new weights" not in dict(planned.describe())["start"]
    first = keras.saving.load_model(source)
    for layer in planned.whole.layers:
        for one, two in zip(layer.weights, first.get_layer(layer.name).weights if layer.weights else (), strict=True):
            same = one.shape == two.shape and np.array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two))
            assert same == (layer.name != "head_logits"), layer.name


@pytest.mark.once
def test_the_environment_says_which_weights(images, tmp_path):
    model = models.build("resnet20")
    model.save_weights(tmp_path / "start.weights.h5")
    wanted = recipe(images, pretrained=str(tmp_path / "start.weights.h5"), epochs=1)
    trained(wanted, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert written["pretrained_sha256"] == hashlib.sha256((tmp_path / "start.weights.h5").read_bytes()).hexdigest()
    models.build("resnet20", seed=1).save_weights(tmp_path / "start.weights.h5")
    run, dataset = folder.find(tmp_path / "run"), data.load(str(images)).split_validation(0.25, SEED)
    with pytest.raises(InputError, match="started from other weights"):
        folder.record_resume(run, dataset, from_start=True)
    folder.record_resume(run, dataset, from_start=False)


@pytest.mark.once
def test_a_run_goes_on_without_the_file_that_it_started_from(images, tmp_path):
    """Frozen layers are in its best model, and features of them are computed again."""
    models.build("resnet20", seed=5).save_weights(tmp_path / "start.weights.h5")
    wanted = recipe(images, pretrained=str(tmp_path / "start.weights.h5"))
    _, rows, metrics = trained(wanted, tmp_path / "whole")
    _, _, first = trained(dataclasses.replace(wanted, epochs=2), tmp_path / "run")
    (tmp_path / "start.weights.h5").unlink()
    with pytest.raises(InputError, match="no weights at"):
        experiment.plan(wanted)
    run = folder.find(tmp_path / "run")
    planned = experiment.plan(wanted, run.best)
    folder.record_resume(run, planned.dataset, from_start=False)
    resumed = experiment.train(planned, run, resume=True)
    with open(run.log, encoding="utf-8") as file:
        assert [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)] == rows
    assert resumed["test_accuracy"] == metrics["test_accuracy"]
    assert resumed["trained_parameters"] == metrics["trained_parameters"] == 650
    assert resumed["feature_seconds"] > first["feature_seconds"] > 0


@pytest.mark.once
@pytest.mark.parametrize(("resize", "at_once"), [(None, 90), (64, 90), (97, 25)])
def test_large_images_are_evaluated_few_at_a_time(images, resize, at_once):
    planned = experiment.plan(recipe(images, resize=resize, freeze=()))
    assert planned.evaluated_splits()["train"].batch_size == at_once
