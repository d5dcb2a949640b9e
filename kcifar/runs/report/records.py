"""What a run wrote about itself, read again: metrics.json, log.csv."""

import csv
import io
from pathlib import Path

from kcifar import reading
from kcifar.errors import InputError

_COMMANDS = ("kcifar", "kcifar.exe", "__main__.py")  # `kcifar train`, `python -m kcifar train`
_MOST = 2**63  # of a number that a run wrote: time, counts, bytes
_NUMBERS = ("test_accuracy", "test_accuracy_with_views", "best_epoch", "selected_accuracy",
            "epochs", "parameters", "trained_parameters", "feature_seconds", "training_flops", "evaluation_flops",
            "train_seconds", "images_per_second", "peak_memory_bytes", "peak_device_bytes")  # fmt: skip


def metrics(run):
    """What `metrics.json` holds; {} where there is none yet. Raises InputError where it is damaged."""
    if not (run.metrics and run.metrics.exists()):
        return {}
    found = _json(run.metrics)
    for name in _NUMBERS:
        if found.get(name) is not None and not _is_number(found[name]):
            raise _damaged(run.metrics, f"{name} is {found[name]!r:.40}, no number")
    epochs = found.get("seconds_per_epoch", [])
    if not isinstance(epochs, list) or not all(map(_is_number, epochs)):
        raise _damaged(run.metrics, f"seconds_per_epoch is {epochs!r:.40}, no list of numbers")
    loss = found.get("test_loss")  # which may be infinite
    if loss is not None and (isinstance(loss, bool) or not isinstance(loss, (int, float))):
        raise _damaged(run.metrics, f"test_loss is {loss!r:.40}, no number")
    if found.get("selected_on") not in (None, "validation", "test", "last"):
        raise _damaged(run.metrics, f"selected_on is {found['selected_on']!r:.40}")
    return found


def test_accuracy(run):
    """That of a run which has ended. Raises InputError where it is not there."""
    found = metrics(run).get("test_accuracy")
    if found is None:
        raise InputError(f"'{run.metrics}' has no test_accuracy: delete it, and it is made again")
    return found


def log(run):
    """The rows of `log.csv`, dicts of floats; [] where there is none. Raises InputError where it is damaged.

    A row has the figures that its epoch has.
    """
    if not (run.log and run.log.exists()):
        return []
    try:
        lines = io.StringIO(reading.text(run.log), newline="")
        rows = [
            {name: float(value) for name, value in row.items() if value != ""}
            for row in csv.DictReader(lines, strict=True)
        ]
    except (ValueError, TypeError, csv.Error) as error:  # TypeError: a row is shorter or longer than the header
        raise _damaged(run.log, error) from None
    missing = {name for name in ("epoch", "learning_rate", "loss") if not all(name in row for row in rows or [()])}
    if missing:
        raise _damaged(run.log, f"no rows with {', '.join(sorted(missing))}")
    if not all(row["epoch"].is_integer() for row in rows):
        raise _damaged(run.log, "an epoch is no whole number")
    return rows


def recipe_name(run):
    """The name of the recipe's file, as the run's command gives it; the folder's name where it gives none."""
    path = recipe_path(run)
    return path.stem if path else run.path.resolve().name


def recipe_path(run):
    """The path of the recipe's file, as the run's command gives it; None where it gives none."""
    named = [text for text in training_arguments(run) if text.endswith(".py") and "=" not in text]
    return Path(named[0]) if named else None


def training_arguments(run):
    """The arguments of kcifar.train in the run's command; [] where a notebook or another program began it."""
    command = run.began_in().get("command")
    if not (isinstance(command, list) and command):
        return []
    program, *arguments = map(str, command)
    if program in _COMMANDS:
        return arguments[1:] if arguments[:1] == ["train"] else []
    return arguments if program == "train.py" else []


def _json(path):
    try:
        found = reading.parsed_json(reading.text(path))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds {found!r:.40}")
    return found


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST


def _damaged(path, error):
    return InputError(f"'{path}' is damaged ({error}): train the run again, or leave it out of the report")
