"""The files for TensorBoard, read back byte by byte."""

import csv
import struct
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from kcifar import InputError, callbacks
from kcifar.train import main as train

pytestmark = pytest.mark.usefixtures("quick_compilation", "blank_pictures")

RECIPE = Path(__file__).parents[2] / "recipes" / "mixup.py"


def events(path):
    """The events of a file of records: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        header, body = data[:8], data[12 : 12 + length]
        assert struct.unpack("<II", data[8:12] + data[12 + length : 16 + length]) == (
            masked_crc32c(header),
            masked_crc32c(body),
        )
        found.append(event_pb2.Event.FromString(body))
        data = data[16 + length :]
    return found


def shown(folder):
    """What TensorBoard shows, {name: {step: value}}: a START makes it forget its step and later ones."""
    scalars = {}
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        first, *others = events(path)
        assert first.file_version == "brain.Event:2"
        for event in others:
            if event.session_log.status == event_pb2.SessionLog.START:
                for values in scalars.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                of_name = scalars.setdefault(value.tag, {})
                assert event.step not in of_name, "a step is there twice"
                of_name[event.step] = value.simple_value
    return scalars


def fit(*more, epochs=2, first=0, x=1.0):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mean_squared_error", metrics=["accuracy"])
    data = np.full((4, 3), x), np.eye(2)[[0, 1, 0, 1]]
    options = {"epochs": epochs, "initial_epoch": first, "verbose": 0}
    return model.fit(*data, 2, validation_data=data, callbacks=list(more), **options)


def test_each_figure_of_an_epoch_is_a_scalar_at_its_number(tmp_path):
    history = fit(callbacks.TensorBoard(tmp_path / "new" / "board")).history
    found = shown(tmp_path / "new" / "board")
    names = {
        "loss": "loss/batches",
        "accuracy": "accuracy/batches",
        "val_loss": "loss/validation",
        "val_accuracy": "accuracy/validation",
    }
    assert found == {
        tag: {step: np.float32(value) for step, value in enumerate(history[name], start=1)}
        for name, tag in names.items()
    }


def test_names_are_grouped_by_figure(tmp_path):
    callback = callbacks.TensorBoard(tmp_path)
    callback.on_epoch_begin(0)
    logs = ["train_loss", "train_accuracy", "validation_accuracy", "test_accuracy", "learning_rate", "top_5", "train"]
    callback.on_epoch_end(0, dict.fromkeys(logs, 0.5))
    callback.close()
    assert list(shown(tmp_path)) == [
        "loss/train",
        "accuracy/train",
        "accuracy/validation",
        "accuracy/test",
        "learning_rate",
        "top_5/batches",
        "train/batches",
    ]


def test_an_epoch_is_on_the_disk_when_it_ends(tmp_path):
    steps = []

    def look(epoch, logs):
        steps.append(list(shown(tmp_path)["loss/batches"]))

    fit(callbacks.TensorBoard(tmp_path), keras.callbacks.LambdaCallback(on_epoch_end=look), epochs=3)
    assert steps == [[1], [1, 2], [1, 2, 3]]


@pytest.mark.parametrize("again", [1, 2, 4], ids=["from the start", "behind the first", "behind the last"])
def test_epochs_that_are_done_again_are_there_once(again, tmp_path):
    """Three epochs, then those from `again` on, of other values."""
    before = fit(callbacks.TensorBoard(tmp_path), epochs=3).history["loss"]
    after = fit(callbacks.TensorBoard(tmp_path), epochs=5, first=again - 1, x=2.0).history["loss"]
    losses = shown(tmp_path)["loss/batches"]
    assert [losses[step] for step in sorted(losses)] == [np.float32(x) for x in [*before[: again - 1], *after]]


def test_a_second_training_by_the_same_callback_is_a_file_of_its_own(tmp_path):
    callback = callbacks.TensorBoard(tmp_path)
    fit(callback, epochs=2)
    fit(callback, epochs=3, first=2)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(shown(tmp_path)["loss/batches"]) == [1, 2, 3]


def test_nan_and_infinity_are_written_as_such(tmp_path, caplog):
    callback = callbacks.TensorBoard(tmp_path)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": np.nan, "val_loss": np.inf, "accuracy": np.float32(0.5)})
    callback.close()
    found = shown(tmp_path)
    assert np.isnan(found["loss/batches"][1])
    assert found["loss/validation"] == {1: np.inf}
    assert found["accuracy/batches"] == {1: 0.5}
    assert not caplog.records


def test_without_tensorboardx_it_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install 'kcifar\[tensorboard\]', or leave tensorboard=false") as caught:
        callbacks.TensorBoard(tmp_path / "board")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz with 100 + 20 images of noise."""
    path, rng = tmp_path_factory.mktemp("images") / "images.npz", np.random.default_rng(0)
    arrays = {f"x_{name}": rng.integers(0, 256, (n, 32, 32, 3), "uint8") for name, n in (("train", 100), ("test", 20))}
    np.savez(path, **arrays, y_train=np.arange(100) % 10, y_test=np.arange(20) % 10)
    return path


def trained(images, run, *overrides):
    arguments = [str(RECIPE), "model=tutorial_net()", "validation=0.2", "select_on=validation", "epochs=3", *overrides]
    return train([*arguments, "--data", str(images), "--out", str(run)])


def rows(run):
    with open(run / "log.csv", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_shows_the_log(run):
    names = {
        "learning_rate": "learning_rate",
        "loss": "loss/batches",
        "accuracy": "accuracy/batches",
        "train_loss": "loss/train",
        "train_accuracy": "accuracy/train",
        "validation_loss": "loss/validation",
        "validation_accuracy": "accuracy/validation",
    }
    expected = {tag: {row["epoch"]: np.float32(row[name]) for row in rows(run)} for name, tag in names.items()}
    assert shown(run / "tensorboard") == expected


@pytest.mark.once
def test_a_killed_run_goes_on_where_it_was(images, tmp_path, monkeypatch):
    """The second epoch is in both files: it was over, but not saved."""
    real = callbacks.Checkpoint.on_epoch_end

    def killed_in_the_second(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        real(self, epoch, logs)

    run = tmp_path / "run"
    with monkeypatch.context() as context:
        context.setattr(callbacks.Checkpoint, "on_epoch_end", killed_in_the_second)
        assert trained(images, run, "tensorboard=true") == 130
    assert_shows_the_log(run)
    assert len(rows(run)) == 2
    assert train(["--resume", str(run)]) == 0
    assert_shows_the_log(run)
    assert len(rows(run)) == 3
    files = sorted((run / "tensorboard").iterdir())
    assert [[event.step for event in events(path)[1:]] for path in files] == [[1, 1, 2], [2, 2, 3]]

    before = [path.read_bytes() for path in files]
    assert train(["--resume", str(run)]) == 0  # it was complete
    assert [path.read_bytes() for path in sorted((run / "tensorboard").iterdir())] == before


@pytest.mark.once
def test_without_the_switch_nothing_is_written(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run = tmp_path / "run"
    assert trained(images, run, "tensorboard=false", "epochs=1") == 0
    assert not (run / "tensorboard").exists()


@pytest.mark.once
def test_a_run_that_wants_it_without_tensorboardx_is_refused_before_its_first_epoch(
    images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run = tmp_path / "run"
    assert trained(images, run, "tensorboard=true") == 2
    assert capsys.readouterr().err.startswith("train: TensorBoard's files are written by tensorboardX")
    assert not (run / "log.csv").exists()
