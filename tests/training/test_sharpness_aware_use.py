"""SharpnessAware used as any model: fit, evaluate, resume, what is saved, and what it refuses."""

import copy
import json
import pickle
import shutil
import tempfile
import zipfile

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import kcifar
from kcifar import InputError
from kcifar.augment import MixUp
from kcifar.callbacks import Checkpoint
from kcifar.data import Batches, Split
from kcifar.training import SGD, SharpnessAware
from tests.sharpness_steps import (
    COUNT,
    HIDDEN_LAYER,
    ON_TORCH,
    STEP_TOLERANCE,
    Own,
    PlainSteps,
    X,
    Y,
    assert_same_bits,
    assert_same_logs,
    bits,
    chain,
    copies,
    crossentropy,
    drawn,
    largest_difference,
    scaled,
    with_dropout,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# --- Use as any model ---


@pytest.fixture(scope="module")
def trained_model():
    """(a model, the same in SharpnessAware, the history of three epochs with validation)."""
    model = chain(*HIDDEN_LAYER, layers.BatchNormalization, lambda: layers.Dropout(0.5, seed=1))()
    trained = SharpnessAware(model, rho=0.1)
    trained.compile(SGD(0.1, momentum=0.9), crossentropy(), metrics=["accuracy"])
    return model, trained, trained.fit(X, Y, 4, epochs=3, validation_data=(X[:8], Y[:8]), verbose=0).history


def test_evaluate_and_validation_are_the_inner_models(trained_model):
    model, trained, history = trained_model
    assert sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert all(len(values) == 3 for values in history.values())
    evaluated = trained.evaluate(X, Y, 4, verbose=0, return_dict=True)
    stock = keras.models.clone_model(model)
    stock.set_weights(bits(model))
    stock.compile(loss=crossentropy(), metrics=["accuracy"])
    assert_same_logs(evaluated, stock.evaluate(X, Y, 4, verbose=0, return_dict=True))
    expected = stock.evaluate(X[:8], Y[:8], 4, verbose=0, return_dict=True)
    assert_same_logs({name: history[f"val_{name}"][-1] for name in expected}, expected)
    assert history["val_loss"][-1] != pytest.approx(float(evaluated["loss"]), rel=1e-5)


def test_predictions_are_the_inner_models(trained_model):
    model, trained, _ = trained_model
    expected = copies([model(ops.convert_to_tensor(X), training=False)])[0]
    called = copies([trained(ops.convert_to_tensor(X), training=False)])[0]
    # The same operations, perhaps fused otherwise.
    np.testing.assert_allclose(trained.predict(X, batch_size=6, verbose=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(called, expected, rtol=1e-5, atol=1e-6)


def test_losses_and_metrics_of_several_outputs_are_those_of_the_first_pass():
    """ρ = 2 makes them quite others in the second."""
    x = keras.Input((6,))
    hidden = layers.Dense(5, activation="tanh")(x)
    model = drawn(keras.Model(x, {"one": layers.Dense(3, name="one")(hidden), "two": layers.Dense(1)(hidden)}))
    logs = []
    for each in (SharpnessAware(model, rho=2.0), model):
        losses = {"one": crossentropy(), "two": "mean_squared_error"}
        each.compile(keras.optimizers.SGD(0.0), losses, metrics={"one": "accuracy", "two": "mean_absolute_error"})
        logs.append(each.fit(X, {"one": Y, "two": Y[:, :1]}, 6, epochs=2, shuffle=False, verbose=0).history)
    assert len(logs[1]) == 5
    for name, values in logs[1].items():
        assert logs[0][name] == pytest.approx(values, rel=1e-6), name


@pytest.mark.once
def test_on_torch_the_gradients_of_a_step_are_where_those_of_stock_are():
    """Of the worst point: what the optimizer took."""
    model = chain(*HIDDEN_LAYER)()
    trained, before = SharpnessAware(model, rho=0.5), bits(model)
    trained.compile(SGD(1.0), crossentropy())
    trained.train_on_batch(X, Y)
    for variable, weight in zip(model.trainable_variables, before, strict=True):
        taken = weight - copies([variable])[0]
        np.testing.assert_allclose(variable.value.grad, taken, atol=1e-6)  # float32 rounds weights near 1


def test_an_input_that_is_left_out():
    rows, rest = keras.Input((6,), name="rows", optional=True), keras.Input((6,), name="rest")
    model = drawn(keras.Model({"rows": rows, "rest": rest}, layers.Dense(3)(Either()({"rows": rows, "rest": rest}))))
    trained = SharpnessAware(model)
    trained.compile(SGD(0.1), crossentropy())
    assert np.isfinite(trained.train_on_batch({"rows": None, "rest": X}, Y))
    assert (trained.input, trained.output) == (model.input, model.output)


class Either(layers.Layer):
    def call(self, inputs):
        return inputs["rest"] if inputs["rows"] is None else inputs["rows"]

    def compute_output_shape(self, shapes):
        return shapes["rest"]


def test_a_mixed_policy_does_not_round_the_images():
    """The normalisation in the model is float32, as pixels of 0–255 need more than bfloat16's 8 bits."""
    model = kcifar.models.build("tutorial_net", mean=[0.5] * 3, std=[0.25] * 3, precision="bfloat16", seed=1)
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    expected = model.predict(pixels, verbose=0)
    np.testing.assert_array_equal(SharpnessAware(model).predict(pixels, verbose=0), expected)


def test_fit_steps_as_train_on_batch_does():
    """A batch after the other, with weights of samples; on JAX two steps an execution, which Keras has there alone."""
    models, weights = (with_dropout(), with_dropout()), np.linspace(0.5, 2, COUNT)
    fitted, stepped = (SharpnessAware(model, rho=0.5) for model in models)
    fitted.compile(SGD(0.1, momentum=0.9), crossentropy(), steps_per_execution=1 if ON_TORCH else 2)
    fitted.fit(X, Y, batch_size=3, shuffle=False, epochs=2, verbose=0, sample_weight=weights)
    stepped.compile(SGD(0.1, momentum=0.9), crossentropy())
    for _ in range(2):
        for at in range(0, COUNT, 3):
            part = slice(at, at + 3)
            stepped.train_on_batch(X[part], Y[part], sample_weight=weights[part])
    # The same steps; those compiled together may be fused otherwise.
    assert largest_difference(*(copies(model.weights) for model in models)) < STEP_TOLERANCE


# --- With the data, precision and files of kcifar ---


def small_split(count=60):
    """Images of one shade each, one of four by class, under noise."""
    rng = np.random.default_rng(41)
    labels = rng.integers(0, 4, count)
    shades = np.array([[40, 90, 200], [200, 60, 90], [90, 200, 60], [160, 160, 160]])[labels][:, None, None]
    return Split(np.clip(shades + rng.normal(0, 40, (count, 32, 32, 3)), 0, 255).astype(np.uint8), labels, 4)


def image_model():
    """Of 0–255; with moving statistics and a seeded dropout."""
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(layers.AveragePooling2D(16)(layers.Rescaling(1 / 128, -1)(image)))
    x = layers.BatchNormalization(momentum=0.9)(layers.Dense(8, "tanh")(x))
    return drawn(keras.Model(image, layers.Dense(4)(layers.Dropout(0.2, seed=5)(x))))


def test_fit_on_mixed_batches_takes_the_gradients_of_those_batches():
    """An epoch of two batches, stepped by hand on the batches that a second `Batches` gives."""

    def mixed():
        return Batches(Split(split.images, split.labels, 4), 30, [MixUp(0.4)], seed=3)

    def make():
        model = image_model()
        return keras.Model(model.input, model.layers[-1](model.layers[-3].output))  # without dropout

    split, model = small_split(), make()
    expected, plain = copies(model.trainable_variables), PlainSteps(make, crossentropy(), {})
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(0.5), crossentropy())
    trained.fit(mixed(), shuffle=False, verbose=0)
    batches = mixed()
    for step in range(len(batches)):
        x, y = batches[step]
        assert ((copies([y])[0] > 0).sum(1) > 1).any(), "no label is mixed"
        plain.batch = {"x": x, "y": y}
        at_w, at_worst = plain.gradients_of_sam(expected, rho=0.5)
        assert largest_difference(at_w, at_worst) > 0.01
        expected = [w - 0.5 * g for w, g in zip(expected, at_worst, strict=True)]
    assert largest_difference(copies(model.trainable_variables), expected) < 2 * STEP_TOLERANCE  # two steps


def falls(trained, epochs=5):
    history = trained.fit(Batches(small_split(), 30, seed=1), shuffle=False, epochs=epochs, verbose=0).history["loss"]
    return np.isfinite(history).all() and history[-1] < 0.7 * history[0]


def test_a_model_in_bfloat16_trains():
    model = kcifar.models.build("tutorial_net", classes=4, mean=[0.5] * 3, std=[0.25] * 3, precision="bfloat16", seed=1)
    trained = SharpnessAware(model, rho=0.05)
    trained.compile(SGD(0.05, momentum=0.9), crossentropy())
    assert falls(trained, epochs=8)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


class CopyAfter(keras.callbacks.Callback):
    """Copies the folder as a run leaves it that is killed in the epoch after `epochs`."""

    def __init__(self, epochs, folder, to):
        super().__init__()
        self.epochs, self.folder, self.to = epochs, folder, to

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            shutil.copytree(self.folder, self.to)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """ASAM, momentum, a loss scale that grows, dropout, moving statistics, MixUp."""
    split = small_split()

    def run(folder, resume=False):
        """(variables of the model and of the optimizer, logs) after the fourth epoch."""
        model = image_model()
        trained = SharpnessAware(model, rho=0.5, adaptive=True)
        optimizer = scaled(SGD(0.1, momentum=0.9, l2=1e-3), initial_scale=32.0, dynamic_growth_steps=4)
        trained.compile(optimizer, crossentropy(), metrics=["accuracy"])
        checkpoint, batches = Checkpoint(folder, "val_accuracy"), Batches(split, 20, [MixUp(0.4)], seed=9)
        batches.epoch = done = checkpoint.resume(trained) if resume else 0
        assert done == (2 if resume else 0)
        history = trained.fit(
            batches,
            shuffle=False,
            epochs=4,
            initial_epoch=done,
            validation_data=Batches(split, 20, shuffle=False),
            callbacks=[checkpoint, CopyAfter(2, folder, tmp_path / "killed")],
            verbose=0,
        ).history
        variables = [*model.variables, *(v for v in trained.optimizer.variables if v.name != "learning_rate")]
        return [np.array(ops.convert_to_numpy(variable)) for variable in variables], history

    whole, logs = run(tmp_path / "whole")
    resumed, later = run(tmp_path / "killed", resume=True)
    assert_same_bits(resumed, whole)
    assert later == {name: values[2:] for name, values in logs.items()}
    best, again = (keras.saving.load_model(tmp_path / folder / "best.keras") for folder in ("whole", "killed"))
    assert_same_bits(again.get_weights(), best.get_weights())
    assert_stock(tmp_path / "whole" / "best.keras")


# --- What is saved ---


def classes_in(path):
    """Every (module, class) that a .keras file names."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    found, open_ = set(), [config]
    while open_:
        part = open_.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                found.add((part.get("module"), part.get("registered_name") or part["class_name"]))
            open_ += part.values()
        elif isinstance(part, list):
            open_ += part
    return found


def assert_stock(path):
    found = classes_in(path)
    assert ("keras.layers", "Dense") in found
    assert all(module is None or module.split(".")[0] in ("keras", "builtins") for module, _ in found), found
    assert not any("kcifar" in name or "Sharpness" in name for _, name in found), found


SAVES = {
    "save": (SGD, lambda trained, path: trained.save(path)),
    "save, Keras's optimizer": (keras.optimizers.Adam, lambda trained, path: trained.save(path)),
    "a callback": (
        SGD,
        lambda trained, path: trained.fit(X, Y, COUNT, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)]),
    ),
}


@pytest.mark.parametrize(("optimizer", "save"), SAVES.values(), ids=list(SAVES))
def test_what_is_saved_is_the_inner_model(optimizer, save, tmp_path):
    model = with_dropout()
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(optimizer(0.1), crossentropy())
    if ON_TORCH:  # on JAX it would be compiled once more
        trained.train_on_batch(X, Y)
    save(trained, tmp_path / "model.keras")
    assert_stock(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    assert_same_bits(loaded.get_weights(), model.get_weights())
    ours, theirs = (copies([one(ops.convert_to_tensor(X), training=False)])[0] for one in (model, loaded))
    np.testing.assert_array_equal(theirs, ours)


def test_weights_saved_are_the_inner_models_and_can_be_loaded_by_either(tmp_path):
    model = with_dropout()
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(0.1), crossentropy())
    trained.save_weights(tmp_path / "some.weights.h5")
    stock = with_dropout()
    assert largest_difference(copies(stock.weights), copies(model.weights)) > 1e-3
    stock.load_weights(tmp_path / "some.weights.h5")
    assert_same_bits(stock.get_weights(), model.get_weights())
    stock.save_weights(tmp_path / "stock.weights.h5")
    again = with_dropout()
    SharpnessAware(again).load_weights(tmp_path / "stock.weights.h5")
    assert_same_bits(again.get_weights(), model.get_weights())


def trained_for(model, steps, *callbacks):
    model.fit(X, Y, COUNT, epochs=steps, shuffle=False, verbose=0, callbacks=[*callbacks])
    return copies([*model.weights, *model.optimizer.variables])


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_keras_backup_restores_the_optimizer_too(tmp_path):
    def new():
        trained = SharpnessAware(chain(*HIDDEN_LAYER)(), rho=0.5)
        trained.compile(SGD(0.1, momentum=0.9), crossentropy())
        return trained

    whole = trained_for(new(), 4)
    with pytest.raises(KeyboardInterrupt):
        trained_for(new(), 4, keras.callbacks.BackupAndRestore(tmp_path), Stop())
    assert_same_bits(trained_for(new(), 4, keras.callbacks.BackupAndRestore(tmp_path)), whole)


def saved_and_loaded(trained):
    with tempfile.TemporaryDirectory() as folder:
        keras.saving.save_model(trained, f"{folder}/model.keras")
        return keras.saving.load_model(f"{folder}/model.keras")


COPIES = {
    "copy": copy.deepcopy,
    "pickle": lambda trained: pickle.loads(pickle.dumps(trained)),
    "clone": keras.models.clone_model,
    "save_model": saved_and_loaded,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_another_of_the_same(kind):
    trained = SharpnessAware(with_dropout(), rho=0.3, adaptive=True, eta=0.02, accumulate=3)
    again = COPIES[kind](trained)
    assert again.model is not trained.model
    assert (again.rho, again.adaptive, again.eta, again.accumulate) == (0.3, True, 0.02, 3)
    assert again.input_shape == trained.input_shape == trained.model.input_shape
    assert again.get_layer(index=-1).get_config() == trained.get_layer(index=-1).get_config()
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in trained.weights]
    if kind != "clone":
        assert_same_bits(again.get_weights(), trained.get_weights())


# --- What cannot be ---


def linear():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3)])


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"rho": 0}, "0"),
        ({"rho": -0.05}, "-0.05"),
        ({"rho": float("nan")}, "nan"),
        ({"rho": float("inf")}, "inf"),
        ({"rho": "0.05"}, "'0.05'"),
        ({"rho": 0.5, "adaptive": True, "eta": -0.01}, "-0.01"),
        ({"rho": 0.5, "adaptive": True, "eta": float("nan")}, "nan"),
        ({"rho": 0.5, "adaptive": True, "eta": float("inf")}, "inf"),
        ({"eta": -0.5}, "-0.5"),
    ],
    ids=str,
)
def test_an_argument_outside_its_range_is_refused(arguments, received):
    with pytest.raises(InputError) as caught:
        SharpnessAware(linear(), **arguments)
    assert "\n" not in str(caught.value)
    assert received in str(caught.value).replace("−", "-")
    assert list(arguments)[-1] in str(caught.value)


@pytest.mark.parametrize("name", ["train_step", "compute_loss", "compute_metrics"])
def test_a_model_whose_class_trains_in_its_own_way_is_refused(name):
    image = keras.Input((6,))
    own = type("Own", (keras.Model,), {name: lambda self, *args, **kwargs: None})
    with pytest.raises(InputError, match=f"has a {name} of its own"):
        SharpnessAware(own(image, layers.Dense(3)(image)))


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_eta_of_zero_is_allowed(adaptive):
    SharpnessAware(linear(), rho=0.5, adaptive=adaptive, eta=0)


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (lambda: keras.Sequential([layers.Dense(2)], name="unfinished"), "unfinished"),
        (Own, "own"),
        (lambda: "resnet20", "resnet20"),
        (lambda: None, "None"),
        (lambda: layers.Dense(2), "Dense"),
        (lambda: keras.Model, "Model"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
    ids=["unbuilt Sequential", "unbuilt subclass", "a name", "None", "a layer", "the class", "a torch module"],
)
def test_what_is_no_built_model_is_refused(model, received):
    with pytest.raises(InputError) as caught:
        SharpnessAware(model())
    assert "\n" not in str(caught.value)
    assert received in str(caught.value)


def test_a_model_without_trainable_weights_is_refused_when_it_is_trained():
    model = linear()
    model.trainable = False
    trained = SharpnessAware(model)
    trained.compile(SGD(0.1), crossentropy())
    with pytest.raises(InputError, match=model.name):
        trained.train_on_batch(X, Y)
    with pytest.raises(InputError, match="trainable"):
        trained.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(0.1, gradient_accumulation_steps=4),
        lambda: keras.optimizers.Adam(gradient_accumulation_steps=4),
        lambda: scaled(SGD(0.1, gradient_accumulation_steps=4)),
        lambda: keras.optimizers.serialize(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)),
    ],
    ids=["SGD", "Adam", "under a loss scale", "a config"],
)
def test_an_optimizer_that_accumulates_gradients_is_refused(optimizer):
    trained = SharpnessAware(linear())
    with pytest.raises(InputError, match="gradient_accumulation_steps") as caught:
        trained.compile(optimizer(), crossentropy())
    assert "4" in str(caught.value)
    assert "\n" not in str(caught.value)
