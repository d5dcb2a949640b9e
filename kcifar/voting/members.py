"""Runs as members of an ensemble: what they predict, and the images that none of them was trained on."""

import dataclasses
import functools
import sys

import numpy as np
from rich.console import Console
from rich.progress import track

from kcifar import data
from kcifar.data.dataset import validation_rows
from kcifar.errors import InputError
from kcifar.evaluation.predictions import predictions
from kcifar.evaluation.scores import Scores
from kcifar.runs.folder import expect_classes
from kcifar.runs.saved import source_of

_FEWEST_IN_COMMON = 500  # images: an accuracy on them is known to two points


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """What the runs of an ensemble predict.

    Attributes:
        runs: `kcifar.runs.folder.RunFolder`s or `kcifar.runs.saved.SavedModel`s.
        dataset: the `kcifar.data.Dataset`, as it was loaded.
        tta: test-time augmentation, of which each one's predictions are.
        validation: of each run the `Scores` on the images that none of them was trained on; empty without such images.
        test: of each run the `Scores` on the test images.
        warnings: why the validation images are not those of every run, for people to read.
    """

    runs: list
    dataset: data.Dataset
    tta: str
    validation: list[Scores]
    test: list[Scores]
    warnings: list[str]


def members(runs, source=None, tta="none"):
    """The `Members` that runs are, their predictions from their folders where they are kept there.

    Args:
        runs: at least two, as `kcifar.runs.saved.find` gives them.
        source: of the data; None for that of the first run that has one.
        tta: test-time augmentation, see `kcifar.evaluation.models.evaluate`.

    Raises:
        InputError: fewer than two runs, different class lists, a run without a best model, or a damaged one.
    """
    if len(runs) < 2:
        found = f"one member, '{runs[0].path}'" if runs else "no members"
        raise InputError(f"{found}; expected at least two runs, or a folder with them")
    dataset = data.load(source or source_of(runs))
    expect_classes(runs, dataset)
    for run in runs:
        run.expect_best()
    held_out, warnings = _held_out(runs, dataset)
    bar = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    with_progress = functools.partial(track, **bar)
    test = [predictions(run, "test", dataset.test, tta) for run in with_progress(runs, "test images")]
    validation = []
    if len(held_out):
        validation = [_on(held_out, run, dataset, tta) for run in with_progress(runs, "validation images")]
    return Members(list(runs), dataset, tta, validation, test, warnings + _unfinished(runs))


def _unfinished(runs):
    paths = [str(run.path) for run in runs if not run.ended]
    return [f"{', '.join(paths)}: not ended yet; the best epoch so far votes"] if paths else []


def _held_out(runs, dataset):
    """(rows of the training images that no run was trained on, what to warn of); of the data's own validation images
    where they have such."""
    others = [run for run in runs if run.splits(dataset) is None]
    if others:
        which = "; ".join(f"{run.path}: {run.why_no_splits}" for run in others)
        return np.arange(0), [f"{which}, so no image of {dataset.source} counts as held out: no size is chosen"]
    own = [_held_out_by(run, dataset) for run in runs]
    common = functools.reduce(np.intersect1d, own)
    if not len(common):
        return common, ["no training image was held out from all members: no size is chosen, as it would leak"]
    if all(len(rows) == len(common) for rows in own):
        return common, []
    leak = "members were trained on validation images of others, on which a choice of the size would leak"
    advice = "train them with the same validation and validation_seed"
    if len(common) < _FEWEST_IN_COMMON:
        return common[:0], [f"{leak}; all held out but {len(common):,}, too few to choose on: {advice}"]
    return common, [f"{leak}: it is chosen on the {len(common):,} images that all held out ({advice})"]


def _held_out_by(run, dataset):
    if dataset.validation is not None:
        return np.arange(len(dataset.validation))
    recipe = run.recipe
    return validation_rows(len(dataset.train), recipe.validation, recipe.validation_seed)


def _on(rows, run, dataset, tta):
    """The run's scores on these rows of the training images, of those that it held out."""
    own = _held_out_by(run, dataset)
    scores = predictions(run, "validation", run.splits(dataset).validation, tta)
    places = np.searchsorted(own, rows)
    return Scores(scores.log_probabilities[places], scores.labels[places])
