"""Schedules in optimizers, in recipes and drawn, and what they refuse."""

import json
from pathlib import Path

import keras
import matplotlib.axes
import numpy as np
import pytest
from keras import ops

from kcifar import InputError, experiment, models
from kcifar.experiment import components
from kcifar.recipe import Component, load
from kcifar.runs import figures
from kcifar.training import SGD, Adam, OneCycle, PiecewiseConstant, SharpnessAware, StepDecay, WarmupCosine
from tests.training.test_schedules import COUNT, KINDS, LATE, ON_TORCH, RATE, assert_close, each_kind, rates_of

# --- In optimizers ---

ONES, STEPS = np.ones((10, 1), np.float32), 15  # three epochs of five batches


class Moves(keras.callbacks.Callback):
    """The learning rate that the optimizer shows in each step, and how far the model's only weight then moves."""

    def on_train_begin(self, logs=None):
        self.shown, self.weights = [], [self.weight()]

    def on_train_batch_begin(self, batch, logs=None):
        self.shown.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.weight())

    def weight(self):
        return float(self.model.get_weights()[0].item())


def fit_unit_gradient(optimizer, around=lambda model: model, first=0):
    """(rates shown, moves) of one weight, from 0, whose gradient is always 1; compiled on JAX."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    traces, moves = [], Moves()
    model = around(model)
    model.compile(optimizer, lambda y_true, y_pred: traces.append(1) or ops.mean(y_pred))
    optimizer.iterations.assign(first)
    model.fit(ONES, ONES, batch_size=2, epochs=3, verbose=0, callbacks=[moves])
    assert ON_TORCH or len(traces) < STEPS
    return moves.shown, -np.diff(moves.weights)


# A weight below 4 has a float32 every 2.4e-7 at most, and a move is a difference of two.
MOVE = 3e-7


@each_kind
def test_fit_takes_the_rate_of_each_step(schedule):
    shown, moves = fit_unit_gradient(SGD(schedule))
    expected = rates_of(schedule, STEPS)
    assert_close(shown, expected)
    np.testing.assert_allclose(moves, expected, rtol=0, atol=MOVE)


USES = {
    "Keras's SGD": (keras.optimizers.SGD, {}, 1e-7),
    "Adam": (Adam, {}, 2e-6),  # m/√v of a gradient of 1 is 1, in float32 to a few digits less
    "SAM": (SGD, {"around": SharpnessAware}, 1e-7),
    "ASAM around Adam": (Adam, {"around": lambda model: SharpnessAware(model, rho=0.5, adaptive=True)}, 2e-6),
}


@pytest.mark.parametrize(("optimizer", "arguments", "error"), USES.values(), ids=list(USES))
def test_other_optimizers_take_the_rate_of_each_step(optimizer, arguments, error):
    schedule = KINDS["WarmupCosine"]
    shown, moves = fit_unit_gradient(optimizer(schedule), **arguments)
    assert_close(shown, rates_of(schedule, STEPS))
    np.testing.assert_allclose(moves, rates_of(schedule, STEPS), rtol=0, atol=MOVE + error)


def test_the_rate_acts_at_once_on_a_velocity():
    """v = ½v + 1 is 2 − ½^t, and the move is the rate of the same step times that."""
    _, moves = fit_unit_gradient(SGD(KINDS["PiecewiseConstant"], momentum=0.5))
    velocity = 2 - 0.5 ** np.arange(STEPS)
    np.testing.assert_allclose(moves, rates_of(KINDS["PiecewiseConstant"], STEPS) * velocity, rtol=0, atol=2 * MOVE)


def test_fit_goes_on_at_a_late_step():
    schedule = PiecewiseConstant(RATE, [LATE, LATE + 7], [1.0, 0.5, 0.1])
    shown, moves = fit_unit_gradient(SGD(schedule), first=LATE - 1)
    expected = [RATE] + 7 * [RATE / 2] + 7 * [RATE / 10]
    assert_close(shown, expected)
    np.testing.assert_allclose(moves, expected, rtol=0, atol=MOVE)


@each_kind
def test_a_schedule_is_saved_and_loaded(schedule, tmp_path):
    same = type(schedule).from_config(json.loads(json.dumps(schedule.get_config())))
    np.testing.assert_array_equal(rates_of(same), rates_of(schedule))
    assert json.dumps(same.get_config()) == json.dumps(schedule.get_config())
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(SGD(schedule), "mean_squared_error")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(9)
    model.save(tmp_path / "model.keras")
    optimizer = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert float(optimizer.learning_rate) == float(schedule(9))
    np.testing.assert_array_equal(rates_of(optimizer._learning_rate), rates_of(schedule))


# --- In recipes, in epochs ---

TUTORIAL = load(Path(__file__).parents[2] / "recipes" / "tutorial_net.py")
# What is written, and, of 6 epochs of 7 steps (the file has other numbers) at a rate of 0.2, what that is in steps.
RECIPES = {
    "WarmupCosine(warmup_epochs=0.4, final=0.01)": WarmupCosine(0.2, 42, 3, 0.01),  # 2.8
    "WarmupCosine()": WarmupCosine(0.2, 42),
    "StepDecay(decay_epochs=1.3, gamma=0.5)": StepDecay(0.2, 9, 0.5),  # 9.1
    "StepDecay(decay_epochs=2)": StepDecay(0.2, 14, 0.1),
    "PiecewiseConstant(boundary_epochs=[0.4, 3], factors=[1, 2, 0])": PiecewiseConstant(0.2, [3, 21], [1, 2, 0]),
    "OneCycle(up_epochs=1.2, start_divisor=10, final_divisor=50, shape='linear')": OneCycle(
        0.2, 42, 8, 10.0, 50.0, "linear"
    ),  # 8.4
    "OneCycle(up_epochs=2)": OneCycle(0.2, 42, 14),
    "CyclicLR(base=0.01, maximum=0.1, step_size_up=3, step_size_down=5)": lambda t: np.interp(
        t % 8, [0, 3, 8], [0.01, 0.1, 0.01]
    ),
    "CyclicLR(base=0.01, maximum=0.1, step_size_up=2, unit='epoch')": lambda t: np.interp(
        t // 7 % 4, [0, 2, 4], [0.01, 0.1, 0.01]
    ),
    "none": lambda t: np.full(len(t), 0.2),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """28 images in a file: 7 batches of 4."""
    path = tmp_path_factory.mktemp("images") / "few.npz"
    few = np.random.default_rng(0).integers(0, 256, (28, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_train=few, y_train=np.arange(28) % 10, x_test=few[:4], y_test=np.arange(4))
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The (x, y) of all lines that are drawn in figures."""
    lines, plot = [], matplotlib.axes.Axes.plot
    monkeypatch.setattr(matplotlib.axes.Axes, "plot", lambda *a, **style: lines.append(a[1:]) or plot(*a, **style))
    return lines


