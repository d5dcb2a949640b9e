"""WeightEMA against its recurrence in float64 on the weights of a plain training."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import kcifar
from kcifar.callbacks import WeightEMA
from kcifar.data import Batches, Split
from kcifar.training import SGD, SharpnessAware

pytestmark = pytest.mark.usefixtures("quick_compilation")

ON_TORCH = keras.backend.backend() == "torch"
KINDS = ["stock", "SAM", "mixed_bfloat16"] + ["accelerated"] * ON_TORCH
EPOCHS, STEPS, BATCH, CLASSES = 4, 3, 8, 4
DECAY = 0.5  # (1 + t)/(10 + t) is below it for t < 8, which is in the third epoch

# The reference runs in float64. Each step rounds an average a few times, by 6e-8 of it, and forgets a part of what was
# before: less than 12 × 2e-7 if all went one way.
TOLERANCE = 2e-6  # of the largest magnitude of the tensor
WRONG_BY = 200 * TOLERANCE  # what a wrong reference differs by at least


def batches(epoch=0, count=STEPS * BATCH, seed=41, shuffle=True):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = 60 * labels[:, None, None, None] + rng.integers(0, 76, (count, 32, 32, 3))
    made = Batches(Split(images.astype(np.uint8), labels, CLASSES), BATCH, seed=9, shuffle=shuffle)
    made.epoch = epoch
    return made


def validation():
    return batches(count=BATCH, seed=42, shuffle=False)


def copies(variables):
    """On torch NumPy shows the memory of the variables themselves."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def state_of(model):
    """All that training goes on from: weights, statistics, seeds, the optimizer's step and velocities."""
    return copies([*model.variables, *(v for v in model.optimizer.variables if v.name != "learning_rate")])


def give(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def floats(values):
    return [value for value in values if value.dtype.kind == "f"]


def assert_same_bits(got, expected):
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"array {i}")


def made(kind):
    """A compiled model with two kinds of kernels, moving statistics, and a dropout's integer seed."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(kind if kind.startswith("mixed") else "float32")
    try:
        image = keras.Input((32, 32, 3))
        x = layers.AveragePooling2D(8)(layers.Rescaling(1 / 128, -1)(image))
        x = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(4, 3, padding="same", activation="elu")(x))
        x = layers.BatchNormalization(momentum=0.8)(layers.Dense(6, "tanh")(layers.Flatten()(x)))
        model = keras.Model(image, layers.Dense(CLASSES, dtype="float32")(layers.Dropout(0.3, seed=5)(x)))
    finally:
        keras.config.set_dtype_policy(before)
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(rng.uniform(0.2, 1.2, variable.shape) - 0.7 * (len(variable.shape) > 1))
    if kind == "accelerated":
        kcifar.accelerate(model)
    model = SharpnessAware(model, rho=0.1) if kind == "SAM" else model
    model.compile(SGD(0.2, momentum=0.9), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


@functools.cache
def made_once(kind):
    model = made(kind)
    return model, copies(model.variables), copies(model.optimizer.variables)


def at_start(kind="stock"):
    """The same model each time, since JAX compiles it, as it was when it was made."""
    model, start, slots = made_once(kind)
    give(model.variables, start)
    give(model.optimizer.variables, slots)
    return model


class AfterSteps(keras.callbacks.Callback):
    """All variables at the start and after each step."""

    def on_train_begin(self, logs=None):
        self.seen = [copies(self.model.variables)]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(copies(self.model.variables))


class InEpochs(keras.callbacks.Callback):
    """What is in the model when an epoch begins and when it has ended. Looks at no step: JAX would sync for that."""

    def __init__(self):
        super().__init__()
        self.begins, self.ends, self.logs = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(copies(self.model.variables))

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(copies(self.model.variables))
        self.logs.append(dict(logs))

    def all(self, first=0):
        return itertools.chain(*self.begins[first:], *self.ends[first:])


class At(keras.callbacks.Callback):
    """Calls a function of the model after an epoch, or after a step of it, both counted from 1."""

    def __init__(self, do, epoch, step=None):
        super().__init__()
        self.do, self.epoch, self.step, self.now = do, epoch, step, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch + 1) == (self.epoch, self.step):
            self.do(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1, None) == (self.epoch, self.step):
            self.do(self.model)


def trained(model, callbacks, first=0, epochs=EPOCHS, **arguments):
    """What a callback behind these saw of the epochs after the `first` ones."""
    seen, order = InEpochs(), {"shuffle": False, "epochs": epochs, "initial_epoch": first, "verbose": 0}
    model.fit(batches(first), callbacks=[*callbacks, seen], **order, **arguments)
    return seen


@functools.cache
def plain(kind="stock"):
    """(variables at the start and after each step, losses of the epochs, state at the end), without averages."""
    model, steps = at_start(kind), AfterSteps()
    seen = trained(model, [steps])
    return steps.seen, [logs["loss"] for logs in seen.logs], state_of(model)


@functools.cache
def averaged(kind="stock", decay=DECAY):
    """What a training with averages showed that nothing disturbed, and its state at the end."""
    model = at_start(kind)
    return trained(model, [WeightEMA(decay)]), state_of(model)


# --- The averages ---


def share(t, decay):
    return min(decay, (1 + t) / (10 + t))


def recurrence(steps, decay, of_step=share, begin=None):
    """The averages at the start and after each step in float64; of integers what they are then."""
    averages = [steps[0] if begin is None else begin]
    for t, weights in enumerate(steps[1:], start=1):
        d = of_step(t, decay)
        pairs = zip(averages[-1], weights, strict=True)
        averages.append([d * np.float64(e) + (1 - d) * w if w.dtype.kind == "f" else w for e, w in pairs])
    return averages


def difference(got, expected):
    """The largest, of the largest magnitude of its tensor; integers must be the same."""
    assert_same_bits(*([value for value in values if value.dtype.kind != "f"] for values in (got, expected)))
    pairs = zip(floats(got), floats(expected), strict=True)
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in pairs)


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_three_steps_by_hand(decay):
    """The gradient of a mean of 1·w is 1, so w goes 1, 0.5, 0, −0.5; d is 2/11, 3/12, and 4/13 unless decay is less."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1))])
    model.compile(SGD(0.5), lambda y_true, y_pred: ops.mean(y_pred))
    model.fit(np.ones((3, 1)), np.ones((3, 1)), batch_size=1, callbacks=[WeightEMA(decay)], verbose=0)
    second = 3 / 12 * (2 / 11 * 1 + 9 / 11 * 0.5) + 9 / 12 * 0
    expected = {0.999: 4 / 13 * second + 9 / 13 * -0.5, 0.3: 0.3 * second + 0.7 * -0.5}[decay]
    assert model.get_weights()[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "decay"), [*((kind, DECAY) for kind in KINDS), ("stock", 0), ("stock", 0.999)])
