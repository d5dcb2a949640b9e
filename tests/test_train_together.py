"""`kcifar train` in two processes, as torchrun starts them."""

import csv
import json
import os
import re
import signal

import numpy as np
import pytest

from kcifar.train import main
from tests.data_fixtures import write_drawn
from tests.experiment.test_together import ROOT, free_port, start, together

pytestmark = pytest.mark.once  # for torch alone
COMMAND = ["kcifar.train", ROOT / "recipes" / "mixup.py", "batch_size=20", "validation=0.2", "select_on=validation"]
AVERAGED = ["sharpness_aware=SharpnessAware(rho=0.05,synchronized=True)", "weight_ema=WeightEMA(decay=0.9)"]
SMALL = ["schedule=none", "select_from_epoch=1", "model=tutorial_net()", "select_by=loss"]
STOPPING = "early_stopping=EarlyStopping(patience=3)"
OF_ONE = """
import os, keras
from keras import ops

class NotANumber(keras.losses.CategoricalCrossentropy):
    "From the fifth step of the second epoch on, in the second process."
    calls = 0

    def call(self, y_true, y_pred):
        found = super().call(y_true, y_pred)
        self.calls += os.environ["RANK"] == "1" and found.requires_grad
        return found * float("nan") if self.calls > 10 else found
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    write_drawn(path, 155, 60)
    return path


def rows(run):
    with open(run / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_they_write_one_run_that_one_process_goes_on_with(images, tmp_path, capsys):
    run, alone = tmp_path / "run", tmp_path / "alone"
    command = [*COMMAND, *AVERAGED, *SMALL, STOPPING, "epochs=2", "--data", images]
    (code, said, errors), other = together([[*command, "--out", run]] * 2)
    assert (code, errors) == (0, "")
    assert other == (0, "", "")
    assert "2 processes, each of which takes 10 images of a batch" in said
    assert json.loads((run / "environment.json").read_text())["processes"] == 2

    for code, _, errors in together([["kcifar.train", "--resume", run, "epochs=3"]] * 2):
        assert (code, errors.count("\n")) == (0, errors.count("is trained for 3 epochs"))
    assert main([*map(str, command[1:]), "epochs=3", "--out", str(alone)]) == 0
    for both, one in zip(rows(run), rows(alone), strict=True):
        for name in one:
            assert float(both[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-4)
    with np.load(run / "last" / "state.npz") as found, np.load(alone / "last" / "state.npz") as expected:
        assert found.files == expected.files
        for name in (name for name in found.files if name.startswith(("variable", "optimizer"))):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)

    capsys.readouterr()
    assert main(["--resume", str(run), "epochs=4"]) == 0
    assert "processes" in capsys.readouterr().err
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3", "4"]


def test_a_loss_that_is_no_number_in_one_process_is_told_by_the_first(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":" if "PYTHONPATH" in os.environ else None)
    (tmp_path / "of_one.py").write_text(OF_ONE)
    run = tmp_path / "run"
    command = [*COMMAND, *SMALL, "loss=of_one:NotANumber()", "epochs=2", "--data", images, "--out", run]
    (code, _, errors), (other_code, _, _) = together([command] * 2)
    assert (code, other_code) == (2, 2)
    (line,) = errors.splitlines()
    # Which step, whoever says it first: its own, or the next, in which the mean gradient has reached the weights.
    found = r"the loss is nan in epoch 2 at step [56] of 6"
    assert re.match(f"train: {found}; the checkpoint of epoch 1 stays; lower the learning rate", line)
    assert line.endswith(f"python -m kcifar.train --resume {run} optimizer.global_clipnorm=1 --out NEW")
    assert re.fullmatch(f"{found}\n", (run / "diverged.txt").read_text())


def test_what_fails_in_one_process_is_told_by_the_first(images, tmp_path):
    """It does not wait for the others, and there is no folder of a run yet."""
    commands = [
        [*COMMAND, "epochs=1", "--data", data, "--out", tmp_path / "run"] for data in (images, tmp_path / "none")
    ]
    (code, _, errors), (other_code, _, _) = together(commands)
    assert (code, other_code) == (2, 2)
    assert re.fullmatch(r"train: process 1: .*none.*\n", errors)
    assert not (tmp_path / "run").exists()


def test_one_that_is_killed_ends_the_run_in_a_line(images, tmp_path):
    run, port = tmp_path / "run", free_port()
    first, other = (start([*COMMAND, "epochs=500", "--data", images, "--out", run], rank, port) for rank in range(2))
    while not first.stdout.readline().startswith("epoch 1/500"):
        assert first.poll() is None
    other.send_signal(signal.SIGKILL)
    said = first.communicate(timeout=60)
    other.communicate()
    assert first.returncode == 2
    (line,) = said[1].splitlines()
    assert line.startswith("train: another of the 2 processes of this training has ended, or does not answer (")
    assert line.endswith(f"go on, with one process or several: python -m kcifar.train --resume {run}")
    assert (run / "last" / "state.npz").exists()