@pytest.mark.parametrize(("written", "expected"), RECIPES.items(), ids=list(RECIPES))
def test_a_recipe_gives_the_schedule_and_its_picture(written, expected, images, tmp_path, monkeypatch, drawn):
    image = keras.Input((32, 32, 3))
    few = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    monkeypatch.setattr(models, "build", lambda *_, **__: few)  # JAX compiles longer for larger ones
    overrides = [f"data={images}", "batch_size=4", "validation=0.0", "select_on=last", "transforms=[]", "epochs=6"]
    overrides += ["optimizer=SGD(learning_rate=0.2)", f"schedule={written}"]
    planned = experiment.plan(TUTORIAL.override(overrides))
    rates = planned.learning_rates(np.arange(COUNT))
    assert_close(rates, np.float64(ops.convert_to_numpy(expected(np.arange(COUNT)))))
    optimizer = planned.model.optimizer
    optimizer.build(planned.model.trainable_variables)
    optimizer.iterations.assign(17)
    assert [float(optimizer.learning_rate), planned.learning_rate_at(17)] == pytest.approx([rates[17]] * 2, rel=1e-6)

    picture = tmp_path / "learning_rate.png"
    figures.save(figures.learning_rate(planned.learning_rates, 6, planned.steps_per_epoch), picture)
    ((epochs, line),) = drawn
    np.testing.assert_allclose(epochs, np.arange(42) / 7)
    assert_close(line, rates[:42])
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_size > 5_000


@pytest.mark.once
def test_a_long_schedule_is_drawn_from_the_first_step_to_the_last(drawn):
    figures.learning_rate(lambda steps: 2 * steps, 300, 391)
    ((epochs, line),) = drawn
    np.testing.assert_allclose(epochs * 391 * 2, line)
    assert (line[0], line[-1]) == (0, 2 * (300 * 391 - 1))
    assert set(np.diff(line)) == {10, 12}  # every fifth or sixth step


@pytest.mark.once
def test_lengths_in_steps_follow_from_epochs_and_steps():
    make = components.schedule(Component("WarmupCosine", warmup_epochs=0.3))
    for epochs, steps, warmup in ((1, 9, 3), (10, 97, 29), (10, 391, 117), (200, 391, 117)):
        assert vars(make(0.1, epochs, steps)) == vars(WarmupCosine(0.1, epochs * steps, warmup))


# --- Refused ---

