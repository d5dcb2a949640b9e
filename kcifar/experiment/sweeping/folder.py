"""The folder of a sweep: what it is about, in `sweep.json`, and a folder for each of its runs."""

import dataclasses
import json
import re
import secrets
from pathlib import Path

from kcifar import reading
from kcifar.errors import InputError, one_line, some
from kcifar.experiment.sweeping.space import Choices, Range, Space, overrides_of, plain
from kcifar.recipe import Recipe
from kcifar.runs.files import UNFINISHED, write_json
from kcifar.runs.folder import RunFolder

DESCRIPTION = "sweep.json"
_HELD = {"id", "name", "recipe", "space", "seeds", "trials", "prune", "at_random"}
_OURS = re.compile(rf"{re.escape(UNFINISHED)}.*|.*\.lock|study\.journal.*|output|report\.html|{re.escape(DESCRIPTION)}")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep is about.

    Attributes:
        name: of the recipe's file.
        recipe: as that says, with the overrides that are the same in all runs.
        space: what is varied.
        trials: how many configurations are drawn; None of a grid.
        prune: whether configurations that do worse than the median are ended early.
        at_random: whether they are drawn by chance alone, not by TPE.
        id: drawn when it was begun.
    """

    name: str
    recipe: Recipe
    space: Space
    trials: int | None = None
    prune: bool = False
    at_random: bool = False
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8), compare=False)

    @property
    def seeds(self):
        """Of each configuration: of one alone None, as its runs are not told apart by them."""
        return self.space.seeds or (None,)

    @property
    def runs(self):
        """How many there are to be."""
        return self.trials * len(self.seeds) if self.space.sampled else self.space.runs

    def recipe_of(self, configuration, seed=None):
        """The resolved recipe of a run."""
        return self.recipe.override(overrides_of(configuration, seed))

    def to_json(self):
        """As `from_json` reads it."""
        return {
            "id": self.id,
            "name": self.name,
            "recipe": json.loads(self.recipe.to_json()),
            "space": self.space.to_json(),
            "seeds": self.space.seeds and list(self.space.seeds),
            "trials": self.trials,
            "prune": self.prune,
            "at_random": self.at_random,
        }

    @classmethod
    def from_json(cls, held):
        """The sweep that `to_json` wrote. Raises ValueError, TypeError or KeyError where it is none."""
        if not isinstance(held, dict) or set(held) != _HELD:
            raise ValueError("its fields are not those of a sweep")
        dimensions = [
            Choices(each["key"], tuple(each["values"])) if "values" in each else Range(**each) for each in held["space"]
        ]
        seeds = None if held["seeds"] is None else tuple(map(int, held["seeds"]))
        recipe = Recipe.from_json(json.dumps(held["recipe"]))
        for dimension in dimensions:
            recipe.value(dimension.key)
        trials = None if held["trials"] is None else int(held["trials"])
        flags = held["prune"] is True, held["at_random"] is True
        return cls(str(held["name"]), recipe, Space(tuple(dimensions), seeds), trials, *flags, held["id"])


class SweepFolder:
    """The folder of a sweep's runs.

    Args:
        path: of the folder.
        sweep: what it is about.
        name_of: the name of a run's folder, of its configuration and seed.
    """

    def __init__(self, path, sweep, name_of=None):
        self.path = Path(path)
        self.sweep = sweep
        self.name_of = name_of or sweep.space.run_name
        self.report = self.path / "report.html"

    def run(self, configuration, seed):
        """The `RunFolder` of a configuration with one of the seeds."""
        return RunFolder(self.path / self.name_of(configuration, seed))

    def output(self, name):
        """The file for what the training of a run says, where it is not shown."""
        return self.path / "output" / f"{name}.txt"

    def ended(self):
        """The paths of the runs that have ended, by their configurations. Raises InputError where there is none."""
        runs = [self.run(configuration, seed) for configuration in self.found() for seed in self.sweep.seeds]
        paths = [run.path for run in runs if run.complete]
        if not paths:
            raise InputError(f"'{self.path}' has no run that has ended: give its command again")
        return paths

    def found(self, known=()):
        """The configurations of runs that were begun in the folder.

        Args:
            known: configurations that are not looked for.

        Raises:
            InputError: the recipe of a run is damaged.
        """
        names = {self.name_of(configuration, seed) for configuration in known for seed in self.sweep.seeds}
        configurations = []
        for path in sorted(self.path.iterdir()):
            found = None if path.name in names else self._configuration_of(RunFolder(path))
            if found is not None and found not in configurations:
                configurations.append(found)
        return configurations

    def expect_free(self):
        """Raises InputError where the path is a file, or holds what is no part of this sweep."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"'{self.path}' is a file; choose another --out")
        for child in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if not _OURS.fullmatch(child.name) and self._configuration_of(RunFolder(child)) is None:
                raise InputError(
                    f"'{self.path}' is already there and no sweep, it holds '{child.name}'; choose another --out"
                )

    def _configuration_of(self, run):
        """That of a run which was begun as one of this sweep: under its name; else None."""
        if not (run.path.is_dir() and run.begun and run.recipe_json.is_file()):
            return None
        recipe = run.recipe
        try:
            found = {dimension.key: plain(recipe.value(dimension.key)) for dimension in self.sweep.space.dimensions}
        except (KeyError, AttributeError, StopIteration):  # it lacks the component
            return None
        names = [self.name_of(found, seed) for seed in self.sweep.seeds]
        return found if self.sweep.space.has(found) and run.path.name in names else None

    def expect_runs_of_it(self, configurations):
        """Raises InputError where a run that was begun in the folder is of another recipe."""
        for configuration in configurations:
            for seed in self.sweep.seeds:
                run = self.run(configuration, seed)
                if run.begun:
                    run.expect_recipe(self.sweep.recipe_of(configuration, seed))


