"""StopOnNaN: the step that it names, what is on the disk afterwards, and trainings that it leaves alone."""

import threading

import keras
import numpy as np
import pytest
from keras import layers

import kcifar
from kcifar import InputError
from kcifar.callbacks import Checkpoint, StopOnNaN, WeightEMA
from kcifar.callbacks.evaluate import Evaluate
from kcifar.callbacks.progress import ProgressBar
from kcifar.callbacks.run_log import RunLog
from kcifar.training import SGD, SharpnessAware

ON_TORCH = keras.backend.backend() == "torch"
KINDS = ["stock", "SAM"] + ["accelerated"] * ON_TORCH
STEPS, BATCH, EPOCHS, CLASSES = 5, 4, 3, 2


class Given(keras.utils.PyDataset):
    """The same batches each epoch, but for one value in one of them once `spoil` was called."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(3)
        self.x = rng.normal(size=(STEPS, BATCH, 3)).astype(np.float32)
        self.y = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, (STEPS, BATCH))]

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return self.x[index].copy(), self.y[index].copy()

    def spoil(self, step, kind):
        if kind == "nan":
            self.x[step - 1, 1, 2] = np.nan
        else:
            self.y[step - 1, 1, 0] = np.inf  # the cross-entropy is then −inf·log p with 0 < p < 1


class Spoil(keras.callbacks.Callback):
    """Spoils a step of an epoch, both counted from 1, and keeps what the folder of the run held before that epoch."""

    def __init__(self, batches, epoch, step, kind="nan", folder=None):
        super().__init__()
        self.batches, self.epoch, self.step, self.kind = batches, epoch, step, kind
        self.folder, self.before = folder, None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            self.before = content(self.folder) if self.folder else None
            self.batches.spoil(self.step, self.kind)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(kind="stock", rate=0.1):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(CLASSES)])
    model.set_weights([np.random.default_rng(1).normal(size=(3, CLASSES)), np.zeros(CLASSES)])
    if kind == "accelerated":
        kcifar.accelerate(model)
    model = SharpnessAware(model, rho=0.05) if kind == "SAM" else model
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    return model


def error_of(model, batches, callbacks, epochs=EPOCHS, **arguments):
    with pytest.raises(InputError) as caught:
        model.fit(batches, shuffle=False, epochs=epochs, callbacks=callbacks, verbose=0, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def place(epoch, step, of=STEPS):
    return f"in epoch {epoch} at step {step} of {of};"


@pytest.fixture(scope="module", params=KINDS)
def restarted(request):
    """A function that gives the same model as it was at the start: JAX compiles it once."""
    model = made(request.param)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    def restart():
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        return model

    return restart


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("step", [1, 3, STEPS], ids=["first", "third", "last"])
def test_the_first_step_of_no_finite_loss_is_named_and_the_last_good_epoch_stays(restarted, step, value, tmp_path):
    batches, checkpoint = Given(), Checkpoint(tmp_path, "loss")
    spoil = Spoil(batches, 2, step, value, tmp_path)
    message = error_of(restarted(), batches, [checkpoint, StopOnNaN(), spoil])
    assert f"the loss is {value} {place(2, step)}" in message
    assert "the checkpoint of epoch 1 stays" in message
    assert len(spoil.before) == 2
    assert content(tmp_path) == spoil.before

    model = restarted()
    assert Checkpoint(tmp_path, "loss").resume(model) == 1
    best = keras.saving.load_model(tmp_path / "best.keras")
    for kept, resumed in zip(best.get_weights(), model.get_weights(), strict=True):
        assert np.isfinite(kept).all()
        np.testing.assert_array_equal(kept, resumed)


@pytest.mark.parametrize("step", [2, STEPS], ids=["second", "last"])
def test_nothing_is_saved_of_a_first_epoch(restarted, step, tmp_path):
    batches = Given()
    batches.spoil(step, "nan")
    message = error_of(restarted(), batches, [Checkpoint(tmp_path, "loss"), StopOnNaN()])
    assert place(1, step) in message
    assert "nothing was saved" in message
    assert content(tmp_path) == {}


def test_epochs_are_counted_on_in_a_resumed_run(restarted):
    batches = Given()
    message = error_of(restarted(), batches, [StopOnNaN(), Spoil(batches, 7, 2)], epochs=9, initial_epoch=5)
    assert place(7, 2) in message


@pytest.mark.parametrize("step", [2, STEPS], ids=["second", "last"])
def test_among_the_callbacks_of_a_run_the_files_are_those_of_the_epoch_before(restarted, step, tmp_path):
    """In the order of `kcifar.experiment.train`; fit validates too, between the last step and what is saved."""
    batches, ema = Given(), WeightEMA(0.9)
    log = RunLog(tmp_path / "log.csv", lambda step: 0.1)
    checkpoint, progress = Checkpoint(tmp_path, "test_loss", stateful=[ema, log]), ProgressBar(lambda step: 0.1, 20, 4)
    spoil = Spoil(batches, 2, step, "nan", tmp_path)
    callbacks = [ema, Evaluate(test=Given()), log, checkpoint, StopOnNaN(), progress, spoil]
    message = error_of(restarted(), batches, callbacks, validation_data=Given())
    assert place(2, step) in message
    assert set(spoil.before) == {"best.keras", "state.npz", "log.csv"}
    assert content(tmp_path) == spoil.before


class Hold(keras.callbacks.Callback):
    """Keeps the thread that reads the figures of a step until a later step begins. Steps are counted from 1."""

    async_safe = True

    def __init__(self, step, until):
        super().__init__()
        self.step, self.until, self.free = step, until, threading.Event()

    def on_train_batch_begin(self, batch, logs=None):
        if batch + 1 >= self.until:
            self.free.set()

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step and threading.current_thread() is not threading.main_thread():
            self.free.wait()


@pytest.mark.parametrize("held", [1, 2], ids=["the one before", "the first bad one"])
def test_the_first_step_is_named_whichever_thread_is_first_to_read_its_loss(held, tmp_path):
    """Keras has the figures of each step read by another thread; here the others are done long before one of them."""
    batches = [np.random.default_rng(3).normal(size=(400, 3)), np.zeros((400, 2))]
    batches[0][BATCH + 1] = np.nan  # of the second step of 100
    hold, model = Hold(held, until=99), made()
    try:
        message = error_of(
            model, batches[0], [hold, Checkpoint(tmp_path, "loss"), StopOnNaN()], y=batches[1], batch_size=BATCH
        )
    finally:
        hold.free.set()
    assert place(1, 2, of=100) in message
    assert content(tmp_path) == {}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_where_the_number_of_steps_is_not_known_none_is_named():
    batches = Given()
    batches.spoil(2, "nan")
    message = error_of(made(), (batches[step] for step in range(STEPS)), [StopOnNaN()], epochs=1)
    assert "in epoch 1 at step 2" in message
    assert "None" not in message


def test_a_loss_that_overflows_by_itself_ends_training_where_it_is_first_infinite():
    """Of one weight, x = 1, y = 0, (w − y)², rate 1e10: w = 1, then −2e10, then 4e20, whose square is above 3e38."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1))])
    model.compile(SGD(1e10), "mean_squared_error")
    message = error_of(model, np.ones((6, 1)), [StopOnNaN()], epochs=1, y=np.zeros((6, 1)), batch_size=1)
    assert f"the loss is inf {place(1, 3, of=6)}" in message


