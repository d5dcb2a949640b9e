"""The report of runs: what it shows is gathered here, and `kcifar.runs.report` writes it down."""

import functools
from pathlib import Path

from kcifar import data
from kcifar.errors import InputError
from kcifar.evaluation.predictions import predictions
from kcifar.evaluation.scores import best_temperature
from kcifar.runs.files import write_text
from kcifar.runs.folder import expect_classes
from kcifar.runs.report import records
from kcifar.runs.report.page import render
from kcifar.runs.report.reported import Reported
from kcifar.runs.saved import source_of


def write_report(runs, path, source=None, dataset=None, metrics=None):
    """Writes the report of one run, or of several compared, as one HTML file, whole or not at all.

    Args:
        runs, source, dataset, metrics: see `gathered`.
        path: of the HTML file.

    Raises:
        InputError: see `gathered`; or `path` cannot be written to.
    """
    expect_place(path, "an HTML file")
    write_page(*gathered(runs, source, dataset, metrics), path)


def write_page(reported, dataset, path):
    """Writes the page of what was `gathered`."""
    write_text(path, render(reported, dataset.test, dataset.class_names, dataset.source))


def expect_place(path, what):
    """Raises InputError where no file can be written to a path: `what` it would be."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"cannot be written, there is no folder '{path.parent}'"
        raise InputError(f"'{path}' {found}; expected the path of {what}")


def gathered(runs, source=None, dataset=None, metrics=None):
    """All that is reported of runs.

    What the best models predict is kept in the run folders, see `kcifar.evaluation.predictions`.

    Args:
        runs: at least one, as `kcifar.runs.saved.find` gives them.
        source: what `kcifar.data.load` takes, for all runs; None for what each recipe names, and the first of these
            for a model without one.
        dataset: the `kcifar.data.Dataset` that the runs were trained on, where it is loaded already; it may have its
            validation split.
        metrics: what the `metrics.json` of the one run will hold, where it is not written yet.

    Returns:
        (`kcifar.runs.report.reported.Reported` of each, the `kcifar.data.Dataset` that they were tested on).

    Raises:
        InputError: a run has no best model or a damaged file, or the runs are not of the same test images and classes.
    """
    for run in runs:
        run.expect_best()
        for read in (records.metrics, records.log):
            read(run)
    load = functools.cache(lambda source: dataset or data.load(source))
    datasets = [load(source or run.source or source_of(runs)) for run in runs]
    _expect_comparable(runs, datasets)
    reported = [_reported(run, of, metrics or records.metrics(run)) for run, of in zip(runs, datasets, strict=True)]
    return reported, datasets[0]


def _expect_comparable(runs, datasets):
    for run, dataset in zip(runs, datasets, strict=True):
        expect_classes([runs[0], run], dataset)
        if dataset is not datasets[0] and dataset.test.fingerprint != datasets[0].test.fingerprint:
            raise InputError(
                f"'{runs[0].path}' and '{run.path}' have different test images ({datasets[0].source}, "
                f"{dataset.source}); a comparison needs the same: give them by --data, or report the runs apart"
            )


def _reported(run, dataset, metrics):
    """What the report shows of a run."""
    test = predictions(run, "test", dataset.test)
    own = run.splits(dataset)
    if own is None:
        return Reported(run, metrics, test, not_fitted=run.why_no_splits)
    if own.validation is None:
        return Reported(run, metrics, test, not_fitted="the run has no validation images")
    validation = predictions(run, "validation", own.validation)
    temperature = best_temperature(validation)
    return Reported(run, metrics, test, validation, temperature, test.tempered(temperature))
