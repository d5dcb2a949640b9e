"""When WeightEMA's averages are in the model and in files; how it goes on; what it refuses."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers

from kcifar import InputError
from kcifar.callbacks import Checkpoint, WeightEMA
from kcifar.callbacks.evaluate import Evaluate
from kcifar.training import SGD
from tests.callbacks.test_weight_ema import (
    DECAY,
    KINDS,
    ON_TORCH,
    STEPS,
    TOLERANCE,
    At,
    assert_same_bits,
    at_start,
    averaged,
    copies,
    difference,
    floats,
    give,
    made,
    plain,
    recurrence,
    state_of,
    trained,
    validation,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


# --- When they are in the model ---


def test_fit_validates_the_averages_and_so_do_callbacks_behind_and_the_best_file(tmp_path):
    steps, undisturbed, model = plain()[0], averaged()[0], at_start()
    callbacks = [WeightEMA(DECAY), Evaluate(test=validation()), Checkpoint(tmp_path, "test_loss")]
    seen = trained(model, callbacks, validation_data=validation())
    assert_same_bits(seen.all(), undisturbed.all())

    def loss_of(values):
        give(model.variables, values)
        return model.evaluate(validation(), return_dict=True, verbose=0)["loss"]

    # The same computation on the same bits.
    expected = pytest.approx([loss_of(averages) for averages in seen.ends], rel=1e-6)
    assert [logs["val_loss"] for logs in seen.logs] == expected
    assert [logs["test_loss"] for logs in seen.logs] == expected
    assert [loss_of(weights) for weights in steps[STEPS::STEPS]] != pytest.approx(expected.expected, rel=1e-3)
    best = keras.saving.load_model(tmp_path / "best.keras")
    best.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    assert best.evaluate(validation(), verbose=0) == pytest.approx(min(expected.expected), rel=1e-6)


def test_an_evaluation_within_an_epoch_sees_the_averages_so_far_and_changes_nothing():
    steps, undisturbed, model = plain()[0], averaged()[0], at_start()
    ema, during, after = WeightEMA(DECAY), [], []
    look = keras.callbacks.LambdaCallback(on_test_begin=lambda logs: during.extend(copies(model.variables)))

    def evaluate(model):
        model.evaluate(validation(), callbacks=[ema, look], verbose=0)
        after.extend(copies(model.variables))

    seen = trained(model, [ema, At(evaluate, epoch=2, step=2)])
    assert difference(during, recurrence(steps, DECAY)[STEPS + 2]) < TOLERANCE
    assert_same_bits(after, steps[STEPS + 2])
    assert_same_bits(seen.all(), undisturbed.all())


def test_a_second_fit_goes_on_and_what_is_saved_are_the_averages(tmp_path):
    (undisturbed, state), model, ema = averaged(), at_start(), WeightEMA(DECAY)
    trained(model, [ema], epochs=2)
    assert_same_bits(copies(model.variables), undisturbed.ends[1])
    seen = trained(model, [ema], first=2)
    assert_same_bits(seen.all(), undisturbed.all(first=2))
    assert_same_bits(state_of(model), state)
    model.save(tmp_path / "model.keras")
    loaded, x = keras.saving.load_model(tmp_path / "model.keras"), validation()[0][0]
    assert_same_bits(floats(copies(loaded.variables)), floats(undisturbed.ends[-1]))
    assert_same_bits(copies(loaded.predict_on_batch(x)), copies(model.predict_on_batch(x)))


def test_what_was_frozen_in_the_first_fit_may_train_in_the_second():
    """At a learning rate of 0 all weights stay, and so do their averages."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, use_bias=False), layers.Dense(3, use_bias=False)])
    start, ema = copies(model.weights), WeightEMA(DECAY)
    for trainable in (False, True):
        model.layers[0].trainable = trainable
        model.compile(SGD(0.0), "mean_squared_error")
        model.fit(np.ones((2, 3)), np.ones((2, 3)), callbacks=[ema], verbose=0)
    assert_same_bits(copies(model.weights), start)


