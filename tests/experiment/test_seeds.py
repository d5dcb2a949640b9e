"""One command for several seeds: the runs are those of single commands, and what is done is not done again."""

import contextlib
import csv
import io
import json
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

from kcifar.train import main as train
from tests.fake_trainings import Faked, Here, Process, run_of, trainings

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.py"
OVERRIDES = ["epochs=2", "batch_size=20", "model=tutorial_net()", "schedule=none", "validation=0.25"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz with 80 + 60 images of noise."""
    rng, path, arrays = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "images.npz", {}
    for name, count in (("train", 80), ("test", 60)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"y_{name}"] = rng.integers(0, 10, count)
    np.savez(path, **arrays)
    return path


def arguments(images, *others, recipe=RECIPE):
    return [str(recipe), *OVERRIDES, "--data", str(images), *map(str, others)]


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """(folder of the runs of seeds 0 and 1, not to be changed, what the command printed)."""
    out, printed = tmp_path_factory.mktemp("finished") / "runs", io.StringIO()
    with trainings(Here), contextlib.redirect_stdout(printed):
        assert train(arguments(images, "seed=0..1", "--out", out)) == 0
    return out, printed.getvalue()


@pytest.fixture
def runs(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "runs"))


@pytest.fixture
def no_training():
    """Nothing may be trained."""

    def started(*_, **__):
        raise AssertionError("a training was started")

    with trainings(started):
        yield


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaint(capsys, *command):
    capsys.readouterr()
    assert train([str(argument) for argument in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: ")
    return line


@pytest.fixture(scope="module")
def single(images, tmp_path_factory):
    """The run of seed 1 on its own."""
    out = tmp_path_factory.mktemp("single") / "run"
    assert train(arguments(images, "seed=1", "--out", out)) == 0
    return out


def test_each_is_the_run_of_its_seed(finished, single):
    out, _ = finished
    assert sorted(path.name for path in out.iterdir()) == ["seed0", "seed1"]
    assert (out / "seed1" / "log.csv").read_bytes() == (single / "log.csv").read_bytes()
    assert (out / "seed0" / "log.csv").read_bytes() != (single / "log.csv").read_bytes()
    for name in ("test_accuracy", "test_loss", "best_epoch"):
        assert metrics(out / "seed1")[name] == metrics(single)[name]
    assert (out / "seed1" / "recipe.json").read_text() == (single / "recipe.json").read_text()
    assert json.loads((out / "seed0" / "recipe.json").read_text())["seed"] == 0


def test_what_is_printed(finished):
    out, printed = finished
    lines = printed.splitlines()
    assert f"seed 0, 1 of 2: {out / 'seed0'}" in lines
    assert f"seed 1, 2 of 2: {out / 'seed1'}" in lines
    accuracies = [metrics(out / f"seed{seed}")["test_accuracy"] for seed in (0, 1)]
    mean, spread = statistics.mean(accuracies), abs(accuracies[0] - accuracies[1]) / 2**0.5
    half = 12.706 * spread / 2**0.5  # Student's t of one degree of freedom
    interval = f"{100 * (mean - half):.2f} to {100 * (mean + half):.2f}"
    assert [" ".join(line.split()) for line in lines[-4:-1]] == [
        *(f"seed {seed} {accuracy:.2%} on test" for seed, accuracy in enumerate(accuracies)),
        f"mean {mean:.2%} ± {100 * spread:.2f} (standard deviation of 2 seeds; 95 % interval of the mean {interval})",
    ]
    assert lines[-1] == f"let them vote: python -m kcifar.vote {out}"


def test_what_is_done_is_not_done_again(runs, images, no_training, capsys):
    before = contents(runs)
    assert train(arguments(images, "seed=0..1", "--out", runs)) == 0
    assert contents(runs) == before
    said = capsys.readouterr().out
    for seed in (0, 1):
        accuracy = metrics(runs / f"seed{seed}")["test_accuracy"]
        assert f"{runs / f'seed{seed}'} is done, {accuracy:.2%} on test" in said
    assert train(arguments(images, "--seed", "0..1", "--out", runs)) == 0
    assert contents(runs) == before


def test_one_that_was_interrupted_goes_on(runs, single, images, capsys, monkeypatch):
    """Ended in its second epoch. It goes on in a process, to the same as never interrupted; the other is untouched."""
    shutil.rmtree(runs / "seed1")
    save, saved = np.savez, []

    def full(*given, **arrays):
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(save(*given, **arrays))

    monkeypatch.setattr(np, "savez", full)
    assert train(arguments(images, "seed=1", "--out", runs / "seed1")) == 2
    monkeypatch.undo()
    assert not (runs / "seed1" / "metrics.json").exists()
    with open(single / "log.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2
    before = contents(runs / "seed0")
    capsys.readouterr()
    assert train(arguments(images, "seed=0..1", "--out", runs)) == 0
    assert f"seed 1, 2 of 2: {runs / 'seed1'} goes on" in capsys.readouterr().out
    assert contents(runs / "seed0") == before
    assert (runs / "seed1" / "log.csv").read_bytes() == (single / "log.csv").read_bytes()
    assert metrics(runs / "seed1")["test_accuracy"] == metrics(single)["test_accuracy"]


def test_only_what_is_left_is_trained(runs, images):
    started = []

    class Trained(Process):
        def begin(self):
            started.append(self.arguments)
            shutil.copytree(runs / "seed0", runs / "seed2")

    with trainings(Trained):
        assert train(arguments(images, "seed=0..2", "--out", runs)) == 0
    assert started == [[str(RECIPE), *OVERRIDES, f"data={images}", "seed=2", "--out", str(runs / "seed2")]]


def test_several_at_a_time(images, tmp_path, capsys, monkeypatch):
    """The second begins before the first ends, each with half the cores; what they say is in files."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    begun = []

    class Together(Faked):
        code = None

        def begin(self):
            self.run = run_of(self.arguments)
            begun.append(self)

        def wait(self, timeout=None):
            if self.code is None and len(begun) > 1:
                self.end()
                self.code = 0
            return super().wait(timeout)

    out = tmp_path / "runs"
    with trainings(Together):
        assert train(arguments(images, "seed=0..1", "--workers", 2, "--out", out)) == 0
    assert [process.options["env"]["OMP_NUM_THREADS"] for process in begun] == ["4", "4"]
    assert sorted(path.name for path in out.iterdir()) == ["output", "seed0", "seed1"]
    assert "mean       49.00% ± 0.00" in capsys.readouterr().out
    assert "--workers is for several seeds" in complaint(capsys, *arguments(images, "--workers", 2))


def test_a_run_of_another_recipe_in_the_folder(runs, images, no_training, capsys):
    """It is said before anything is trained, also where what is left comes first."""
    shutil.rmtree(runs / "seed0")
    line = complaint(capsys, *arguments(images, "epochs=3", "seed=0..1", "--out", runs))
    assert f"'{runs / 'seed1'}' is a run of another recipe (epochs is 2 there)" in line
    assert not (runs / "seed0").exists()


def test_a_training_that_fails_ends_all(images, tmp_path, capsys):
    class Failed(Process):
        code = 3

        def begin(self):
            (tmp_path / "started").touch(exist_ok=False)  # once

    with trainings(Failed):
        line = complaint(capsys, *arguments(images, "seed=0..1", "--out", tmp_path / "runs"))
    assert f"the training of '{tmp_path / 'runs' / 'seed0'}' ended with exit code 3" in line


def test_one_that_diverges_ends_all(images, tmp_path, capsys):
    class Diverging(Faked):
        code = 2

        def end(self):
            self.run.divergence.write_text("the loss is nan\n")

    with trainings(Diverging):
        line = complaint(capsys, *arguments(images, "seed=0..1", "--out", tmp_path / "runs"))
    assert "seed0' ended with exit code 2; the seeds behind it were not begun" in line


def test_damaged_metrics(runs, images, no_training, capsys):
    (runs / "seed1" / "metrics.json").write_text("{")
    assert "metrics.json' is damaged" in complaint(capsys, *arguments(images, "seed=0..1", "--out", runs))


@pytest.mark.parametrize("range_", ["3..1", "0..", "..2", "a..b", "0..1..2", "-1..2", "0...2", "0.5..2"])
def test_what_is_no_range(range_, images, tmp_path, no_training, capsys):
    for given in ([f"seed={range_}"], [f"--seed={range_}"]):
        line = complaint(capsys, *arguments(images, *given, "--out", tmp_path / "runs"))
        assert f"seed is '{range_}'; expected a number, or a range" in line
    assert not (tmp_path / "runs").exists()


def test_what_is_wrong_with_the_recipe_is_said_once(images, tmp_path, no_training, capsys):
    assert "no recipe at" in complaint(capsys, *arguments(images, "seed=0..1", recipe="nowhere.py"))
    line = complaint(capsys, *arguments(images, "epochs=many", "seed=0..1", "--out", tmp_path / "runs"))
    assert "epochs" in line


def test_a_dry_run_shows_the_seeds_and_writes_nothing(images, tmp_path, monkeypatch, no_training, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(arguments(images, "seed=3..5", "--dry-run")) == 0
    assert "3 to 5, one after another" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
