"""The command for sweeps: what it prints, its report, and that a kill loses nothing."""

import contextlib
import csv
import html
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from rich.console import Console

from kcifar.experiment.sweeping import folder, runner
from kcifar.experiment.sweeping.begin import prepare
from kcifar.experiment.sweeping.results import results_of
from kcifar.experiment.sweeping.shown import Table
from kcifar.experiment.sweeping.storage import JOURNAL, journal
from kcifar.report import main as report
from kcifar.sweep import main as sweep
from tests.fake_trainings import Faked, Here, begin_run, trainings, write_end, write_epochs

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

RECIPE = str(Path(__file__).parents[1] / "recipes" / "demo.py")
GRID = ["epochs=3", "optimizer.learning_rate=0.1,0.01,0.001", "model.dropout=0.1,0.2", "seed=0..1"]
STALL = """
import keras, pathlib, time

class Stall(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        while epoch == 1 and pathlib.Path("stall").exists():
            time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_TURNS", 0.0)


class Drawn(Faked):
    """Best at 0.01, and from a higher seed; one diverges."""

    @staticmethod
    def accuracy(recipe, epoch):
        rate = recipe.optimizer.arguments["learning_rate"]
        return 0.6 - 0.1 * abs(math.log10(rate) + 2) + 0.02 * recipe.seed + 0.1 * recipe.model.arguments["dropout"]

    def end(self):
        super().end()
        if self.run.recipe.optimizer.arguments["learning_rate"] == 0.1:
            self.run.metrics.unlink()
            self.run.divergence.write_text("the loss is nan in epoch 1 at step 3 of 9\n")
            self.code = 2


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a grid, two of whose six configurations diverged, and what the command printed."""
    out, said = tmp_path_factory.mktemp("swept") / "sweep", tmp_path_factory.mktemp("said") / "stdout"
    with open(said, "w") as file, contextlib.redirect_stdout(file), trainings(Drawn):
        assert sweep([RECIPE, *GRID, "--out", str(out)]) == 0
    return out, said.read_text()


def text_of(page):
    return " ".join(
        html.unescape(
            re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", page.read_text(), flags=re.S)
        ).split()
    )


def test_what_is_printed(swept):
    out, said = swept
    lines = said.splitlines()
    assert lines[:2] == [f"recipe         {RECIPE}", "varied         optimizer.learning_rate=0.1,0.01,0.001"]
    assert "configurations 6 × 2 seeds, a grid" in lines
    assert f"run 5 of 12: {out / 'learning_rate=0.01,dropout=0.1,seed=0'}" in lines
    assert lines[-7:] == [
        "mean validation accuracy, the best 4 of 6 configurations",
        "63.00%  learning_rate 0.01, dropout 0.2",
        "62.00%  learning_rate 0.01, dropout 0.1",
        "53.00%  learning_rate 0.001, dropout 0.2",
        "52.00%  learning_rate 0.001, dropout 0.1",
        "2 did not complete: diverged: the loss is nan in epoch 1 at step 3 of 9 (learning_rate 0.1, dropout 0.1)",
        str(out / "report.html"),
    ]


