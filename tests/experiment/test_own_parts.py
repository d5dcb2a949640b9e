"""Parts of anybody's in recipes: a whole run and its resume, what is recorded, and everything that can be wrong."""

import functools
import hashlib
import itertools
import json
import sys

import keras
import numpy as np
import pytest

from kcifar import InputError, data
from kcifar.evaluate import main as evaluate
from kcifar.experiment import components, own_parts, plan, train
from kcifar.recipe import Component, load
from kcifar.runs import folder
from kcifar.runs.state import assign
from kcifar.train import main

NETS = """
import keras
from keras import ops

import {shapes}


class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


def small(classes, input_shape, width={shapes}.WIDTH):
    image = keras.Input(input_shape)
    x = keras.layers.Dropout(0.1, seed=1)(keras.layers.Conv2D(width, 3, 4)(image))
    x = Scale()(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, keras.layers.Dense(classes)(x))


def soft(classes, input_shape):
    image = keras.Input(input_shape)
    return keras.Model(image, keras.layers.Dense(classes, "softmax")(keras.layers.Flatten()(image)))


def broken(classes):
    raise ZeroDivisionError("by hand")


class Noise:
    def __init__(self, strength):
        self.strength = strength

    def draw(self, rng, batch_size, image_shape):
        return rng.normal(0, self.strength, (batch_size, *image_shape)).astype("float32")

    def apply(self, images, labels, drawn):
        return ops.add(ops.cast(images, "float32"), drawn), labels


class Square(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean((y_true - y_pred) ** 2, axis=-1)


class Count(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        logs["batches"] = self.batches

    def state(self):
        return {{"batches": self.batches}}

    def restore(self, state):
        self.batches = state["batches"]
"""
RECIPE = """
from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data={images!r},
    validation=0.2,
    model=Component("{nets}:small", width=4),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    transforms=(Component("{nets}:Noise", strength=5.0), Component("keras.layers:RandomBrightness", factor=0.1)),
    batch_size=20,
    loss=Component("{nets}:Square"),
    optimizer=Component("keras.optimizers:AdamW", learning_rate=1e-3, weight_decay=0.01),
    schedule=Component("keras.optimizers.schedules:CosineDecay"),
    epochs=3,
    callbacks=(Component("{nets}:Count"),),
    select_on="validation",
    select_by="loss",
    seed=1,
)
"""
NUMBERS = itertools.count()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a recipe and its modules, of names that no other test has."""
    number = next(NUMBERS)
    nets, shapes = f"own_nets_{number}", f"own_shapes_{number}"
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    drawn = data.load("demo")
    arrays = {f"{name}_{which}": getattr(getattr(drawn, which), full)[:100] for which in ("train", "test")
              for name, full in (("x", "images"), ("y", "labels"))}  # fmt: skip
    np.savez(tmp_path / "images.npz", **arrays)
    where = tmp_path / "project"
    where.mkdir()
    (where / f"{shapes}.py").write_text("WIDTH = 3\n")
    (where / f"{nets}.py").write_text(NETS.format(shapes=shapes))
    (where / "mine.py").write_text(RECIPE.format(images=str(tmp_path / "images.npz"), nets=nets))
    yield where, nets, shapes
    keras.saving.get_custom_objects().pop("Scale", None)


def interrupted(recipe, run):
    """The run, as it is when it is killed in its second epoch."""

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations > 5:
                raise Killed

    planned = plan(recipe)
    planned.callbacks.append(Kill())
    with pytest.raises(Killed):
        train(planned, run)


@pytest.mark.once
def test_a_run_of_own_parts_is_killed_and_resumed_to_the_same_bits(project, capsys):
    where, nets, shapes = project
    assert main([str(where / "mine.py"), "--out", "whole"]) == 0
    whole = folder.find("whole")

    recipe = load(where / "mine.py")
    record = functools.partial(own_parts.record, wanted=recipe, imported_from=where)
    cut = folder.create("cut", recipe, b"", data.load(recipe.data).split_validation(0.2), record)
    interrupted(recipe, cut)
    assert main(["--resume", "cut"]) == 0
    assert cut.log.read_bytes() == whole.log.read_bytes()
    for states in (whole, cut):
        states.planned = plan(recipe)
        assign(states.planned.model, states.last.read())
    for one, other in zip(whole.planned.model.variables, cut.planned.model.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
    assert whole.log.read_text().splitlines()[-1].endswith(",12.0")  # batches of Count: 3 epochs of 4

    listed = json.loads((whole.path / "own_parts" / "modules.json").read_text())
    assert list(listed["modules"]) == sorted([nets, shapes])
    for name in (nets, shapes):
        copied = (whole.path / "own_parts" / f"{name}.py").read_bytes()
        assert copied == (where / f"{name}.py").read_bytes()
        assert listed["modules"][name]["sha256"] == hashlib.sha256(copied).hexdigest()

    (where / f"{shapes}.py").write_text("WIDTH = 4\n")
    capsys.readouterr()
    assert main(["--resume", "cut"]) == 2
    assert capsys.readouterr().err.count(shapes) == 3
    (cut.path / "own_parts" / "modules.json").write_text(json.dumps(listed | {"folder": "a\0b"}))
    assert main(["--resume", "cut"]) == 2
    assert "modules.json' is damaged" in capsys.readouterr().err


@pytest.mark.once
def test_a_saved_layer_of_ones_own_is_opened_where_its_module_is_given_alone(project, capsys):
    where, nets, _ = project
    assert main([str(where / "mine.py"), "epochs=1", "--out", "run"]) == 0
    predictions = folder.find("run").path / "predictions"
    keras.saving.get_custom_objects().pop("Scale")
    for path in predictions.iterdir():
        path.unlink()
    capsys.readouterr()
    assert evaluate(["run"]) == 2
    assert "--import" in capsys.readouterr().err
    assert evaluate(["run", "--import", str(where / f"{nets}.py")]) == 0
    copied = f"run/own_parts/{nets}.py"
    sys.modules.pop(nets)
    sys.path[:] = [entry for entry in sys.path if entry != str(where)]
    assert evaluate(["run", "--import", copied]) == 2
    assert "run folder" in capsys.readouterr().err
    assert nets not in sys.modules


@pytest.mark.once
def test_the_recipes_loss_is_not_imported_to_evaluate():
    with pytest.raises(InputError, match="--import never_imported"):
        components.loss(Component("never_imported:Loss"), importing=False)


@pytest.mark.once
def test_keras_applications_make_models_behind_kcifars_normalisation(project):
    where, _, _ = project
    model = "keras.applications:MobileNetV2(weights=None, classifier_activation=None, alpha=0.35)"
    planned = plan(load(where / "mine.py").override([f"model={model}", "resize=40", "batch_size=10"]))
    whole = planned.whole
    assert [layer.name for layer in whole.layers[:3]] == ["image", "resize", "normalization"]
    assert (whole.input_shape, whole.output_shape) == ((None, 32, 32, 3), (None, 10))
    inner = whole.layers[3]
    images = data.load("demo").test.images[:4].astype("float32")
    expected = inner(whole.layers[2](whole.layers[1](images)), training=False)
    found = keras.ops.convert_to_numpy(whole(images, training=False))
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model={nets}:smal()"], ["no 'smal'", "small"]),
        (["model=no_such_module_at_all:small()"], ["no module 'no_such_module_at_all'"]),
        (["model={nets}.deeper:small()"], ["{nets}"]),
        (["model={shapes}:WIDTH"], ["int", "class or a function"]),
        (["model={nets}:small(widht=3)"], ["'widht'", "'width'"]),
        (["model={nets}:small(classes=3)"], ["'classes' follows"]),
        (["model={nets}:broken()"], ["ZeroDivisionError", "by hand", "line 29"]),
        (["model={nets}:soft()"], ["probabilities", "logits"]),
        (["model=keras.layers:Flatten()"], ["(None, 3072)", "(batch, 10)"]),
        (["model={nets}:Noise(strength=1)"], ["Noise", "keras Model"]),
        (["transforms=[{nets}:Square()]"], ["Square", "draw and apply"]),
        (["loss=keras.losses:CategoricalCrossentropy(from_logits=False)"], ["logits", "from_logits"]),
        (["loss=keras.losses:SparseCategoricalCrossentropy()"], ["one-hot"]),
        (["loss={nets}:Noise(strength=1)"], ["Noise", "Loss"]),
        (["optimizer={nets}:Square()"], ["Square", "Optimizer"]),
        (["optimizer=SGD()"], ["'learning_rate' is missing"]),
        (["optimizer=SGD(learning_rate=1)", "optimizer.lr=2"], ["'lr'", "'learning_rate'"]),
        (["schedule={nets}:Square()"], ["Square", "LearningRateSchedule"]),
        (["callbacks=[{nets}:Square()]"], ["Square", "Callback"]),
        (["callbacks=[EarlyStop()]"], ["package.module:Name"]),
        (["select_on=test", "validation=0", "select_on=validation"], ["validation is 0"]),
        (["fixed_transforms=[MixUp(alpha=1)]"], ["MixUp", "once"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_one_line(project, capsys, overrides, words):
    where, nets, shapes = project
    given = [override.format(nets=nets, shapes=shapes) for override in overrides]
    assert main([str(where / "mine.py"), "--dry-run", *given]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word.format(nets=nets, shapes=shapes) in message, message


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", ["ZeroDivisionError", "line 1"]), ("x = = 3", ["line 1"]), ("import no_such_thing", ["no_such_thing"])],
)
def test_a_module_that_fails_on_import_is_told_in_one_line(project, text, words):
    where, *_ = project
    name = f"own_failing_{next(NUMBERS)}"
    (where / f"{name}.py").write_text(text)
    sys.path.insert(0, str(where))
    with pytest.raises(InputError) as caught:
        own_parts.find(f"{name}:anything", "model")
    for word in (name, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.once
def test_a_module_of_the_same_name_from_another_project_is_not_taken_for_it(project, tmp_path):
    where, nets, _ = project
    sys.path.insert(0, str(where))
    assert own_parts.find(f"{nets}:small", "model").__name__ == "small"
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{nets}.py").write_text("def small(): pass")
    sys.path.insert(0, str(other))
    with pytest.raises(InputError, match="rename"):
        own_parts.find(f"{nets}:small", "model")


@pytest.mark.once
def test_callbacks_without_state_are_named_once(project):
    where, nets, _ = project
    further = f"callbacks=[{nets}:Count(), keras.callbacks:ReduceLROnPlateau(monitor='validation_loss')]"
    rows = dict(plan(load(where / "mine.py").override([further])).describe())
    assert rows["callbacks"].endswith("so a resumed run may differ: ReduceLROnPlateau")