NAN, INF = float("nan"), float("inf")
REFUSED = [
    *((kind, {"learning_rate": rate}, kind.__name__, str(rate)) for kind in
      (WarmupCosine, StepDecay, PiecewiseConstant, OneCycle) for rate in (0.0, -0.1, NAN, INF)),
    (WarmupCosine, {"warmup_steps": 20}, "20 of 20 steps"),
    (WarmupCosine, {"warmup_steps": 31}, "31 of 20 steps"),
    (WarmupCosine, {"warmup_steps": -1}, "-1 of 20 steps"),
    (WarmupCosine, {"warmup_steps": 1.5}, "1.5 of 20 steps"),
    (WarmupCosine, {"steps": 0}, "0 of 0 steps"),
    *((WarmupCosine, {"final": final}, f"final={final}", "0.3") for final in (0.31, -0.01, NAN)),
    *((StepDecay, {"decay_steps": steps}, f"{steps} steps") for steps in (0, -3, 0.5, 1.5, NAN)),
    *((StepDecay, {"gamma": gamma}, f"gamma={gamma}") for gamma in (0.0, -0.5, NAN, INF)),
    *((PiecewiseConstant, {"boundaries": found}, str(found)) for found in ((5, 3), (3, 3), (0, 3), (-2, 3), (2.5, 3))),
    (PiecewiseConstant, {"boundaries": (NAN,), "factors": (1, 0.1)}, "(nan,)"),
    (PiecewiseConstant, {"factors": (1, 0.5)}, "2 boundaries", "2 factors", "(3, 7)", "(1, 0.5)"),
    (PiecewiseConstant, {"factors": (1, 0.5, 0.2, 0.1)}, "2 boundaries", "4 factors"),
    (PiecewiseConstant, {"boundaries": (), "factors": ()}, "0 boundaries", "0 factors"),
    *((PiecewiseConstant, {"factors": (1, bad, 0.1)}, f"(1, {bad}, 0.1)") for bad in (-0.5, NAN, INF)),
    *((OneCycle, {"up_steps": up}, f"{up} of 20 steps") for up in (1, 0, -4, 2.5, 20, 21, NAN)),
    *((OneCycle, {name: bad}, f"{name}={bad}") for name in ("start_divisor", "final_divisor") for bad in (0, -2, NAN)),
    *((OneCycle, {"shape": shape}, f"'{shape}'", "'cosine' or 'linear'") for shape in ("cos", "triangular", "")),
]  # fmt: skip
ARGUMENTS = {
    WarmupCosine: {"steps": 20},
    StepDecay: {"decay_steps": 4},
    PiecewiseConstant: {"boundaries": (3, 7), "factors": (1, 0.5, 0.1)},
    OneCycle: {"steps": 20, "up_steps": 5},
}


def assert_refused(action, *words):
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.once
@pytest.mark.parametrize(("kind", "changes", "words"), [(kind, changes, words) for kind, changes, *words in REFUSED])
def test_an_argument_outside_its_range_is_refused_by_name(kind, changes, words):
    kind(**{"learning_rate": RATE} | ARGUMENTS[kind])
    assert_refused(lambda: kind(**{"learning_rate": RATE} | ARGUMENTS[kind] | changes), kind.__name__, *words)


@pytest.mark.once
@pytest.mark.parametrize(
    ("component", "words"),
    [
        (Component("WarmupCosine", warmup_epochs=4), ["28 of 28 steps"]),
        (Component("WarmupCosine", final=0.5), ["final=0.5", "0.3"]),
        (Component("StepDecay", decay_epochs=0.01), ["0 steps"]),
        (Component("PiecewiseConstant", boundary_epochs=[2, 2.01], factors=[1, 0.5, 0.1]), ["(14, 14)"]),
        (Component("OneCycle", up_epochs=0.1), ["1 of 28 steps"]),
        (Component("OneCycle", up_epochs=2, shape="cos"), ["'cos'"]),
        (Component("StepDecay"), ["'decay_epochs' is missing"]),
        (Component("StepDecay", decay_steps=3), ["'decay_steps'", "decay_epochs"]),
        (Component("WarmUpCosine"), ["'WarmUpCosine'", "WarmupCosine"]),
        (Component("WarmupCosine", warmup_epochs="3"), ["WarmupCosine(warmup_epochs='3')"]),
        (Component("PiecewiseConstant", boundary_epochs=2, factors=[1, 0.1]), ["boundary_epochs=2"]),
    ],
    ids=str,
)
def test_what_a_recipe_cannot_mean_is_refused(component, words):
    """Of 4 epochs of 7 steps."""
    assert_refused(lambda: components.schedule(component)(RATE, 4, 7), *words)
