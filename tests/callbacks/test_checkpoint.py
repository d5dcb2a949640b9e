"""A training in a script of one's own that is resumed as Checkpoint's docstring shows: the same bits, or refused."""

import shutil

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError
from kcifar.augment import MixUp, RandomCrop, RandomFlip
from kcifar.callbacks import Checkpoint, CyclicLR, EarlyStopping
from kcifar.callbacks.evaluate import Evaluate
from kcifar.data import Batches, Split
from kcifar.training import SGD

pytestmark = pytest.mark.usefixtures("quick_compilation")
TRANSFORMS = (RandomCrop(32, 4), RandomFlip(), MixUp(0.4))


def split(count=24):
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return Split(images, np.arange(count) % 4, 4)


def new_model():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.AveragePooling2D(8),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(4),
        ]
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def of_batches():
    """Training and validation, both in an order of their own and transformed by chance."""
    data = split()
    return {
        "x": Batches(data, 8, TRANSFORMS, seed=1),
        "shuffle": False,
        "validation_data": Batches(data, 8, TRANSFORMS, seed=2),
    }


def of_shuffled_batches():
    return {"x": Batches(split(), 8, seed=1)}


def of_shuffled_arrays():
    data = split()
    return {"x": data.images, "y": np.eye(4, dtype="float32")[data.labels], "batch_size": 8, "validation_split": 0.25}


class CopyAfter(keras.callbacks.Callback):
    """Copies the folder as it is after an epoch: what a training leaves that is killed there."""

    def __init__(self, epochs, folder, to):
        super().__init__()
        self.epochs, self.folder, self.to = epochs, folder, to

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            shutil.copytree(self.folder, self.to)


def trained(folder, data, *callbacks, again=False):
    """(all variables, logs) after four epochs of a new model, trained from the start or resumed."""
    model, given, stopping = new_model(), data(), EarlyStopping(9, "accuracy")
    checkpoint = Checkpoint(folder, "accuracy", stateful=[stopping])
    first = checkpoint.resume(model) if again else 0
    evaluation = Evaluate(seen=given["validation_data"]) if "validation_data" in given else Evaluate()
    callbacks = [evaluation, stopping, checkpoint, *callbacks]
    history = model.fit(**given, epochs=4, initial_epoch=first, callbacks=callbacks, verbose=0).history
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables], history


@pytest.mark.parametrize("data", [of_batches, of_shuffled_batches, of_shuffled_arrays])
def test_two_epochs_and_two_more_are_four(data, tmp_path):
    whole, logs = trained(tmp_path / "whole", data, CopyAfter(2, tmp_path / "whole", tmp_path / "killed"))
    parts, later = trained(tmp_path / "killed", data, again=True)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert later == {name: values[2:] for name, values in logs.items()}


def test_of_a_damaged_state_the_one_before_is_taken(tmp_path, capsys):
    whole, _ = trained(tmp_path / "whole", of_batches, CopyAfter(3, tmp_path / "whole", tmp_path / "killed"))
    (tmp_path / "killed" / "last" / "state.npz").write_bytes(b"PK")
    parts, later = trained(tmp_path / "killed", of_batches, again=True)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(later["loss"]) == 2
    assert "state.npz' is damaged" in (line := capsys.readouterr().err)
    assert line.endswith(": goes on from the state before, behind epoch 2\n")


class Gives(keras.callbacks.Callback):
    """Puts a figure of each epoch into the log."""

    def __init__(self, figures):
        super().__init__()
        self.figures = figures

    def on_epoch_end(self, epoch, logs=None):
        logs["figure"] = self.figures[epoch]


def test_a_resumed_training_knows_its_best_epoch(tmp_path):
    """The third epoch and the fourth are worse than the second, and the first after resuming is no new beginning."""
    figures = Gives([0.5, 0.9, 0.6, 0.8])

    def train(model, checkpoint, **epochs):
        model.fit(**of_batches(), **epochs, callbacks=[figures, checkpoint], verbose=0)

    train(new_model(), Checkpoint(tmp_path, "figure", mode="max"), epochs=3)
    best = (tmp_path / "best.keras").read_bytes()
    model, checkpoint = new_model(), Checkpoint(tmp_path, "figure", mode="max")
    train(model, checkpoint, initial_epoch=checkpoint.resume(model), epochs=4)
    assert (checkpoint.best_epoch, checkpoint.best) == (2, 0.9)
    assert (tmp_path / "best.keras").read_bytes() == best


