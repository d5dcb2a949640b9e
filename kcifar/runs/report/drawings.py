"""The report's figures as files of their own, as papers want them: PDF or SVG."""

from pathlib import Path

from kcifar.errors import InputError
from kcifar.runs import figures
from kcifar.runs.report import comparison, pictures
from kcifar.runs.rows import series


def folder_of(runs, page):
    """Where figures go: of one run into its folder, of several, which they compare, beside the report's page.

    Raises:
        InputError: the one run is a file, beside which nothing is written.
    """
    folder = runs[0].path if len(runs) == 1 else Path(page).parent
    if folder.is_file():
        raise InputError(f"'{folder}' is a file, beside which no figures are written; expected a run's folder")
    return folder


def draw(reported, dataset, kind, page):
    """Draws the figures anew, from what the run folders keep: log.csv and the best model's predictions.

    Args:
        reported: `Reported` of each run.
        dataset: the `kcifar.data.Dataset` that they were tested on.
        kind: "pdf" or "svg".
        page: the path of the report's page.

    Returns:
        The paths.
    """
    folder = folder_of([each.run for each in reported], page)
    of_one = len(reported) == 1
    found = _of_run(reported[0], dataset) if of_one else _of_several(reported, Path(page).stem)
    paths = {name: folder / f"{name}.{kind}" for name in found}
    for name, drawing in found.items():
        pictures.save(paths[name], *drawing)
    return list(paths.values())


def _of_run(reported, dataset):
    """What is drawn of a run, and by which function of which values, by the names that its PNG files have too."""
    test, names, rows = reported.test, dataset.class_names, reported.rows
    selected_on = reported.selected_on
    of_log = {"curves": (figures.curves, rows, selected_on), "learning_rate": (pictures.learning_rate, rows)}
    return (of_log if rows else {}) | {
        "classes": (figures.classes, dataset.train, names),
        "confusion": (figures.confusion, test.confusion, names),
        "predictions": (figures.predictions, dataset.test, test.probabilities, names),
        "reliability": (pictures.reliability, test, reported.tempered, reported.temperature),
    }


def _of_several(runs, stem):
    logs = comparison.logs(runs)
    return {
        f"{stem}-{column}": (pictures.comparison, logs, column)
        for column in pictures.ACCURACIES
        if any(series(rows, column)[0] for _, rows in logs)
    }