def test_the_report(swept, tmp_path, capsys):
    out, _ = swept
    text = text_of(out / "report.html")
    assert "Sweep of demo 6 configurations of a grid with 2 seeds each; 8 of 12 runs have ended." in text
    # Mean of 0.62 and 0.64, standard deviation 0.02/√2; Student's t of one degree of freedom is 12.706.
    spread = 12.706 * 0.02 / 2**0.5 / 2**0.5
    row = f"1 0.01 0.2 2 63.00 % ± 1.41 {100 * (0.63 - spread):.1f}–{100 * (0.63 + spread):.1f} % 62.00 % ± 1.41"
    assert row in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "0 of 2 – – – diverged: the loss is nan in epoch 1 at step 3 of 9" in text
    assert "was not used to choose" in text
    assert report([str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (out / "report.html").read_bytes()
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"


def test_a_configuration_of_which_a_seed_diverged_is_not_the_best(tmp_path, capsys):
    class Lucky(Drawn):
        @staticmethod
        def accuracy(recipe, epoch):
            return 0.9 if recipe.optimizer.arguments["learning_rate"] == 0.1 else 0.5

        def end(self):
            Faked.end(self)
            if self.run.path.name == "learning_rate=0.1,seed=1":
                self.run.metrics.unlink()
                self.run.divergence.write_text("the loss is nan\n")
                self.code = 2

    with trainings(Lucky):
        assert sweep([RECIPE, "epochs=1", "optimizer.learning_rate=0.1,0.01", "seed=0..1", "--out", str(tmp_path)]) == 0
    best, rest = capsys.readouterr().out.splitlines()[-3:-1]
    assert best == "50.00%  learning_rate 0.01"
    assert rest.startswith("1 did not complete: diverged: the loss is nan")
    assert results_of(folder.find(tmp_path)).ranked()[0].values == {"optimizer.learning_rate": 0.01}


def test_what_failed_is_told_at_the_end(tmp_path, capsys):
    class Once(Faked):
        started = ()

        def end(self):
            self.code = 0 if len(self.started) == 1 else 3
            if not self.code:
                super().end()

    command = [RECIPE, "epochs=1", "optimizer.learning_rate=0.1,0.01", "--out", str(tmp_path)]
    with trainings(Once):
        assert sweep(command) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(tmp_path / "report.html")
    last = said.err.splitlines()[-1]
    assert "learning_rate=0.01' ended with exit code 3; the same command again tries what failed again" in last
    (tmp_path / "learning_rate=0.1" / "metrics.json").write_text('{"best_epoch": 1}')
    assert report([str(tmp_path)]) == 2
    assert "has no test_accuracy: delete it, and it is made again" in capsys.readouterr().err


def test_importances(swept, tmp_path):
    """The rate decides, not the dropout; of fewer than five configurations none are told."""
    results = results_of(folder.find(swept[0]))
    assert results.importances == {}
    assert results.no_importances == "They are told once 5 configurations have ended; 4 have."
    with trainings(Drawn):
        given = ["epochs=1", "optimizer.learning_rate=log:1e-4..1e-1", "model.dropout=0.0..0.9", "--trials", "14"]
        assert sweep([RECIPE, *given, "--out", str(tmp_path / "sweep")]) == 0
    results = results_of(folder.find(tmp_path / "sweep"))
    assert results.importances["optimizer.learning_rate"] > 0.6
    assert sum(results.importances.values()) == pytest.approx(1)
    assert "%" in text_of(tmp_path / "sweep" / "report.html").partition("Importance")[2]


def test_a_report_while_it_runs(swept, tmp_path):
    out = Path(shutil.copytree(swept[0], tmp_path / "sweep"))
    run = out / "learning_rate=0.01,dropout=0.2,seed=0"
    (run / "metrics.json").unlink()
    assert report([str(out)]) == 0
    assert "1 of 2" in text_of(out / "report.html")
    assert "has not ended (3 of 3 epochs)" in text_of(out / "report.html")


def test_the_table_on_a_terminal(tmp_path):
    begun = prepare(RECIPE, GRID, tmp_path / "sweep")
    folder.make(begun.out)
    found = folder.take(begun.out, begun.sweep)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    table = Table(found, begun.selection, console)
    configurations = list(begun.sweep.space.configurations())
    runs = [found.run(configuration, 0) for configuration in configurations[:2]]
    begin_run(runs[0].path, begun.sweep.recipe_of(configurations[0], 0))
    write_epochs(runs[0], [0.25, 0.5])
    now = time.monotonic()
    table.update({place: SimpleNamespace(run=run, began=now) for place, run in enumerate(runs)})
    said = console.file.getvalue()
    assert re.search(r"1 +learning_rate=0\.1,dropout=0\.1,seed=0 +2 of 3 +50\.00\W%", said)
    assert re.search(r"2 +learning_rate=0\.1,dropout=0\.2,seed=0 +begins", said)
    write_epochs(runs[0], [0.25, 0.5, 0.5])
    write_end(runs[0])
    table.ended(runs[0])
    assert "seed=0: validation accuracy 50.00" in console.file.getvalue()
    table.close()


@pytest.fixture
def stalling(tmp_path, monkeypatch):
    """A recipe that waits behind its first epoch as long as there is a file `stall`, and its arguments."""
    monkeypatch.chdir(tmp_path)
    rng, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 40), ("test", 20)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"y_{name}"] = rng.integers(0, 10, count)
    np.savez("images.npz", **arrays)
    Path("stalling.py").write_text(STALL)
    shutil.copy(RECIPE, "own.py")
    Path("stall").touch()
    small = ["model=tutorial_net()", "schedule=none", "validation=0.25", "batch_size=10", "epochs=2"]
    return ["own.py", *small, "callbacks=[stalling:Stall()]", "optimizer.learning_rate=0.01,0.001", "data=images.npz"]


def test_a_command_that_is_killed_leaves_its_run_to_the_next(stalling, capsys):
    """Its training ends with it, and is taken up behind the epoch that it had ended; none is done twice."""
    command = [sys.executable, "-m", "kcifar.sweep", *stalling, "--out", "sweep"]
    with open("said", "w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        state = Path("sweep/learning_rate=0.01/last/state.npz")
        _until(state.exists, process)
        (training,) = [int(line) for line in _children(process.pid)]
        os.kill(process.pid, signal.SIGKILL)
    _until(lambda: not Path(f"/proc/{training}").exists() or "Z" in _status(training))
    Path("stall").unlink()
    with trainings(Here):
        assert sweep([*stalling, "--out", "sweep"]) == 0
    runs = [Path("sweep") / f"learning_rate={rate}" for rate in (0.01, 0.001)]
    assert sorted(path.name for path in Path("sweep").glob("learning*")) == sorted(run.name for run in runs)
    for run in runs:
        with open(run / "log.csv") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert '"resumed"' in (runs[0] / "environment.json").read_text()
    assert '"resumed"' not in (runs[1] / "environment.json").read_text()
    study = optuna.load_study(study_name="sweep", storage=journal(Path("sweep") / JOURNAL))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    _expect_tables_and_figures(runs, capsys)


def _expect_tables_and_figures(runs, capsys):
    """Tables have the sweep's runs, figures are those of its page, which is not written anew."""
    page = Path("sweep/report.html")
    page.unlink()
    capsys.readouterr()
    assert report(["sweep", "--csv", "t.csv", "--figures", "svg"]) == 0
    assert capsys.readouterr().out.split() == ["sweep/by-learning_rate.svg", "sweep/losses.svg", "t.csv"]
    assert not page.exists()
    with open("t.csv", encoding="utf-8", newline="") as file:
        rows = {row["run"]: row["differences"] for row in csv.DictReader(file)}
    assert rows == {run.name: f"optimizer.{run.name}" for run in runs}


def _until(holds, process=None):
    """Waits until something holds: minutes at most, against hanging."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, Path("said").read_text()
        time.sleep(0.02)


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _status(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"
