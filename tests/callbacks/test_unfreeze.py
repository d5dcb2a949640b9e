"""Unfreeze against torch.optim with parameters that require a gradient later, by hand, and in a run that is resumed."""

import itertools
import shutil

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import kcifar
from kcifar import InputError
from kcifar.callbacks import Checkpoint, CyclicLR, Unfreeze, WeightEMA
from kcifar.models import freeze, unfreeze
from kcifar.training import SGD
from tests.callbacks.test_weight_ema import At, InEpochs, recurrence
from tests.models.test_freezing import (
    ALL_KINDS,
    CLASSES,
    NEVER,
    OURS,
    RATES,
    RHO,
    STEPS,
    TOLERANCE,
    WRONG_BY,
    Loop,
    X,
    Y,
    by_path,
    compiled,
    difference,
    fit,
    group_of,
    net,
    of_kind,
    yes,
)
from tests.sharpness_steps import KINDS, assert_same_bits, bits, copies, crossentropy, drawn

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPOCHS = 4


class EachEpoch(keras.callbacks.Callback):
    """All weights when an epoch has ended, by path."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(by_path(self.model))


# --- Against PyTorch ---

CASES = {
    # name: (optimizer, {group: the epoch, counted from 0, that it is trained from}, whether the learning rate changes)
    "SGD": ("SGD", {"stem": 2, "layer1": 2}, False),
    "Adam": ("Adam", {"stem": 2, "layer1": 2}, False),
    "Adam in two parts": ("Adam", {"layer1": 1, "stem": 2}, True),
    "nesterov of one part": ("nesterov", {"stem": 2, "layer1": NEVER}, True),
    "SGD in the middle": ("SGD", {"layer1": 2}, True),
}


def reference(case, epochs=EPOCHS, kind="stock", loop=Loop, **changed):
    """(weights at the start and after each step, losses of the epochs)."""
    optimizer, trained_from, falls = CASES[case]
    rate = (lambda step: RATES[optimizer] * 0.9**step) if falls else None
    return loop(optimizer, trained_from | changed, RHO if kind == "SAM" else 0, rate).run(epochs)


def unfreezing(kind, case):
    """(a compiled model with frozen groups, the callbacks that unfreeze them)."""
    optimizer, trained_from, falls = CASES[case]
    model = of_kind(kind, net())
    freeze(model, list(trained_from))
    rate = keras.optimizers.schedules.ExponentialDecay(RATES[optimizer], 1, 0.9) if falls else None
    epochs = sorted({epoch for epoch in trained_from.values() if epoch < NEVER})
    groups = [[group for group, first in trained_from.items() if first == epoch] for epoch in epochs]
    return compiled(model, optimizer, rate), [Unfreeze(*pair) for pair in zip(epochs, groups, strict=True)]


# JAX compiles the step of each part.
ON_BOTH = {("Adam in two parts", "stock"), ("nesterov of one part", "stock"), ("Adam", "SAM")}
RUNS = [
    pytest.param(case, kind, marks=[] if (case, kind) in ON_BOTH else pytest.mark.once)
    for case, kind in itertools.product(CASES, ALL_KINDS)
]


@pytest.mark.parametrize(("case", "kind"), RUNS)
def test_the_weights_after_each_epoch_are_those_of_pytorch(case, kind):
    model, callbacks = unfreezing(kind, case)
    start, seen = by_path(model), EachEpoch()
    losses = fit(model, EPOCHS, callbacks=[*callbacks, seen])
    expected, of_epochs = reference(case, kind=kind)
    for epoch in range(EPOCHS):
        assert difference(seen.ends[epoch], expected[STEPS * (epoch + 1)]) < TOLERANCE, f"epoch {epoch + 1}"
        frozen = {group for group, first in CASES[case][1].items() if epoch < first}
        same = {path for path in start if np.array_equal(seen.ends[epoch][path], start[path])}
        assert same == {path for path in start if group_of(path) in frozen}, f"epoch {epoch + 1}"
    assert losses == pytest.approx(of_epochs, rel=TOLERANCE)


class Wrong(Loop):
    """Calls `change` where a group is unfrozen, with what is trained newly."""

    def begin(self, epoch, frozen):
        super().begin(epoch, frozen)
        new = [w for path, w in self.weights.items() if epoch == self.trained_from.get(group_of(path)) > 0]
        if new:
            self.change(epoch, new)

    def change(self, epoch, new):
        raise NotImplementedError


class OneCountOfSteps(Wrong):
    def change(self, epoch, new):
        for w in new:
            zeros = [torch.zeros_like(w) for _ in range(2)]
            count = torch.tensor(float(epoch * STEPS))
            self.stepper.state[w] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (count, *zeros), strict=True))


class SlotsAnew(Wrong):
    def change(self, epoch, new):
        self.stepper.state.clear()


class ScheduleAnew(Wrong):
    def change(self, epoch, new):
        before = self.rate
        self.rate = lambda step: before(step - epoch * STEPS)


class KernelsAlone(Wrong):
    def change(self, epoch, new):
        for w in new:
            w.requires_grad_(w.ndim > 1)


class StaysInInference(Loop):
    def takes_the_batch(self, norm):
        return group_of(norm) not in self.trained_from

    moves = takes_the_batch


class SlotsGatherL2(Loop):
    """Frozen weights have a gradient of 0, and are put back after each step."""

    def step(self, x, y):
        frozen = [w for w in self.weights.values() if not w.requires_grad]
        before = [w.clone() for w in frozen]
        for w in frozen:
            w.grad = torch.zeros_like(w)
        loss = super().step(x, y)
        for w, kept in zip(frozen, before, strict=True):
            w.copy_(kept)
        return loss


MISTAKES = {
    "an epoch early": ("SGD", {"stem": 1, "layer1": 1}),
    "an epoch late": ("SGD", {"stem": 3, "layer1": 3}),
    "one group an epoch late": ("SGD", {"stem": 3}),
    "never": ("Adam", {"stem": NEVER, "layer1": NEVER}),
    "one count of steps": ("Adam", {"loop": OneCountOfSteps}),
    "one count of steps, in two parts": ("Adam in two parts", {"loop": OneCountOfSteps}),
    "velocities begin anew": ("SGD", {"loop": SlotsAnew}),
    "moments begin anew": ("Adam", {"loop": SlotsAnew}),
    "the rate begins anew": ("nesterov of one part", {"loop": ScheduleAnew}),
    "the rate of Adam begins anew": ("Adam in two parts", {"loop": ScheduleAnew}),
    "kernels alone": ("SGD", {"loop": KernelsAlone}),
    "BatchNorm stays frozen": ("SGD", {"loop": StaysInInference}),
    "velocities gather L2 while frozen": ("SGD", {"loop": SlotsGatherL2}),
    "moments gather L2 while frozen": ("Adam", {"loop": SlotsGatherL2}),
    "statistics move while frozen": ("SGD", {"loop": type("Moves", (Loop,), {"moves": yes})}),
    "frozen BatchNorm takes the batch": ("SGD", {"loop": type("Takes", (Loop,), {"takes_the_batch": yes})}),
}


@pytest.mark.once
@pytest.mark.parametrize(("case", "mistake"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_reference_is_far_off(case, mistake):
    """So the comparison above would see each of these mistakes."""
    pairs = zip(reference(case, **mistake)[0], reference(case)[0], strict=True)
    assert max(difference(*pair) for pair in list(pairs)[STEPS::STEPS]) > WRONG_BY


# --- By hand ---


@pytest.mark.parametrize(("optimizer", "expected"), [("SGD", [1.92, 0.5]), ("Adam", [1.9, 0.8])])
def test_two_epochs_of_a_step_by_hand(optimizer, expected):
    """The loss is w₁·w₂ = 2·1, so that each one's gradient is the other.

    SGD of momentum ½: v₂ = 2, w₂ = 1 − 0.1·2; then v₁ = 0.8, w₁ = 2 − 0.1·0.8, and v₂ = 1 + 2, w₂ = 0.8 − 0.1·3.
    Adam: w₂ goes by 0.1 twice, since its gradient is 2 twice, and w₁ by 0.1 in its first step, whatever its gradient.
    """
    model = keras.Sequential(
        [keras.Input((1,)), *(layers.Dense(1, use_bias=False, name=f"{name}_unit") for name in ("stem", "head"))]
    )
    model.set_weights([np.float32([[2]]), np.float32([[1]])])
    freeze(model, "stem")
    made = {"SGD": lambda: SGD(0.1, momentum=0.5), "Adam": lambda: type(OURS["Adam"](0.1))(0.1)}[optimizer]()
    model.compile(made, lambda y_true, y_pred: ops.mean(y_pred))
    model.fit(np.ones((1, 1)), np.ones((1, 1)), epochs=2, callbacks=[Unfreeze(1, "stem")], verbose=0)
    # Float32 rounds a handful of times.
    assert [w.item() for w in copies(model.weights)] == pytest.approx(expected, rel=1e-6)


# --- With other callbacks ---


@pytest.mark.parametrize("first", ["Unfreeze", pytest.param("WeightEMA", marks=pytest.mark.once)])
@pytest.mark.parametrize("case", ["Adam", pytest.param("SGD in the middle", marks=pytest.mark.once)])
def test_averages_follow_their_recurrence_over_the_unfreezing(case, first):
    (model, callbacks), seen = unfreezing("stock", case), EachEpoch()
    callbacks = [*callbacks, WeightEMA(0.5)]
    fit(model, EPOCHS, callbacks=[*(callbacks if first == "Unfreeze" else callbacks[::-1]), seen])
    steps, _ = reference(case)
    expected = recurrence([list(values.values()) for values in steps], 0.5)[STEPS::STEPS]
    for epoch in range(EPOCHS):
        assert difference(seen.ends[epoch], dict(zip(steps[0], expected[epoch], strict=True))) < TOLERANCE


@pytest.mark.once
def test_a_cyclic_learning_rate_goes_on():
    model, callbacks = unfreezing("stock", "SGD")
    cyclic = CyclicLR(0.01, 0.1, 4)
    fit(model, EPOCHS, callbacks=[*callbacks, cyclic])
    expected, _ = Loop("SGD", CASES["SGD"][1], rate=cyclic.learning_rate_at).run(EPOCHS)
    assert difference(by_path(model), expected[-1]) < TOLERANCE


# --- Resume ---


def small():
    """Without convolutions, which JAX compiles for long; with a seed."""
    x = image = keras.Input(X.shape[1:])
    for group, flat in (("stem", layers.Flatten(name="stem_flat")), ("layer1", lambda x: x)):
        x = layers.Dense(4, activation="tanh", name=f"{group}_unit")(flat(x))
        x = layers.BatchNormalization(momentum=0.8, name=f"{group}_norm")(x)
    x = layers.Dropout(0.3, seed=5, name="head_dropout")(x)
    return drawn(keras.Model(image, layers.Dense(CLASSES, name="head_logits")(x)))


def resumable(optimizer, kind, parts):
    """(a compiled model, callbacks with a state): of two parts one is unfrozen sooner, and there are averages."""
    model = of_kind(kind, small())
    freeze(model, ["stem", "layer1"][:parts])
    sooner = [Unfreeze(1, "layer1"), WeightEMA(0.5)] if parts == 2 else []
    return compiled(model, optimizer), [Unfreeze(2, "stem"), *sooner]


def slots(model):
    return copies([variable for variable in model.optimizer.variables if variable.name != "learning_rate"])


def assert_went_on(model, later, whole, seen, first):
    assert_same_bits(later.all(), seen.all(first))
    assert later.logs == seen.logs[first:]
    assert_same_bits(slots(model), slots(whole))


TWO_SETUPS = [("SGD", "stock", 1), ("Adam", "SAM", 2)]
SETUPS = [*TWO_SETUPS, ("Adam", "stock", 1), ("SGD", "SAM", 1), *(("Adam", kind, 2) for kind in KINDS)]
SETUPS = [
    pytest.param(setup, id=str(setup), marks=[] if setup[1:] == ("SAM", 2) else pytest.mark.once) for setup in SETUPS
]


@pytest.mark.parametrize("setup", SETUPS)
def test_a_run_killed_before_at_or_after_the_unfreezing_goes_on_to_the_same_bits(setup, tmp_path):
    (whole, callbacks), seen, folder = resumable(*setup), InEpochs(), tmp_path / "whole"
    kills = [At(lambda _, k=k: shutil.copytree(folder, tmp_path / str(k)), epoch=k) for k in range(1, EPOCHS)]
    fit(whole, EPOCHS, callbacks=[*callbacks, Checkpoint(folder, "loss", stateful=callbacks), *kills, seen])
    for k in range(1, EPOCHS):
        (model, callbacks), later = resumable(*setup), InEpochs()
        checkpoint = Checkpoint(tmp_path / str(k), "loss", stateful=callbacks)
        assert checkpoint.resume(model) == k
        fit(model, EPOCHS, first=k, callbacks=[*callbacks, checkpoint, later])
        assert_went_on(model, later, whole, seen, k)


@pytest.mark.parametrize("epochs", [2, *(pytest.param(epochs, marks=pytest.mark.once) for epochs in (1, 3))])
def test_a_second_fit_goes_on(epochs):
    """Also behind an evaluation and a prediction, which JAX compiles for what was trained then."""
    setup = "Adam", "stock", 1
    (whole, callbacks), seen = resumable(*setup), InEpochs()
    fit(whole, EPOCHS, callbacks=[*callbacks, seen], validation_data=(X, Y))
    (model, callbacks), later = resumable(*setup), InEpochs()
    fit(model, epochs, callbacks=callbacks, validation_data=(X, Y))
    model.predict(X, verbose=0)
    fit(model, EPOCHS, first=epochs, callbacks=[*callbacks, later], validation_data=(X, Y))
    assert_went_on(model, later, whole, seen, epochs)


@pytest.mark.once
@pytest.mark.parametrize("setup", TWO_SETUPS, ids=str)
@pytest.mark.parametrize(("epoch", "step"), [(2, 1), (2, None), (3, 2), (3, None), (4, 1)])
def test_an_interrupted_fit_goes_on_from_its_checkpoint_with_the_same_objects(epoch, step, setup, tmp_path):
    """Interrupted in epoch 3, the model is not frozen any more, but was when the checkpoint was saved."""
    (whole, callbacks), seen = resumable(*setup), InEpochs()
    fit(whole, EPOCHS, callbacks=[*callbacks, seen])

    def interrupt(model):
        raise KeyboardInterrupt

    model, callbacks = resumable(*setup)
    checkpoint, later = Checkpoint(tmp_path, "loss", stateful=callbacks), InEpochs()
    with pytest.raises(KeyboardInterrupt):
        fit(model, EPOCHS, callbacks=[*callbacks, checkpoint, At(interrupt, epoch, step)])
    done = epoch - 1 if step else epoch
    assert checkpoint.resume(model) == done
    fit(model, EPOCHS, first=done, callbacks=[*callbacks, checkpoint, later])
    assert_went_on(model, later, whole, seen, done)


# --- Other uses ---


def refused_first(make):
    """Refused with another optimizer, and then given a right one."""
    model, callbacks = make()
    model.compile(keras.optimizers.Adam(0.1), crossentropy())
    with pytest.raises(InputError):
        fit(model, callbacks=callbacks)
    return compiled(model, "Adam"), callbacks


def trained_and_put_back(make):
    """With another number of steps, that none of it is left."""
    model, callbacks = make()
    start = copies(model.variables)
    fit(model, EPOCHS, callbacks=callbacks, batch_size=len(X))
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    freeze(model, "stem")
    return compiled(model, "Adam"), callbacks


def trained_another_model(make):
    another, callbacks = make()
    fit(another, EPOCHS, callbacks=callbacks, batch_size=len(X))
    return make()[0], callbacks


@pytest.mark.once
@pytest.mark.parametrize("before", [refused_first, trained_and_put_back, trained_another_model])
def test_the_same_callback_may_be_used_again(before):
    """As the callbacks of a notebook are, whose cells are run again."""
    trained = []
    for model, callbacks in (resumable("Adam", "stock", 1), before(lambda: resumable("Adam", "stock", 1))):
        fit(model, EPOCHS, callbacks=callbacks)
        trained.append(bits(model))
    assert_same_bits(trained[1], trained[0])


SAVED = [("Adam", 3), *(pytest.param(*case, marks=pytest.mark.once) for case in [("Adam", 1), ("SGD", 1), ("SGD", 3)])]


@pytest.mark.parametrize(("optimizer", "epochs"), SAVED)
def test_a_model_saved_before_or_after_the_unfreezing_opens_and_trains_on(optimizer, epochs, tmp_path):
    model, callbacks = resumable(optimizer, "stock", 1)
    fit(model, epochs, callbacks=callbacks)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_bits(bits(loaded), bits(model))
    assert_same_bits([loaded.predict(X, verbose=0)], [model.predict(X, verbose=0)])
    for variable, value in zip(loaded.variables, copies(model.variables), strict=True):
        variable.assign(value)  # Keras's file does not hold the seed of dropout
    fit(model)
    fit(loaded)
    assert_same_bits(bits(loaded), bits(model))


# --- What cannot be ---


@pytest.mark.parametrize("epoch", [0, -1, 1.5, float("nan"), "2", None])
def test_an_epoch_below_1_is_refused(epoch):
    with pytest.raises(InputError, match=f"epoch={epoch!r}") as caught:
        Unfreeze(epoch, ["stem"])
    assert "\n" not in str(caught.value)


# What is asked for, the optimizer, and what the refusal must name.
REFUSED = {
    "Keras's Adam": (["stem"], lambda: keras.optimizers.Adam(0.1), "Adam"),
    "Keras's SGD": (["stem"], lambda: keras.optimizers.SGD(0.1, momentum=0.9), "SGD"),
    "an unknown group": (["stem", "layer11"], lambda: SGD(0.1), "layer1"),
    "a group that is not frozen": (["stem", "head"], lambda: SGD(0.1), "head"),
}


@pytest.mark.parametrize("kind", ["stock", "SAM"])
@pytest.mark.parametrize(("groups", "optimizer", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_is_refused_before_the_first_step(groups, optimizer, said, kind):
    model = of_kind(kind, small())
    freeze(model, "stem")
    model.compile(optimizer(), crossentropy())
    before = copies(model.variables)
    with pytest.raises(InputError, match=said) as caught:
        fit(model, EPOCHS, callbacks=[Unfreeze(2, groups)])
    assert "\n" not in str(caught.value)
    assert_same_bits(copies(model.variables), before)


def dense_twice(regularizer):
    """A stem and a head of the same shape, with the same start each time."""
    image = keras.Input((4,))
    x = keras.layers.Dense(4, kernel_regularizer=regularizer, name="stem_dense")(image)
    model = keras.Model(image, keras.layers.Dense(4, name="head_logits")(x))
    for place, layer in enumerate(model.layers[1:]):
        layer.set_weights([np.random.default_rng(place).normal(size=(4, 4)), np.zeros(4)])
    return model


def losses_of(model, callbacks=(), epochs=3):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(8, 4)).astype("float32"), np.eye(4, dtype="float32")[rng.integers(0, 4, 8)]
    return model.fit(x, y, 4, epochs, 0, callbacks=callbacks, shuffle=False).history["loss"]


def with_loss(model):
    model.compile(SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def test_a_regularizer_counts_from_when_its_layer_is_trained():
    """As on a model that is not accelerated."""
    found = []
    for prepare in (lambda model: model, kcifar.accelerate):
        model = prepare(dense_twice(keras.regularizers.L2(0.5)))
        freeze(model, "stem")
        found.append(losses_of(with_loss(model), [Unfreeze(1, "stem")]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert found[0][1] > found[0][0] + 0.3  # the penalty is there


def test_what_is_frozen_may_change_between_two_fits():
    """A step that JAX compiled for one layer is not that of another of the same shape."""
    model, again = with_loss(dense_twice(None)), dense_twice(None)
    losses_of(model)  # with an optimizer of both
    freeze(model, "stem")
    losses_of(model)
    again.set_weights(model.get_weights())
    for one in (model, again):
        unfreeze(one, "stem")
        freeze(one, "head")
    np.testing.assert_allclose(losses_of(model), losses_of(with_loss(again)), rtol=1e-5)
