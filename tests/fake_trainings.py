"""Trainings in the place of processes: in this process, or none at all but their folders."""

import contextlib
import json
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

from kcifar import recipe
from kcifar.experiment.sweeping import check, workers
from kcifar.runs.folder import RunFolder
from kcifar.train import main as train


class Process:
    """What is asked of a process, which has ended with `code`."""

    stdin = SimpleNamespace(close=lambda: None)
    code = 0

    def __init__(self, command, **options):
        assert command[:3] == [sys.executable, "-m", "kcifar.train"]
        self.arguments, self.options = command[3:], options
        self.begin()

    def begin(self):
        """What it does at once."""

    def wait(self, timeout=None):
        """Its exit code; `subprocess.TimeoutExpired` while that is None."""
        if self.code is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self.code

    def terminate(self):
        self.code = 130

    kill = terminate


class Here(Process):
    """A training in this process, which has imported Keras already."""

    def begin(self):
        self.code = train(self.arguments)


class Faked(Process):
    """The folder of a run without a training.

    Attributes:
        accuracy: function of the resolved recipe and the epoch, that on the validation images.
        started: the names of the folders, in the order in which they were begun.
    """

    started = ()

    @staticmethod
    def accuracy(recipe, epoch):
        return 0.5

    def begin(self):
        self.run = run_of(self.arguments)
        type(self).started = (*self.started, self.run.path.name)
        self.end()

    def end(self):
        """Its epochs and its end."""
        write_epochs(self.run, [self.accuracy(self.run.recipe, e + 1) for e in range(self.run.recipe.epochs)])
        write_end(self.run)


def run_of(arguments):
    """The run that the arguments of kcifar.train name, begun."""
    if arguments[0] == "--resume":
        return RunFolder(arguments[1])
    *arguments, out, path = arguments
    assert out == "--out"
    return begin_run(path, recipe.load(arguments[0]).override(arguments[1:]))


def begin_run(path, resolved):
    """The run of a recipe, begun."""
    run = RunFolder(path)
    run.path.mkdir(parents=True)
    run.recipe_source.write_text("")
    run.recipe_json.write_text(resolved.to_json())
    run.environment.write_text(json.dumps({"data": "images.npz", "class_names": ["a", "b"], "command": []}))
    return run


def write_epochs(run, accuracies):
    """The log of a run with these accuracies on its validation images."""
    rows = [f"{epoch},0.1,{2 / epoch},{value!r},{1 - value!r}" for epoch, value in enumerate(accuracies, start=1)]
    run.log.write_text("\n".join(["epoch,learning_rate,loss,validation_accuracy,validation_loss", *rows]) + "\n")


def write_end(run):
    """The end of a run, whose best epoch is the last."""
    epochs, last = run.recipe.epochs, run.log.read_text().splitlines()[-1].split(",")
    run.report.write_text("")
    metrics = {"test_accuracy": float(last[3]) - 0.01, "test_loss": 1.0, "best_epoch": epochs, "epochs": epochs}
    run.metrics.write_text(json.dumps(metrics | {"selected_on": run.recipe.select_on}))


@contextlib.contextmanager
def trainings(kind):
    """Within it the trainings of sweeps are of this kind, not processes; that they can be planned is not looked at."""
    popen = SimpleNamespace(**vars(subprocess) | {"Popen": kind})
    with (
        mock.patch.object(workers, "subprocess", popen),
        mock.patch.object(check, "_told_by_a_process", return_value=None),
    ):
        yield kind
