"""A sweep from a command's arguments: what it is about is checked, done, and reported."""

import dataclasses
from pathlib import Path

from kcifar import recipe as recipes
from kcifar.errors import InputError
from kcifar.experiment.sweeping import folder as folders
from kcifar.experiment.sweeping.claims import Claims
from kcifar.experiment.sweeping.folder import Sweep
from kcifar.experiment.sweeping.runner import Runner
from kcifar.experiment.sweeping.selection import Selection, has_validation
from kcifar.experiment.sweeping.shown import shown
from kcifar.experiment.sweeping.space import Choices, expect_size, overrides_of, space_of

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Begun:
    """A sweep that may be done.

    Attributes:
        path: of the recipe's file.
        sweep: what it is about.
        selection: the `Selection` that its configurations are compared by.
        out: path of its folder.
    """

    path: Path
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


def prepare(path, overrides, out=None, trials=None, prune=False, sure=False):
    """The sweep that the arguments of a command mean; nothing is written yet.

    Args:
        path: of the recipe.
        overrides: see `space_of`.
        out: path of the folder; None for one in `runs/` that is called by the recipe and what is varied.
        trials: how many configurations are drawn, where there is a range.
        prune: whether those that do worse than the median are ended early.
        sure: whether more than a thousand runs are meant.

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
    for configuration in _corners(space):
        base.override(overrides_of(configuration))
    _expect_components(base, space)
    selection = Selection(base, has_validation(base))
    if selection.on == "test" and (space.sampled or prune):
        found = "select_on is 'test'" if base.select_on == "test" else "there are no validation images"
        raise InputError(
            f"{found}, so configurations would be searched for on the test set itself; hold images out: validation=0.1 "
            "select_on=validation"
        )
    sweep = Sweep(path.stem, path.read_text(encoding="utf-8"), base, tuple(fixed), space, trials, prune)
    name = "-".join([path.stem, "sweep", *space.names.values()])
    return Begun(path, sweep, selection, Path(out or Path("runs") / name))


def run(begun, storage=None, workers=1, at_random=False):
    """Does what is left of a sweep, and returns its `SweepFolder`.

    Args:
        begun: what `prepare` gave.
        storage: an address as Optuna takes it; None for a file in the folder.
        workers: how many trainings at a time.
        at_random: whether configurations are drawn by chance alone, not by TPE.

    Raises:
        InputError: the folder is of another sweep, the storage cannot be reached, or a training failed.
    """
    from kcifar.experiment.sweeping.study import Study

    folders.make(begun.out, begun.sweep)
    claims = Claims(begun.out)
    try:
        with claims.turn():  # others may begin the same
            folder = folders.take(begun.out, begun.sweep)
            folder.expect_runs_of_it(folder.found())
            study = Study(folder, begun.selection, storage, at_random)
    finally:
        claims.close()
    progress = shown(folder, begun.selection, workers)
    Runner(folder, study, begun.path, begun.sweep.overrides, progress, workers).run()
    return folder


def summary(results):
    """The best configurations in lines, and how many did not complete."""
    ranked = results.ranked()
    written = (lambda mean: f"{mean:.2%}") if results.is_accuracy else (lambda mean: f"{mean:.4f}")
    best = [each for each in ranked if each.figures][:_SHOWN]
    lines = [f"{written(each.mean)}  {results.name_of(each)}" for each in best]
    title = f"mean {results.title.lower()}, the best {len(lines)} of {len(ranked)} configurations"
    rest = [each for each in ranked if len(each.figures) < each.wanted]
    note = (
        [f"{len(rest)} did not complete: {rest[0].note or 'no run has ended'} ({results.name_of(rest[0])})"]
        if rest
        else []
    )
    return "\n".join([title, *lines, *note])


def _corners(space):
    """The configurations that are looked at before anything is trained: of a grid all, else the ends of ranges."""
    if not space.sampled:
        return space.configurations()
    ends = [d if isinstance(d, Choices) else Choices(d.key, (d.low, d.high)) for d in space.dimensions]
    return dataclasses.replace(space, dimensions=tuple(ends)).configurations()


def _expect_components(base, space):
    """Raises InputError where a component cannot be made of a value that is varied."""
    fields = {dimension.key.partition(".")[0] for dimension in space.dimensions}
    from kcifar.experiment import components

    makers = {
        "optimizer": components.optimizer,
        "loss": components.loss,
        "schedule": components.schedule,
        "weight_ema": components.weight_ema,
    }
    several = {
        "transforms": components.transform,
        "fixed_transforms": components.transform,
        "callbacks": components.callback,
    }
    for configuration in _corners(space):
        recipe = base.override(overrides_of(configuration))
        for name in fields & makers.keys():
            if getattr(recipe, name):
                makers[name](getattr(recipe, name))
        for name in fields & several.keys():
            for component in getattr(recipe, name):
                several[name](component)
