"""What the runs of a sweep say, gathered for its report."""

import math
from pathlib import Path

from kcifar.errors import InputError
from kcifar.experiment.sweeping.selection import Selection
from kcifar.experiment.sweeping.space import Range
from kcifar.runs.files import write_text
from kcifar.runs.report import pictures, records
from kcifar.runs.report.sweep import Configuration, Results, drawings, render_sweep
from kcifar.runs.rows import columns

_FEWEST = 5  # configurations, of which importances are told


def write_report(folder, path=None):
    """Writes the report of a sweep as one HTML file, and returns its path.

    Args:
        folder: a `SweepFolder`.
        path: of the file; None for report.html in the folder.

    Raises:
        InputError: nothing has begun, a file of a run is damaged, or `path` cannot be written to.
    """
    path = Path(path or folder.report)
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"cannot be written, there is no folder '{path.parent}'"
        raise InputError(f"'{path}' {found}; expected the path of an HTML file")
    write_text(path, render_sweep(results_of(folder)))
    return path


def draw(folder, kind):
    """Draws the figures of a sweep's report as files in its folder, and returns their paths.

    Args:
        folder: a `SweepFolder`.
        kind: "pdf" or "svg".
    """
    found = {folder.path / f"{name}.{kind}": drawing for name, drawing in drawings(results_of(folder)).items()}
    for path, drawing in found.items():
        pictures.save(path, *drawing)
    return list(found)


def results_of(folder):
    """The `Results` of a `SweepFolder`. Raises InputError where nothing has begun, or a file of a run is damaged."""
    sweep = folder.sweep
    begun = folder.found()
    if not begun:
        raise InputError(f"'{folder.path}' has no run that was begun: give its command again")
    selection = Selection(sweep.recipe, _has_validation(folder, begun))
    configurations = [_configuration(folder, each, selection) for each in begun]
    importances = {} if len(sweep.space.dimensions) < 2 else _importances(sweep, configurations, selection)
    return Results(
        name=sweep.name,
        path=str(folder.path),
        names=sweep.space.names,
        log={dimension.key for dimension in sweep.space.dimensions if _spans_decades(dimension)},
        column=selection.column,
        sampled=sweep.space.sampled,
        runs=sweep.runs,
        configurations=configurations,
        importances=importances,
        no_importances=_why_none(sweep, configurations),
    )


def _has_validation(folder, begun):
    """Whether the runs logged figures of validation images."""
    if folder.sweep.recipe.validation or folder.sweep.recipe.select_on == "validation":
        return True
    rows = [records.log(folder.run(each, seed)) for each in begun for seed in folder.sweep.seeds]
    return any("validation_loss" in columns(of) for of in rows)


def _configuration(folder, configuration, selection):
    runs = [folder.run(configuration, seed) for seed in folder.sweep.seeds]
    ended = [run for run in runs if run.complete]
    diverged = next((why for run in runs if (why := selection.diverged(run))), "")
    going = [run for run in runs if run.begun and not run.complete]
    epochs = max((len(records.log(run)) for run in going), default=0)
    unfinished = f"has not ended ({epochs} of {going[0].recipe.epochs} epochs)" if going else ""
    return Configuration(
        values=configuration,
        wanted=len(runs),
        figures=[figure for run in ended if math.isfinite(figure := selection.of(run))],
        tests=[records.test_accuracy(run) for run in ended],
        losses=[[row["loss"] for row in records.log(run)] for run in runs if run.begun],
        note=f"diverged: {diverged}" if diverged else unfinished,
    )


def _importances(sweep, configurations, selection):
    """Optuna's importances of the keys, by its default PED-ANOVA; {} where too few configurations have ended."""
    ended = [each for each in configurations if each.is_whole]
    if len(ended) < _FEWEST:
        return {}
    import optuna

    from kcifar.experiment.sweeping.study import distributions

    study, of = optuna.create_study(direction=selection.direction), distributions(sweep.space)
    for each in ended:
        study.add_trial(optuna.create_trial(params=each.values, distributions=of, value=each.mean))
    return optuna.importance.get_param_importances(study)


def _spans_decades(dimension):
    if isinstance(dimension, Range):
        return dimension.log
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in dimension.values)
    return numeric and min(dimension.values) > 0 and max(dimension.values) >= 10 * min(dimension.values)


def _why_none(sweep, configurations):
    if len(sweep.space.dimensions) < 2:
        return (
            "There is none to tell, as one key was varied." if sweep.space.dimensions else "Only the seed was varied."
        )
    ended = sum(each.is_whole for each in configurations)
    return f"They are told once {_FEWEST} configurations have ended; {ended} have."