@pytest.mark.parametrize("epoch", [1, 2])
def test_weights_that_the_last_step_of_an_epoch_breaks_are_not_saved(epoch, tmp_path):
    """w = 100, x = 1, y = 0, (w − y)²: the loss is 1e4, and of rate 1e38 the step, −2e40, is above float32's 3e38."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), 100)])
    model.compile(SGD(0.0), "mean_squared_error")

    class Explode(keras.callbacks.Callback):
        def on_epoch_begin(self, done, logs=None):
            self.before = content(tmp_path)
            if done + 1 == epoch:
                self.model.optimizer.learning_rate = 1e38

    explode = Explode()
    callbacks = [Checkpoint(tmp_path, "loss"), StopOnNaN(), explode]
    message = error_of(model, np.ones((1, 1)), callbacks, epochs=3, y=np.zeros((1, 1)))
    kept = "nothing was saved yet" if epoch == 1 else "the checkpoint of epoch 1 stays"
    assert message.startswith(f"weights are not finite after epoch {epoch}; {kept}; ")
    assert content(tmp_path) == explode.before


def test_a_step_that_reports_no_loss_is_refused():
    class Silent(keras.Model):
        def train_step(self, *arguments):
            result = super().train_step(*arguments)
            return {"other": 1.0} if ON_TORCH else ({"other": 1.0}, result[1])

    image = keras.Input((3,))
    model = Silent(image, layers.Dense(CLASSES)(image))
    model.compile(SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True))
    assert "expected 'loss'" in error_of(model, Given(), [StopOnNaN()])


def test_a_training_of_finite_losses_is_left_alone(restarted):
    found = []
    for callbacks in ([], [StopOnNaN()]):
        model = restarted()
        logs = model.fit(Given(), shuffle=False, epochs=EPOCHS, callbacks=callbacks, verbose=0).history
        found.append((logs, [np.array(weight) for weight in model.get_weights()]))
    (logs, weights), (others, same) = found
    assert logs == others
    assert len(logs["loss"]) == EPOCHS
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)
