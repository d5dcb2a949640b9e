"""The folder of a run: what is in it, and making or finding one.

Finding one imports no Keras, which takes seconds: a wrong path is told at once, and so is what is kept in a run.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np

import kcifar
from kcifar import reading
from kcifar.checksum import sha256
from kcifar.errors import InputError, one_line, some
from kcifar.output import warn
from kcifar.recipe import Recipe
from kcifar.runs.commit import commit
from kcifar.runs.files import UNFINISHED, remove_leftovers, replacing, write_json, write_text
from kcifar.runs.last import Last
from kcifar.runs.lock import LOCK

OWN_PARTS = "own_parts"
"""The folder in a run's where the modules are kept that it was made with."""

_PREVIEWS = ("classes", "transforms")
_CIRCUMSTANCES = (
    "backend",
    "device",
    "devices",
    "threads",
    "processes",
    "python",
    "keras",
    "numpy",
    "torch",
    "jax",
    "kcifar",
    "commit",
)


class RunFolder:
    """A run's folder. Its files are attributes; every one is written whole or not at all.

    What tells how far a run is: it has begun where `environment.json` is there, which is written when all else is that
    describes it; its epochs are those of the newest state in `last` that is whole; it has ended where `metrics.json` is
    there, which is written when all else is that its end gives. One whose loss was no number any more says so in
    `diverged.txt`.
    """

    why_no_splits = "the data given are not those that the run was trained on"

    def __init__(self, path):
        self.path = Path(path)
        self.recipe_source = self.path / "recipe.py"
        self.recipe_json = self.path / "recipe.json"
        self.environment = self.path / "environment.json"
        self.log = self.path / "log.csv"
        self.metrics = self.path / "metrics.json"
        self.best = self.path / "best.keras"
        self.report = self.path / "report.html"
        self.divergence = self.path / "diverged.txt"
        self.last = Last(self.path)

    @property
    def how_to_go_on(self):
        """The command that goes on with it, as typed into a shell."""
        return f"python -m kcifar.train --resume {shlex.quote(str(self.path))}"

    def expect_best(self):
        """The path of the best model. Raises InputError where there is none."""
        if not self.best.is_file():
            why = "it was lost" if self.ended or self.last.exists else "its first epoch has not ended"
            raise InputError(f"'{self.path}' has no best.keras ({why})", f"go on with {self.how_to_go_on}")
        return self.best

    def predictions(self, split, tta="none"):
        """The path of the best model's predictions on a split, by name."""
        return self.path / "predictions" / (f"{split}.npz" if tta == "none" else f"{split}-{tta}.npz")

    def figure(self, name):
        """The path of a figure, for example 'curves'."""
        return self.path / f"{name}.png"

    @property
    def class_names(self):
        """The names of the classes it was trained on. Raises InputError where they are not in `environment.json`."""
        names = self.began_in().get("class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"'{self.environment}' has no list class_names: written by another version, or damaged")
        return tuple(names)

    def began_in(self):
        """What `environment.json` holds. Raises InputError where it is damaged."""
        try:
            written = reading.parsed_json(reading.text(self.environment))
            if isinstance(written, dict) and isinstance(written.get("resumed", []), list):
                return written
            error = "it holds something else"
        except (OSError, ValueError) as found:
            error = one_line(found)
        raise InputError(f"'{self.environment}' is damaged ({error}): start a new run with --out")

    def splits(self, dataset):
        """The data set, split as the recipe says where it is not yet, if it is what was trained on; else None."""
        recipe = self.recipe
        how = recipe.validation, recipe.validation_seed
        return _split(dataset, *how) if _fingerprint(dataset, *how) == self.began_in().get("data_sha256") else None

    @property
    def source(self):
        """Of the data that it was trained on: what `kcifar.data.load` takes."""
        return self.recipe.data

    @property
    def selected_on(self):
        """What its best epoch was chosen on: "validation", "test", or "last"."""
        return self.recipe.select_on

    @property
    def begun(self):
        """Whether all is there that describes it."""
        return self.environment.is_file()

    @property
    def ended(self):
        """Whether its training is over."""
        return self.metrics.exists()

    @property
    def complete(self):
        """Whether its training is over, and its report written, which earlier versions wrote last."""
        return self.ended and self.report.exists()

    @property
    def diverged(self):
        """What it said when its loss was no number any more; "" where that was not, or it was resumed since."""
        with contextlib.suppress(FileNotFoundError):
            return self.divergence.read_text(encoding="utf-8", errors="replace").strip()
        return ""

    @property
    def recipe(self):
        """The resolved recipe. Raises InputError where it is damaged."""
        try:
            return Recipe.from_json(reading.text(self.recipe_json))
        except (ValueError, TypeError, AttributeError) as error:  # InputError is a ValueError
            raise InputError(f"the recipe of '{self.path}' cannot be read: {error}") from None

    def expect_recipe(self, recipe, may_be_longer=False):
        """Raises InputError where `recipe` is not the one that this run was made with.

        Where its data lie does not count: their checksum does, see `record_resume`.

        Args:
            may_be_longer: whether it may have more epochs.
        """
        own = self.recipe
        names = {field.name for field in dataclasses.fields(recipe)} - {"data"}
        different = sorted(name for name in names if getattr(own, name) != getattr(recipe, name))
        if may_be_longer and different == ["epochs"] and recipe.epochs > own.epochs:
            return
        if different:
            found = some([f"{name} is {getattr(own, name)!r} there" for name in different], 3)
            raise InputError(
                f"'{self.path}' is a run of another recipe ({found}); go on from its last epoch in a new run, with "
                "--resume and --out, or start one"
            )


@functools.lru_cache(maxsize=1)
def _split(dataset, fraction, seed):
    return dataset.split_validation(fraction, seed) if fraction and dataset.validation is None else dataset


@functools.lru_cache(maxsize=64)
def _fingerprint(dataset, fraction, seed):
    return _split(dataset, fraction, seed).fingerprint()


def create(path, recipe, source, dataset, describe=None):
    """Makes the folder of a new run, with `recipe.py`, `recipe.json` and, last, `environment.json`.

    Args:
        path: of a folder that `make` takes.
        recipe: resolved.
        source: of the recipe's file, bytes.
        dataset: the `kcifar.data.Dataset` that it trains on.
        describe: called with the run first of all, to write more that describes it.

    Raises:
        InputError: there is something at `path`, or nothing can be written there.
    """
    run = make(path)
    try:
        remove_leftovers(run.path)
        for name in _PREVIEWS:
            run.figure(name).unlink(missing_ok=True)  # perhaps of another recipe
        if run.last.folder.exists():
            shutil.rmtree(run.last.folder)  # of a branch that was killed as it was made
        if describe:
            describe(run)
        with replacing(run.recipe_source) as temporary:
            Path(temporary).write_bytes(source)
        write_text(run.recipe_json, recipe.to_json())
        begin(run, recipe, dataset)
    except OSError as error:
        raise _not_written(path, error) from None
    return run


def begin(run, recipe, dataset):
    """Writes `environment.json`: the run has begun, anew or, where it has a state already, with that of another."""
    state = run.last.read()
    continues = {"continues": state.record["continues"]} if state else {}
    write_json(run.environment, environment(dataset) | {"pretrained_sha256": _weights(recipe)} | continues)


def _not_written(path, error):
    return InputError(f"cannot write the run to '{path}': {error.strerror or error}; choose another --out")


def make(path):
    """The folder of a run that is to come; there may be the picture of its transforms in it.

    Raises:
        InputError: there is something else at `path`, or no folder can be made there.
    """
    run = RunFolder(path)
    if run.path.exists() and (not run.path.is_dir() or _holds_more(run)):
        kind = "a run: go on with --resume, or" if run.begun else "no empty folder:"
        raise InputError(f"'{path}' is already there and {kind} choose another --out")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(path, error) from None
    return run


def _holds_more(run):
    """Whether there is more than a picture of transforms, and what a run left that was killed as it was made."""
    if run.begun:
        return True
    of_kcifar = {run.recipe_source, run.recipe_json, run.last.folder, run.path / OWN_PARTS, run.path / LOCK}
    unfinished = run.path.glob(f"{UNFINISHED}*")
    return bool(set(run.path.iterdir()) - set(map(run.figure, _PREVIEWS)) - of_kcifar - set(unfinished))


def find(path, expected="a folder that kcifar.train wrote"):
    """The run at `path`. Raises InputError where there is none; it says what was expected."""
    run = RunFolder(path)
    if not run.recipe_json.is_file():
        raise InputError(f"'{path}' is no run ({_instead(run.path)}); expected {expected}")
    return run


def _instead(path):
    """What there is at the path, where it is no run."""
    if not path.is_dir():
        return "it is a file" if path.exists() else "there is nothing"
    if any((path / name).exists() for name in ("recipe.py", "last", OWN_PARTS)):
        return "it has no recipe.json, as one that was killed as it was made: give the same command again"
    below = sorted(path.glob("*/recipe.json")) or sorted(path.glob("*/*/recipe.json"))
    return f"it has no recipe.json, but there is the run {below[0].parent}" if below else "it has no recipe.json"


def expect_classes(runs, dataset):
    """Raises InputError unless all runs were trained on the data set's classes, in its order, as far as that is known.

    Args:
        runs: `RunFolder`s, or what `kcifar.runs.saved.find` gives else.
    """
    runs = [run for run in runs if run.class_names is not None]
    if not runs:
        return
    first = runs[0]
    for run in runs[1:]:
        if run.class_names != first.class_names:
            own, its = _from_where_they_differ(first.class_names, run.class_names)
            raise InputError(
                f"'{first.path}' was trained on the classes {own}, '{run.path}' on {its}; expected the same, in the "
                "same order"
            )
    if dataset.class_names != first.class_names:
        own, its = _from_where_they_differ(first.class_names, dataset.class_names)
        raise InputError(
            f"'{first.path}' was trained on the classes {own}, but {dataset.source} has {its}; expected the same, in "
            "the same order: give its own data by --data"
        )


def _from_where_they_differ(*lists):
    """Some names of each of two lists; where many at their start are the same, from the first on that is not."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*lists, strict=False))
    same = len(list(pairs))
    same = same if same > 4 else 0
    return [f"{'…, ' * bool(same)}{some(names[same:], 6) or 'none'}" for names in lists]


def free_path(parent, name):
    """`parent/name`, or with the first number behind it that is free."""
    path, number = Path(parent) / name, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{name}-{number}"
    return path


def record_resume(run, dataset, from_start):
    """Adds the environment that a run goes on in to its `environment.json`; warns where it is another than before.

    Args:
        from_start: whether it needs the weights that it started from.

    Raises:
        InputError: the data differ, or the weights that it started from.
    """
    written = run.began_in()
    try:
        images, weights = written["data_sha256"], written["pretrained_sha256"]
    except KeyError as error:
        raise InputError(f"'{run.environment}' is damaged ({error!r}): start a new run with --out") from None
    now = environment(dataset)
    if now["data_sha256"] != images:
        raise InputError(f"'{run.path}' was trained on other images ({written['data']}), these are {now['data']}")
    if from_start and _weights(run.recipe) != weights:
        raise InputError(
            f"'{run.path}' started from other weights than {run.recipe.pretrained} are now: start a new run with --out"
        )
    remove_leftovers(run.path)
    resumed = written.setdefault("resumed", [])
    if changes := _changes((resumed or [written])[-1], now):
        warn(f"'{run.path}' goes on with {changes}: its end may be another than it would have been")
    resumed.append(now)
    write_json(run.environment, written)


def _changes(before, now):
    """What differs of the circumstances on which a run's numbers depend, in words."""
    changed = [name for name in _CIRCUMSTANCES if name in before and name in now and before[name] != now[name]]
    return ", ".join(f"{name} {now[name]}, not {before[name]}" for name in changed)


def _weights(recipe):
    """SHA-256 of the pretrained weights; None without."""
    from kcifar.models.weights import locate

    return sha256(locate(recipe.pretrained)) if recipe.pretrained else None


def environment(dataset):
    """Data, machine, versions, command and the time that it is now, as a dict of plain values."""
    import keras

    from kcifar import backend

    return {
        "data": dataset.source,
        "data_sha256": dataset.fingerprint(),
        "class_names": list(dataset.class_names),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kcifar": kcifar.__version__,
        **commit(Path(kcifar.__file__)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": backend.name,
        **backend.describe(),
    }
