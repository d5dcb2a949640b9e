"""A sweep from a command's arguments: what it is about is checked, done, and reported."""

import dataclasses
from pathlib import Path

from kcifar import recipe as recipes
from kcifar.errors import InputError
from kcifar.experiment.sweeping import check
from kcifar.experiment.sweeping import folder as folders
from kcifar.experiment.sweeping.claims import Claims
from kcifar.experiment.sweeping.folder import Sweep
from kcifar.experiment.sweeping.runner import Runner
from kcifar.experiment.sweeping.selection import Selection, has_validation
from kcifar.experiment.sweeping.shown import shown
from kcifar.experiment.sweeping.space import Range, expect_size, overrides_of, space_of

_SHOWN = 5
_COMPARED_BY = ("data", "validation", "validation_seed", "select_on", "select_by")


@dataclasses.dataclass(frozen=True)
class Begun:
    """A sweep that may be done.

    Attributes:
        path: of the recipe's file.
        overrides: those that are the same in all runs.
        sweep: what it is about.
        selection: the `Selection` that its configurations are compared by.
        out: path of its folder.
    """

    path: Path
    overrides: list
    sweep: Sweep
    selection: Selection
    out: Path

    def describe(self):
        """What will be done, as (name, text) rows."""
        sweep, seeds = self.sweep, len(self.sweep.seeds)
        of = f" × {seeds} seeds" if sweep.space.seeds else ""
        if sweep.space.sampled:
            count = f"{sweep.trials}{of}, drawn{', those below the median ended early' * sweep.prune}"
        else:
            count = f"{sweep.space.runs // seeds}{of}, a grid"
        note = " (the test set itself: not an honest estimate)" if self.selection.on == "test" else ""
        return [
            ("recipe", str(self.path)),
            *(("varied", str(dimension)) for dimension in sweep.space.dimensions),
            ("configurations", count),
            ("compared by", f"{self.selection.column.replace('_', ' ')}{note}"),
            ("sweep", str(self.out)),
        ]


def prepare(path, overrides, out=None, trials=None, prune=False, sure=False, at_random=False):
    """The sweep that the arguments of a command mean; nothing is written yet.

    Args:
        path: of the recipe.
        overrides: see `space_of`.
        out: path of the folder; None for one in `runs/` that is called by the recipe and what is varied.
        trials: how many configurations are drawn, where there is a range.
        prune: whether those that do worse than the median are ended early.
        sure: whether more than a thousand runs are meant.
        at_random: whether configurations are drawn by chance alone, not by TPE.

    Returns:
        A `Begun`.

    Raises:
        InputError: what is varied, or a configuration, cannot be.
    """
    path = recipes.find(path)
    space, base, fixed = space_of(recipes.load(path), overrides)
    expect_size(space, trials, sure)
    if prune and not space.dimensions:
        raise InputError("--prune is given, but only the seed is varied: leave it out, or vary a key")
    _expect_possible(base, space)
    selection = Selection(base, has_validation(base))
    if selection.on == "test" and (space.sampled or prune):
        found = "select_on is 'test'" if base.select_on == "test" else "there are no validation images"
        raise InputError(
            f"{found}, so configurations would be searched for on the test set itself; hold images out: validation=0.1 "
            "select_on=validation"
        )
    sweep = Sweep(path.stem, base, space, trials, prune, at_random)
    name = "-".join([path.stem, "sweep", *space.names.values()])
    return Begun(path, fixed, sweep, selection, Path(out or Path("runs") / name))


def run(begun, storage=None, workers=1):
    """Does what is left of a sweep; its `SweepFolder`, and why trainings failed, a list of texts.

    Args:
        begun: what `prepare` gave.
        storage: an address as Optuna takes it; None for a file in the folder.
        workers: how many trainings at a time.

    Raises:
        InputError: a configuration cannot be planned, the folder is of another sweep, the storage cannot be reached, or
            a training failed.
    """
    from kcifar.experiment.sweeping.study import Study

    if not folders.is_begun(begun.out, begun.sweep):
        asked = [begun.overrides + overrides_of(each, begun.sweep.seeds[0]) for each in _looked_at(begun.sweep.space)]
        check.expect_planned(begun.path, asked)
    folders.make(begun.out)
    with Claims(begun.out).turn():  # others may begin the same
        folder = folders.take(begun.out, begun.sweep)
        folder.expect_runs_of_it(folder.found())
        study = Study(folder, begun.selection, storage)
    progress = shown(folder, begun.selection, workers)
    return folder, Runner(folder, study, begun.path, begun.overrides, progress, workers).run()


def summary(results):
    """The best configurations in lines, and how many did not complete."""
    ranked = results.ranked()
    written = (lambda mean: f"{mean:.2%}") if results.is_accuracy else (lambda mean: f"{mean:.4f}")
    best = [each for each in ranked if each.is_whole][:_SHOWN]
    lines = [f"{written(each.mean)}  {results.name_of(each)}" for each in best]
    title = f"mean {results.title.lower()}, the best {len(lines)} of {len(ranked)} configurations"
    rest = [each for each in ranked if not each.is_whole]
    note = (
        [f"{len(rest)} did not complete: {rest[0].note or 'no run has ended'} ({results.name_of(rest[0])})"]
        if rest
        else []
    )
    return "\n".join([title, *lines, *note])


def _expect_possible(base, space):
    """Raises InputError where a configuration cannot be, or would be compared by another figure than the others."""
    for dimension in space.dimensions:
        if dimension.key in _COMPARED_BY:
            raise InputError(
                f"'{dimension.key}' is varied, but configurations are compared on the same images by the same figure; "
                "expected one value, and a sweep for each"
            )
    for configuration in _looked_at(space) if space.sampled else space.configurations():
        base.override(overrides_of(configuration))


def _looked_at(space):
    """Configurations that show each value: the first of all, then each key's others; of numbers the ends alone."""
    values = {dimension.key: _ends(dimension) for dimension in space.dimensions}
    first = {key: of_key[0] for key, of_key in values.items()}
    return [first, *(first | {key: value} for key, of_key in values.items() for value in of_key[1:])]


def _ends(dimension):
    if isinstance(dimension, Range):
        return [dimension.low, dimension.high]
    values = list(dimension.values)
    is_numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return sorted({min(values), max(values)}) if is_numeric else values