def test_averages_follow_the_recurrence_and_training_is_as_without_them(kind, decay):
    (steps, losses, state), (seen, after) = plain(kind), averaged(kind, decay)
    expected = recurrence(steps, decay)[STEPS::STEPS]
    for epoch in range(EPOCHS):
        assert difference(seen.ends[epoch], expected[epoch]) < TOLERANCE, f"epoch {epoch + 1}"
        assert_same_bits(seen.begins[epoch], steps[STEPS * epoch])
    assert [logs["loss"] for logs in seen.logs] == losses
    assert_same_bits(after[len(steps[0]) :], state[len(steps[0]) :])  # the optimizer's
    assert difference(floats(steps[0]), floats(steps[-1])) > 0.1
    seeds = [i for i, value in enumerate(steps[0]) if value.dtype.kind != "f"]
    assert any((seen.ends[-1][i] != steps[0][i]).any() for i in seeds), "no seed is counted up"
    assert decay or difference(seen.ends[-1], steps[-1]) < TOLERANCE


def all_but(what):
    """The recurrence, but variables of that name are as training left them."""

    def of(steps, decay):
        named = [what in variable.name for variable in made_once("stock")[0].weights]
        pairs = zip(recurrence(steps, decay), steps, strict=True)
        return [[w if n else e for e, w, n in zip(*pair, named, strict=True)] for pair in pairs]

    return of


WRONG = {
    "no warm-up": lambda *given: recurrence(*given, of_step=lambda t, d: d),
    "warm-up only": lambda *given: recurrence(*given, of_step=lambda t, d: share(t, 1)),
    "steps counted from 0": lambda *given: recurrence(*given, of_step=lambda t, d: share(t - 1, d)),
    "warm-up in each epoch": lambda *given: recurrence(*given, of_step=lambda t, d: share((t - 1) % STEPS + 1, d)),
    "d for 1 − d": lambda *given: recurrence(*given, of_step=lambda t, d: 1 - share(t, d)),
    "from zeros": lambda steps, d: recurrence(steps, d, begin=[0 * value for value in steps[0]]),
    "from the first step": lambda steps, d: recurrence(steps, d, begin=steps[1]),
    "a step late": lambda steps, d: recurrence([steps[0], *steps[:-1]], d),
    "once an epoch": lambda steps, d: [e for e in recurrence(steps[::STEPS], d) for _ in range(STEPS)],
    "the last step of an epoch twice": lambda steps, d: recurrence([w for w in steps for _ in range(2)], d)[::2],
    "no moving mean": all_but("moving_mean"),
    "no moving variance": all_but("moving_variance"),
    "no offsets": all_but("beta"),
}


@pytest.mark.once
@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_wrong_recurrence_is_far_off(wrong):
    """So the comparison above would see each of these mistakes."""
    steps = [floats(values) for values in plain()[0]]
    got, right = wrong(steps, DECAY), recurrence(steps, DECAY)
    assert max(map(difference, got[STEPS::STEPS], right[STEPS::STEPS])) > WRONG_BY


@pytest.mark.parametrize("sizes", [(8, 8, 4), (8, 4, 8, 8)], ids=["the last", "any"])
def test_a_smaller_batch_counts_as_a_step(sizes):
    """Epochs of three steps, from a generator that does not end."""
    split, found = batches(count=sum(sizes)).split, []
    parts = [
        np.split(array, np.cumsum(sizes)[:-1])
        for array in (split.images, np.eye(CLASSES, dtype=np.float32)[split.labels])
    ]
    for callbacks in ([AfterSteps()], [WeightEMA(DECAY), InEpochs()]):
        endless = (step for step in itertools.cycle(zip(*parts, strict=True)))
        at_start().fit(endless, steps_per_epoch=3, epochs=3, shuffle=False, callbacks=callbacks, verbose=0)
        found.append(callbacks[-1])
    assert max(map(difference, found[1].ends, recurrence(found[0].seen, DECAY)[3::3])) < TOLERANCE


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_epoch_that_ends_with_its_generator_has_no_further_step():
    steps, given = plain()[0], batches()
    seen, generator = InEpochs(), (given[step] for step in range(STEPS))
    at_start().fit(generator, shuffle=False, callbacks=[WeightEMA(DECAY), seen], verbose=0)
    assert difference(seen.ends[0], recurrence(steps, DECAY)[STEPS]) < TOLERANCE
