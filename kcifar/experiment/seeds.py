"""The same recipe from several seeds: members of an ensemble, or a mean with its spread."""

import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from kcifar import recipe
from kcifar.errors import InputError
from kcifar.interrupts import ENDS_WITH_STDIN, interrupts
from kcifar.output import printable, say
from kcifar.runs import folder
from kcifar.runs.report import records

_MOST = 1000
_PATIENCE = 3  # seconds in which a training that is interrupted ends


def seeds_in(text):
    """The seeds that `0..4` names, both ends included.

    Raises:
        InputError: it is no such range, or an empty one.
    """
    found = re.fullmatch(r"(\d{1,20})\.\.(\d{1,20})", text)
    if not found or not 0 <= int(found[2]) - int(found[1]) < _MOST:
        raise InputError(
            f"seed is '{text}'; expected a number, or a range from the smaller to the greater, of at most {_MOST}, "
            "as 0..4"
        )
    return range(int(found[1]), int(found[2]) + 1)


def train_seeds(path, overrides, seeds, out=None, progress_every=None):
    """Trains a recipe once for each seed, one after another, each in a process of its own.

    Runs are `OUT/seed0`, …. Those that are done stay, one that was interrupted goes on: so the same command again does
    what is left.

    Args:
        path: of the recipe.
        overrides: without the seed.
        seeds: a range.
        out: folder of the runs; None for `runs/<recipe>-seeds<first>-<last>`.
        progress_every: see `kcifar.experiment.train`.

    Returns:
        The folder.

    Raises:
        InputError: a run in the folder is of another recipe, or a training ended with an error.
    """
    out = Path(out or Path("runs") / f"{Path(path).stem}-seeds{seeds[0]}-{seeds[-1]}")
    runs = {seed: folder.RunFolder(out / f"seed{seed}") for seed in seeds}
    for seed, run in runs.items():
        resolved = recipe.load(path).override([*overrides, f"seed={seed}"])
        if run.begun:
            run.expect_recipe(resolved)
    for place, (seed, run) in enumerate(runs.items(), start=1):
        say(f"{'' if place == 1 else chr(10)}seed {seed}, {place} of {len(runs)}: {_state(run)}")
        if not _is_done(run):
            _train(run, path, [*overrides, f"seed={seed}"], progress_every)
    say(f"\n{_summary(runs)}\nlet them vote: python -m kcifar.vote {printable(shlex.quote(str(out)))}")
    return out


def _is_done(run):
    return run.ended and run.report.exists()  # earlier versions wrote the report last


def _state(run):
    if _is_done(run):
        return f"{printable(run.path)} is done, {_accuracy(run):.2%} on test"
    return f"{printable(run.path)} goes on" if run.begun else printable(run.path)


def _train(run, path, overrides, progress_every):
    what = ["--resume", str(run.path)] if run.begun else [str(path), *overrides, "--out", str(run.path)]
    progress = [] if progress_every is None else ["--progress", str(progress_every)]
    command = [sys.executable, "-m", "kcifar.train", *what, *progress]
    with (
        interrupts.advising("the same command again goes on with this seed and the others"),
        # Its standard input is ours: it ends with us, however we end.
        subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {ENDS_WITH_STDIN: "1"}) as process,
    ):
        interrupts.seconds = 2 * _PATIENCE
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    if code:
        raise InputError(
            f"the training of '{run.path}' ended with exit code {code}; the seeds behind it were not begun"
        )


def _end(process):
    """Ends a training, which Ctrl-C on a terminal has reached too; waits until it has ended."""
    if interrupts.number != signal.SIGINT:
        process.terminate()
    try:
        process.wait(_PATIENCE / 4)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(_PATIENCE)


def _accuracy(run):
    accuracy = records.metrics(run).get("test_accuracy")
    if accuracy is None:
        raise InputError(f"'{run.metrics}' has no test_accuracy: delete it, and it is made again")
    return accuracy


def _summary(runs):
    accuracies = [_accuracy(run) for run in runs.values()]
    lines = [f"seed {seed:<6}{accuracy:.2%} on test" for seed, accuracy in zip(runs, accuracies, strict=True)]
    if len(accuracies) > 1:
        mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
        lines.append(f"{'mean':<11}{mean:.2%} ± {100 * spread:.2f} (standard deviation of {len(accuracies)} seeds)")
    if next(iter(runs.values())).recipe.select_on == "test":
        lines.append("their epochs were chosen on the test set itself: not an honest estimate")
    return "\n".join(lines)