@pytest.mark.parametrize("figures", [[0.1, 0.2, 0.9], [0.1, 0.9, 0.2], [0.9, 0.1, 0.2]])
def test_a_lost_best_model_is_made_again_where_its_weights_are_kept(figures, tmp_path, capsys):
    def new():
        return new_model(), Checkpoint(tmp_path, "figure", mode="max")

    model, checkpoint = new()
    model.fit(**of_batches(), epochs=3, callbacks=[Gives(figures), checkpoint], verbose=0)
    best = keras.saving.load_model(checkpoint.best_path).get_weights()
    checkpoint.best_path.write_bytes(b"no model")
    (tmp_path / "last" / "best-previous.keras").unlink(missing_ok=True)
    again, checkpoint = new()
    if figures[0] != max(figures):
        assert checkpoint.resume(again) == 3
        assert "was lost or damaged: made again from" in capsys.readouterr().err
        again, checkpoint = new()
        assert checkpoint.resume(again) == 3
        assert capsys.readouterr().err == ""
        for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(best, keras.saving.load_model(checkpoint.best_path).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    else:
        with pytest.raises(InputError, match=r"of epoch 1, is lost or damaged, .* the weights of epoch 3 alone"):
            checkpoint.resume(again)


def test_batches_count_by_themselves_when_training_is_over_or_was_interrupted(tmp_path):
    """What an interrupted training told holds for none that is made afterwards."""

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            **of_shuffled_batches(),
            initial_epoch=5,
            epochs=7,
            callbacks=[Checkpoint(tmp_path, "loss"), Interrupt()],
            verbose=0,
        )
    for callbacks in ([], [Checkpoint(tmp_path, "loss")], []):
        given = of_shuffled_batches()
        model.fit(**given, epochs=2, callbacks=callbacks, verbose=0)
        assert given["x"].epoch == 2
    model.fit(**given, epochs=1, verbose=0)
    assert given["x"].epoch == 3


def test_what_cannot_be_resumed_exactly_is_refused(tmp_path):
    model, checkpoint = new_model(), Checkpoint(tmp_path, "loss")
    model.fit(**of_shuffled_batches(), verbose=0, callbacks=[checkpoint])
    assert checkpoint.resume(model) == 1
    with pytest.raises(
        InputError, match=r"resumed behind epoch 1, but fit begins with epoch 1: give it initial_epoch=1"
    ):
        model.fit(**of_shuffled_batches(), epochs=2, callbacks=[checkpoint], verbose=0)
    with pytest.raises(InputError, match=r"steps_per_epoch=2\) of Batches that are 3 an epoch cannot be resumed"):
        model.fit(**of_shuffled_batches(), steps_per_epoch=2, callbacks=[Checkpoint(tmp_path, "loss")], verbose=0)


def test_a_model_without_an_optimizer_is_refused(tmp_path):
    trained, uncompiled = new_model(), keras.Sequential.from_config(new_model().get_config())
    checkpoint = Checkpoint(tmp_path, "loss")
    trained.fit(**of_batches(), epochs=1, callbacks=[checkpoint], verbose=0)
    with pytest.raises(InputError, match=r"'sequential.*' has no optimizer, whose state is kept too: compile it first"):
        Checkpoint(tmp_path, "loss").resume(uncompiled)
    checkpoint.set_model(uncompiled)
    with pytest.raises(InputError, match="compile it first"):
        checkpoint.on_train_begin()