def test_another_model_starts_anew():
    ema, models = WeightEMA(DECAY), []
    for weight in (-1.0, 1.0):
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
        model.set_weights([np.full((1, 1), weight)])
        model.compile(SGD(0.0), "mean_squared_error")
        model.fit(np.ones((2, 1)), np.ones((2, 1)), callbacks=[ema], verbose=0)
        models.append(model)
    assert [model.get_weights()[0].item() for model in models] == [-1.0, 1.0]


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": False}], ids=str)
def test_a_step_that_leaves_the_first_weight_alone_is_averaged(how):
    """On JAX, of a step that is not compiled, that weight is the same array afterwards."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, trainable=False), layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.ones((1, 1))])
    model.compile(SGD(0.25), "mean_squared_error", **how)
    model.fit(np.ones((3, 1)), np.zeros((3, 1)), batch_size=1, callbacks=[WeightEMA(0.0)], verbose=0)
    # w is halved by each step; of decay 0 the average is the last weight.
    assert model.get_weights()[-1].item() == 0.125


NO_STEPS = [{"optimizer": {"gradient_accumulation_steps": 4}}, {"optimizer": {}, "steps_per_execution": 4}]


@pytest.mark.parametrize("how", NO_STEPS[: 1 if ON_TORCH else 2], ids=str)  # Keras on torch has no steps_per_execution
def test_a_training_whose_batches_are_no_steps_is_refused(how):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile(loss="mean_squared_error", **how | {"optimizer": SGD(0.1, **how["optimizer"])})
    with pytest.raises(InputError, match="expected 1 for both") as caught:
        model.fit(np.ones((8, 1)), np.ones((8, 1)), batch_size=1, callbacks=[WeightEMA(0.5)], verbose=0)
    assert "=4" in str(caught.value)


@pytest.mark.once
@pytest.mark.parametrize("stateful", [[], [WeightEMA(0.5), WeightEMA(0.5)]], ids=["none", "two"])
def test_a_checkpoint_wants_the_callbacks_that_it_was_saved_with(stateful, tmp_path):
    ema = WeightEMA(DECAY)
    trained(at_start(), [ema, Checkpoint(tmp_path, "loss", stateful=[ema])], epochs=1)
    with pytest.raises(InputError, match=f"holds the state of 1 callbacks, but {len(stateful)} are given"):
        Checkpoint(tmp_path, "loss", stateful=stateful).resume(at_start())


@pytest.mark.once
def test_a_state_that_could_not_be_read_again_is_not_saved(tmp_path):
    class Odd(keras.callbacks.Callback):
        def state(self):
            return {"seen": {1, 2}}

    odd = Odd()
    with pytest.raises(TypeError, match="JSON can hold, or NumPy arrays"):
        trained(at_start(), [odd, Checkpoint(tmp_path, "loss", stateful=[odd])], epochs=1)
    assert not (tmp_path / "last" / "state.npz").exists()


# --- Resume ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(kind, tmp_path):
    (undisturbed, state), ema, whole, killed = averaged(kind), WeightEMA(DECAY), tmp_path / "whole", tmp_path / "killed"
    checkpoint = Checkpoint(whole, "loss", stateful=[ema])
    kill = At(lambda model: shutil.copytree(whole, killed), epoch=2)
    seen = trained(at_start(kind), [ema, checkpoint, kill])

    model, ema = made(kind), WeightEMA(DECAY)
    resumed = Checkpoint(killed, "loss", stateful=[ema])
    assert resumed.resume(model) == 2
    later = trained(model, [ema, resumed], first=2)
    assert_same_bits(state_of(model), state)
    assert_same_bits(later.all(), undisturbed.all(first=2))
    assert later.logs == seen.logs[2:]

    assert resumed.best_epoch == checkpoint.best_epoch
    for best in (keras.saving.load_model(folder / "best.keras") for folder in (whole, killed)):
        assert_same_bits(floats(copies(best.variables)), floats(undisturbed.ends[checkpoint.best_epoch - 1]))


@pytest.mark.parametrize("step", [None, 2], ids=["between epochs", "within an epoch"])
def test_an_interrupted_fit_goes_on_from_its_checkpoint_with_the_same_objects(step, tmp_path):
    (undisturbed, state), model, ema = averaged(), at_start(), WeightEMA(DECAY)
    checkpoint = Checkpoint(tmp_path, "loss", stateful=[ema])

    def interrupt(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(model, [ema, checkpoint, At(interrupt, epoch=3 if step else 2, step=step)])
    assert checkpoint.resume(model) == 2
    seen = trained(model, [ema, checkpoint], first=2)
    assert_same_bits(seen.all(), undisturbed.all(first=2))
    assert_same_bits(state_of(model), state)


# --- What cannot be ---


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, float("nan"), float("inf"), "x", None])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(InputError, match=f"decay={decay!r}") as caught:
        WeightEMA(decay)
    assert "\n" not in str(caught.value)
