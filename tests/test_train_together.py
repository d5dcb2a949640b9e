"""`kcifar train` in two processes, as torchrun starts them."""

import csv
import json
import signal

import numpy as np
import pytest

from kcifar.train import main
from tests.data_fixtures import write_drawn
from tests.experiment.test_together import ROOT, free_port, start, together

pytestmark = pytest.mark.once  # for torch alone
COMMAND = ["kcifar.train", ROOT / "recipes" / "mixup.py", "batch_size=20", "validation=0.2", "select_on=validation"]
AVERAGED = ["sharpness_aware=SharpnessAware(rho=0.05,synchronized=True)", "weight_ema=WeightEMA(decay=0.9)"]


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
    command = [*COMMAND, *AVERAGED, "select_from_epoch=1", "model=tutorial_net()", "epochs=2", "--data", images]
    (code, said, errors), other = together([[*command, "--out", run]] * 2)
    assert (code, errors) == (0, "")
    assert other == (0, "", "")
    assert "2 processes, each of which takes 10 images of a batch" in said
    assert json.loads((run / "environment.json").read_text())["processes"] == 2

    assert main([*map(str, command[1:]), "--out", str(alone)]) == 0
    for both, one in zip(rows(run), rows(alone), strict=True):
        for name in one:
            assert float(both[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-4)
    with np.load(run / "last" / "state.npz") as found, np.load(alone / "last" / "state.npz") as expected:
        assert found.files == expected.files
        for name in (name for name in found.files if name.startswith(("variable", "optimizer"))):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)

    capsys.readouterr()
    assert main(["--resume", str(run), "epochs=3"]) == 0
    assert "processes" in capsys.readouterr().err
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]


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


def test_other_recipes_are_refused_before_there_is_a_folder(images, tmp_path):
    command = [*COMMAND, "--data", images, "--out", tmp_path / "run"]
    (code, _, errors), (other_code, _, other_errors) = together([[*command, "epochs=2"], [*command, "epochs=3"]])
    assert (code, other_code) == (2, 2)
    assert errors.startswith("train: process 1 has other epochs than process 0: 3, not 2; start all of them")
    assert other_errors.startswith("train: process 1: process 1 has other epochs")
    assert not (tmp_path / "run").exists()
