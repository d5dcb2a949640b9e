"""A run that goes on with more epochs, from data that moved, in other circumstances."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kcifar.train import main as train
from tests.data_fixtures import write_drawn

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

RECIPE = str(Path(__file__).parents[2] / "recipes" / "mixup.py")
TINY = ["model=tutorial_net()", "batch_size=20", "epochs=2", "select_from_epoch=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With images, and a run of two epochs."""
    folder = tmp_path_factory.mktemp("resuming")
    write_drawn(folder / "images.npz", 60, 40)
    assert train([RECIPE, *TINY, "--data", str(folder / "images.npz"), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(folder, tmp_path):
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def begin(folder, out, *overrides):
    assert train([RECIPE, *TINY, *overrides, "--data", str(folder / "images.npz"), "--out", str(out)]) == 0
    return out


def complaint(capsys, *arguments):
    capsys.readouterr()
    assert train([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def state(run):
    with np.load(run / "last" / "state.npz") as arrays:
        return {name: arrays[name].tobytes() for name in arrays.files if name != "record"}


def test_more_epochs_are_a_run_of_that_length(folder, run, tmp_path, capsys):
    """Also what is the best epoch: of the first two none was late enough."""
    capsys.readouterr()
    assert train(["--resume", str(run), "epochs=4"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"is trained for 4 epochs, not 2: CyclicLR\(.*\) goes on as in a run of that length", line)
    whole = begin(folder, tmp_path / "whole", "epochs=4")
    assert (run / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    assert state(run) == state(whole)
    best = [json.loads((path / "metrics.json").read_text())["best_epoch"] for path in (run, whole)]
    assert best[0] == best[1] >= 3
    assert json.loads((run / "recipe.json").read_text())["epochs"] == 4


def test_a_length_that_the_schedule_or_the_run_does_not_allow(folder, run, tmp_path, capsys):
    line = complaint(capsys, "--resume", run, "epochs=1")
    assert "is a run of another recipe (epochs is 2 there)" in line
    cosine = begin(folder, tmp_path / "cosine", "schedule=WarmupCosine(warmup_epochs=1)")
    before = (cosine / "metrics.json").read_bytes()
    line = complaint(capsys, "--resume", cosine, "epochs=4")
    assert "by which epoch 2 of 4 has another learning rate than it had of 2" in line
    assert (cosine / "metrics.json").read_bytes() == before
    never = ["early_stopping=EarlyStopping(patience=1)", "optimizer.learning_rate=0", "schedule=none", "epochs=5"]
    stopped = begin(folder, tmp_path / "stopped", *never, "select_from_epoch=1")
    line = complaint(capsys, "--resume", stopped, "epochs=9")
    assert "was ended by early stopping behind epoch 2 of 5" in line


def test_data_that_moved(folder, run, tmp_path, capsys):
    moved = str(shutil.copy(folder / "images.npz", tmp_path / "moved.npz"))
    (run / "metrics.json").unlink()
    recipe = (run / "recipe.json").read_text()
    (run / "recipe.json").write_text(recipe.replace("images.npz", "gone.npz"))
    assert complaint(capsys, "--resume", run).endswith("have moved, give them by --data")
    (run / "recipe.json").write_text(recipe)
    assert train(["--resume", str(run), "--data", moved]) == 0
    assert json.loads((run / "environment.json").read_text())["resumed"][0]["data"] == moved
    with np.load(moved) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(moved, **(arrays | {"x_train": arrays["x_train"][::-1]}))
    assert "was trained on other images" in complaint(capsys, "--resume", run, "--data", moved)


def test_other_circumstances_are_said_and_kept(run, capsys):
    path = run / "environment.json"
    began = json.loads(path.read_text())
    now = {name: began[name] for name in ("backend", "threads", "keras")}
    path.write_text(json.dumps(began | {"backend": "jx", "threads": 77, "keras": "3.0"}))
    capsys.readouterr()
    assert train(["--resume", str(run)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    changes = f"backend {now['backend']}, not jx, threads {now['threads']}, not 77, keras {now['keras']}, not 3.0"
    assert line == f"warning: '{run}' goes on with {changes}: its end may be another than it would have been"
    (resumed,) = json.loads(path.read_text())["resumed"]
    assert {name: resumed[name] for name in now} == now
    assert train(["--resume", str(run)]) == 0
    assert capsys.readouterr().err == ""