def test_a_model_of_a_class_of_its_own_is_refused_before_training(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(ops.mean(ops.cast(x, "float32"), (1, 2)))

    model = Net()
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    with pytest.raises(InputError, match=r"'net.*' is a Net, neither functional nor sequential"):
        model.fit(Batches(split(), 8), shuffle=False, verbose=0, callbacks=[Checkpoint(tmp_path, "loss")])
    image = keras.Input((32, 32, 3))
    checkpoint = Checkpoint(tmp_path, "loss", saved=keras.Model(image, model(image)))
    model.fit(Batches(split(), 8), shuffle=False, verbose=0, callbacks=[checkpoint])
    assert checkpoint.resume(model) == 1


class TwoOptimizers(keras.Model):
    """Trains its second layer with an optimizer of its own, as adversarial networks do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(6), keras.layers.Dense(4)
        self.second_optimizer = SGD(0.1, momentum=0.9)

    def call(self, x):
        return self.second(self.first(ops.mean(ops.cast(x, "float32"), (1, 2)) / 255))

    def train_step(self, *data):
        raise NotImplementedError("the test takes its steps itself")

    def step(self, optimizer, layer):
        optimizer.apply([ops.ones(v.shape) for v in layer.trainable_variables], layer.trainable_variables)


def test_a_second_optimizer_of_a_model_goes_on_too(tmp_path):
    def made():
        keras.utils.set_random_seed(3)
        model, image = TwoOptimizers(), keras.Input((8, 8, 3))
        saved = keras.Model(image, model(image))
        model.compile(SGD(0.1, momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
        checkpoint = Checkpoint(tmp_path, None, saved=saved)
        checkpoint.set_model(model)
        return model, checkpoint

    def steps(model):
        for _ in range(2):
            model.step(model.second_optimizer, model.second)

    model, checkpoint = made()
    steps(model)
    checkpoint.on_train_begin()
    checkpoint.on_epoch_end(0, {})
    steps(model)
    expected = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]

    model, checkpoint = made()
    with pytest.raises(
        InputError, match=r"trains with 'second_optimizer' too.*model.second_optimizer.build\(variables\)"
    ):
        checkpoint.resume(model)
    model.second_optimizer.build(model.second.trainable_variables)
    assert checkpoint.resume(model) == 1
    steps(model)
    for weight, value in zip(model.weights, expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_a_resumed_early_stopping_counts_anew_in_a_second_fit():
    stopping, model = EarlyStopping(3, "loss"), keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    stopping.restore({"wait": 2, "best": 0.0, "best_epoch": 0})
    x = np.ones((2, 1), "float32")
    fits = [model.fit(x, x, initial_epoch=3, epochs=9, verbose=0, callbacks=[stopping]) for _ in range(2)]
    assert [len(fit.epoch) for fit in fits] == [1, 1 + 3]  # the loss never changes: three are waited for


@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [
        ("val_accuracy", None, 2),
        ("val_auc_1", None, 2),
        ("val_f1_score", None, 2),
        ("val_loss", None, 1),
        ("mse", None, 1),
        ("val_score", "max", 2),
        ("val_score", "min", 1),
    ],
)
def test_which_values_are_better(monitor, mode, best, tmp_path):
    checkpoint = Checkpoint(tmp_path, monitor, mode=mode)
    assert [epoch for epoch in (1, 2) if checkpoint._is_best(epoch, {monitor: epoch / 2})][-1] == best
    assert EarlyStopping(1, monitor, mode).mode == ("max" if best == 2 else "min")


def test_a_figure_that_does_not_say_which_values_are_better_needs_a_mode(tmp_path):
    for make in (lambda mode: Checkpoint(tmp_path, "val_score", mode=mode), lambda m: EarlyStopping(1, "val_score", m)):
        with pytest.raises(InputError, match="expected mode='max' or mode='min' beside it"):
            make(None)
        with pytest.raises(InputError, match="mode is 'best'; expected max, min, or None"):
            make("best")


def test_a_cycle_in_epochs_needs_to_know_their_steps():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((2, 1), "float32")

    def fit(steps):
        cycle, batches = CyclicLR(0.1, 0.2, 2, unit="epoch"), ((x, x) for _ in range(2))
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[cycle])

    fit(2)
    with pytest.raises(InputError, match=r"give fit\(…, steps_per_epoch=…\)"):
        fit(None)
