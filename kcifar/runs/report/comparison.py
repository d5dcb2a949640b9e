"""What the report says of several runs, compared."""

import dataclasses
from pathlib import Path

import numpy as np

from kcifar.runs.report import pictures
from kcifar.runs.report.single import card
from kcifar.runs.report.words import UNKNOWN, arithmetic, duration, interval, number, percent, value
from kcifar.runs.rows import series
from kcifar.runs.saved import by_value

_IMAGES, _MISTAKES = 8, 12


def compare(runs, split, class_names):
    """The comparison's figures, tables and texts by name, for the template.

    Args:
        runs: `Reported` of each, on the same test images; the first is "before", the last "after".
        split: the test images.
    """
    names = short_names([each.run for each in runs])
    recipes = [each.recipe for each in runs]
    first, last = runs[0].test, runs[-1].test
    one_right = np.flatnonzero(first.correct != last.correct)[:_IMAGES]
    shared, confidence = shared_mistakes([each.test for each in runs])
    return {
        "names": names,
        "places": places_by_value(names),
        "table": _table(runs),
        "curves": _curves(logs(runs)),
        "per_class": _per_class(runs, class_names),
        "differences": _differences(recipes),
        "verdict": verdict(recipes),
        "first_images": [_before_after(runs, split, class_names, at) for at in range(min(_IMAGES, len(split)))],
        "one_right": [_before_after(runs, split, class_names, at) for at in one_right],
        "gained": number((last.correct & ~first.correct).sum()),
        "lost": number((first.correct & ~last.correct).sum()),
        "shared": number(len(shared)),
        "mistakes": [
            card(split, at, class_names, [("", first.predicted[at], confidence[at])]) for at in shared[:_MISTAKES]
        ],
    }


def short_names(runs):
    """A name for each run: its folder's, or its path where two folders have the same name."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def places_by_value(names):
    """The place of each name where they are sorted, numbers by their value."""
    order = sorted(range(len(names)), key=lambda place: by_value(Path(names[place])))
    return [order.index(place) for place in range(len(names))]


def shared_mistakes(scores):
    """The images that all take for the same wrong class.

    Returns:
        Their places, of the highest mean confidence first, and the mean confidence in the prediction of every image.
    """
    confidence = np.mean([each.confidence for each in scores], axis=0)
    same = np.all([each.predicted == scores[0].predicted for each in scores], axis=0)
    places = np.flatnonzero(same & ~scores[0].correct)
    return places[np.argsort(-confidence[places], kind="stable")], confidence


def _table(runs):
    """The titles of the columns, each with a cell for every run."""
    columns = {
        "Recipe": [_cell(each.name, str) for each in runs],
        "Seed": [_cell(each.recipe and each.recipe.seed, _whole_number) for each in runs],
        "Test accuracy": [_cell(each.test.accuracy, percent, interval(each.test.accuracy_interval())) for each in runs],
        "With views": [_cell(each.metrics.get("test_accuracy_with_views"), percent) for each in runs],
        "Validation accuracy": [_cell(each.validation and each.validation.accuracy, percent) for each in runs],
        "Loss": [_cell(each.test.loss, _decimals) for each in runs],
        "Calibration error": [_cell(each.test.calibration_error, percent) for each in runs],
        "Epochs": [_cell(each.epochs, number) for each in runs],
        "Arithmetic": [_cell(each.metrics.get("training_flops"), arithmetic) for each in runs],
        "Training time": [_cell(each.metrics.get("train_seconds"), duration) for each in runs],
        "Images/s": [_cell(each.metrics.get("images_per_second"), _whole) for each in runs],
        "Parameters": [_cell(each.metrics.get("parameters"), number) for each in runs],
    }
    if not any(each.validation for each in runs):
        del columns["Validation accuracy"]
    if not any("test_accuracy_with_views" in each.metrics for each in runs):
        del columns["With views"]
    return columns


def _cell(figure, written, note=""):
    """What is sorted by, "" where it is not known, and what is shown."""
    text = written(figure)
    return {"value": "" if text == UNKNOWN else figure, "text": text, "note": note}


def _whole_number(figure):
    return number(figure, "")


def _decimals(figure):
    return number(figure, ".4f")


def _whole(figure):
    return number(figure, ",.0f")


def logs(runs):
    """(name, rows of log.csv) of each `Reported`."""
    return list(zip(short_names([each.run for each in runs]), [each.rows for each in runs], strict=True))


def _curves(logs):
    """A figure for each split that a run logged: title, text for those who cannot see it, data URI."""
    found = []
    for column, word in pictures.ACCURACIES.items():
        ends = [f"{name} {percent(values[-1])}" for name, rows in logs if (values := series(rows, column)[1])]
        if ends:
            alt = f"Accuracy on {word} images by epoch; at the end {', '.join(ends)}"
            found.append((f"On {word} images", alt, pictures.drawn(pictures.comparison, logs, column)))
    return found


def _per_class(runs, class_names):
    """A row for each class, a cell for each run: text, depth of its colour from 0 to 1, whether it is the best."""
    accuracies = np.array([each.test.per_class for each in runs]).T
    low, high = np.nanmin(accuracies), np.nanmax(accuracies)
    depth = np.nan_to_num((accuracies - low) / max(high - low, 1e-9))
    return [
        (name, [
            {"text": percent(accuracy, 1), "depth": f"{deep:.2f}", "best": accuracy == np.fmax.reduce(row)}
            for accuracy, deep in zip(row, deeps, strict=True)
        ])
        for name, row, deeps in zip(class_names, accuracies, depth, strict=True)
    ]  # fmt: skip


def _differences(recipes):
    """The fields that are not the same in all recipes known, each with its value in every one."""
    known = [recipe for recipe in recipes if recipe]
    found = []
    for name in [field.name for field in dataclasses.fields(known[0])] if known else []:
        values = [getattr(recipe, name) for recipe in known]
        if any(each != values[0] for each in values):
            found.append((name, [value(getattr(recipe, name)) if recipe else UNKNOWN for recipe in recipes]))
    return found


def verdict(recipes):
    """In a sentence, what the recipes differ in, as far as they are known."""
    if not all(recipes):
        differing = ", ".join(name for name, _ in _differences(recipes)) or "nothing"
        return f"Not every recipe is known; those that are differ in {differing}."
    differing = [name for name, _ in _differences(recipes)]
    if not differing:
        return "The recipes are the same."
    if differing == ["seed"]:
        return "The recipes differ in nothing but the seed."
    return f"The recipes differ in {', '.join(differing)}."


def _before_after(runs, split, class_names, at):
    ends = (("first", runs[0].test), ("last", runs[-1].test))
    return card(split, at, class_names, [(whose, test.predicted[at], test.confidence[at]) for whose, test in ends])