def find(path):
    """The `SweepFolder` at a path; None where there is no sweep. Raises InputError where its sweep.json is damaged."""
    file = Path(path) / DESCRIPTION
    if not file.is_file():
        return None
    try:
        return SweepFolder(path, Sweep.from_json(reading.parsed_json(reading.text(file))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise InputError(
            f"'{file}' is damaged ({one_line(error)}): remove it and give the command again: the runs beside it stay "
            "(a study in a database begins anew: remove it, too)"
        ) from None


def is_begun(path, sweep):
    """Whether a sweep was begun at a path already, perhaps of fewer trials.

    Raises:
        InputError: there is something else: another sweep, a file, a folder with something else in it.
    """
    found = find(path)
    if found is None:
        SweepFolder(path, sweep).expect_free()
    else:
        _expect_same(found, sweep)
    return found is not None


def make(path):
    """Makes the folder of a sweep, where there is none. Raises InputError where none can be made."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(path, error) from None


def take(path, sweep):
    """The folder of a sweep that begins or goes on, which `make` has made, with its `sweep.json`.

    Raises:
        InputError: it is of another sweep meanwhile, or cannot be written.
    """
    found = find(path)
    if found:
        _expect_same(found, sweep)
        sweep = dataclasses.replace(sweep, id=found.sweep.id)
    if found is None or sweep != found.sweep:
        try:
            write_json(Path(path) / DESCRIPTION, sweep.to_json())
        except OSError as error:
            raise _not_written(path, error) from None
    return SweepFolder(path, sweep)


def _not_written(path, error):
    return InputError(f"cannot write the sweep to '{path}': {error.strerror or error}; choose another --out")


def _expect_same(found, sweep):
    own = found.sweep
    if own.space != sweep.space:
        raise InputError(f"'{found.path}' is a sweep of {own.space}, not of {sweep.space}; choose another --out")
    names = [
        field.name for field in dataclasses.fields(Recipe) if field.name != "data"
    ]  # where they lie does not count
    different = [name for name in names if getattr(own.recipe, name) != getattr(sweep.recipe, name)]
    if different:
        what = some([f"{name} is {getattr(own.recipe, name)!r} there" for name in different], 3)
        raise InputError(f"'{found.path}' is a sweep of another recipe ({what}); choose another --out")
    for name, option in (("prune", "--prune"), ("at_random", "--random")):
        if getattr(own, name) != getattr(sweep, name):
            how = "with" if getattr(own, name) else "without"
            raise InputError(f"'{found.path}' was begun {how} {option}; choose another --out")
    if own.trials and own.trials > sweep.trials:
        raise InputError(f"'{found.path}' is a sweep of {own.trials} trials; expected --trials of as many, or more")
