"""What the report says of one run."""

import dataclasses
import json
import shlex
import statistics

import numpy as np

from kcifar.runs import figures
from kcifar.runs.report import pictures
from kcifar.runs.report.words import UNKNOWN, arithmetic, duration, interval, mebibytes, number, percent, value
from kcifar.runs.rows import columns, series

_SAMPLES, _MISTAKES = 16, 12
_EXTREMES, _CONFUSED = 10, 20  # of many classes: the best and the worst, and pairs of a label and a prediction


def overview(reported, class_names):
    """The run's figures, tables and texts by name, for the template: without images of the test set."""
    return {
        "title": reported.title,
        "folder": reported.folder,
        "path": str(reported.run.path),
        "summary": _summary(reported),
        "headline": _headline(reported),
        "curves": _curves(reported),
        "confusion": _confusion(reported.test.confusion, class_names) if _few(class_names) else None,
        "many": None if _few(class_names) else _many(reported.test, class_names),
        "per_class": _per_class(reported.test, class_names),
        "calibration": _calibration(reported),
        "recipe": _recipe(reported.recipe),
        "environment": _environment(reported.environment),
        "chosen_on_test": reported.selected_on == "test",
        "times": _times(reported.metrics),
    }


def _recipe(recipe):
    fields = dataclasses.fields(recipe) if recipe else []
    return [(field.name, value(getattr(recipe, field.name))) for field in fields]


def samples(reported, split, class_names):
    """The first test images, unselected: a card each."""
    places = range(min(_SAMPLES, len(split)))
    return [card(split, place, class_names, [("", *_prediction(reported.test, place))]) for place in places]


def mistakes(reported, split, class_names):
    """The wrong predictions of test images that the model is most confident of: a card each."""
    places = reported.test.worst(_MISTAKES)
    return [card(split, place, class_names, [("", *_prediction(reported.test, place))]) for place in places]


def card(split, place, class_names, predictions):
    """An image with its label and predictions.

    Args:
        predictions: (whose, class, probability) of each; whose may be "".
    """
    label = split.labels[place]
    said = [f"{whose} predicted {class_names[at]} {100 * p:.0f} %".strip() for whose, at, p in predictions]
    return {
        "source": pictures.png(split.images[place]),
        "alt": ", ".join([class_names[label], *said]),
        "label": class_names[label],
        "predictions": [
            {"whose": whose, "right": bool(at == label), "name": class_names[at], "probability": percent(p, 0)}
            for whose, at, p in predictions
        ],
    }


def _prediction(scores, place):
    return scores.predicted[place], scores.confidence[place]


def _summary(reported):
    recipe = reported.recipe
    if recipe is None:
        return "A model without the record of its training: recipe, validation split, curves and times are not known."
    parameters = reported.metrics.get("parameters")
    size = f" of {parameters:,} parameters" if parameters else ""
    begun = f", begun with {recipe.pretrained}" if recipe.pretrained else ""
    count = reported.epochs
    epochs = f"{count} epoch{'s' * (count > 1)}" if count else "epochs that were not logged"
    sharpness = f" with {recipe.sharpness_aware.name}" if recipe.sharpness_aware else ""
    schedule = f", learning rate by {recipe.schedule.name}" if recipe.schedule else ""
    transforms = ", ".join(part.name for part in recipe.transforms) or "none"
    return (
        f"{recipe.model.name}{size}{begun}, trained for {epochs} by {recipe.optimizer.name}{sharpness}{schedule}; "
        f"transforms: {transforms}."
    )


def _headline(reported):
    test, metrics = reported.test, reported.metrics
    figures = [
        ("Test accuracy", percent(test.accuracy), f"95 % interval {interval(test.accuracy_interval())}"),
        ("Loss", number(test.loss, ".4f"), "mean cross-entropy, nats"),
        ("Brier score", number(test.brier, ".4f"), "0 is perfect, 2 the worst"),
        ("Calibration error", percent(test.calibration_error), "expected, 15 bins"),
    ]
    if test.log_probabilities.shape[1] > 2:
        figures.insert(1, ("Top-2 accuracy", percent(test.top(2)), "the label is among the two most probable"))
    if "test_accuracy_with_views" in metrics:
        viewed, views = percent(metrics["test_accuracy_with_views"]), metrics.get("test_time_augmentation")
        figures.insert(1, ("With views", viewed, f"accuracy of the mean of the logits over the views {views}"))
    if reported.validation:
        note = f"{len(reported.validation.labels):,} images held out"
        figures.append(("Validation accuracy", percent(reported.validation.accuracy), note))
    if reported.selection:
        epoch = f"{number(metrics.get('best_epoch'))} of {number(reported.epochs)}"
        figures.append(("Epoch", epoch, reported.selection))
    return figures


def _curves(reported):
    rows, selected_on = reported.rows, reported.run.selected_on
    if not rows:
        return []
    found = [("learning rate", _learning_rate_alt(rows), pictures.drawn(pictures.learning_rate, rows))]
    for quantity, written in (("loss", lambda loss: number(loss, ".3f")), ("accuracy", percent)):
        picture = pictures.drawn(pictures.curve, rows, quantity, selected_on)
        found.insert(0, (quantity, _alt(quantity, rows, written), picture))
    return [(title.capitalize(), *rest) for title, *rest in found]


def _alt(quantity, rows, written):
    ending = f"_{quantity}"
    found = {name.removesuffix(ending): series(rows, name)[1] for name in columns(rows) if name.endswith(ending)}
    if not found:
        found = {"training batches": series(rows, quantity)[1]}
    said = [f"{name} from {written(values[0])} to {written(values[-1])}" for name, values in found.items() if values]
    return f"{quantity.capitalize()} by epoch, {len(rows)} epochs: {', '.join(said)}"


def _learning_rate_alt(rows):
    rates = [row["learning_rate"] for row in rows]
    return f"Learning rate at the end of each epoch: at most {max(rates):g}, {rates[-1]:.3g} at the end"


def _confusion(matrix, class_names):
    """Rows of the labels, cells of the predictions: the share of the row, and how deep the cell's colour is, 0 to 1."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    most = max((share - np.diag(share.diagonal())).max(), 1e-9)  # of the mistakes
    return [
        {
            "label": label,
            "cells": [
                {
                    "text": _whole_percent(share[row, column]) if matrix[row].any() or row != column else UNKNOWN,
                    "depth": f"{share[row, column] / (1 if row == column else most):.2f}",
                    "right": row == column,
                    "title": f"{matrix[row, column]:,} of {matrix[row].sum():,}: {label} taken for {prediction}",
                }
                for column, prediction in enumerate(class_names)
            ],
        }
        for row, label in enumerate(class_names)
    ]


def _few(class_names):
    """Whether they are so few that their confusion is shown as a table."""
    return len(class_names) <= figures.MOST_NUMBERED


def _many(test, class_names):
    """What is shown of many classes: a picture of their confusion, the most frequent mistakes, the extreme classes."""
    rows, images = _per_class(test, class_names), test.confusion.sum(axis=1)
    places = test.classes_by_accuracy
    extremes = min(_EXTREMES, len(places) // 2)
    mistakes = [
        (
            class_names[label],
            class_names[taken],
            number(count),
            number(images[label]),
            percent(count / images[label], 1),
        )
        for label, taken, count in test.confused(_CONFUSED)
    ]
    said = [f"{label} taken for {taken} {count} times" for label, taken, count, *_ in mistakes[:3]]
    return {
        "picture": pictures.drawn(pictures.confusion, test.confusion, class_names),
        "alt": f"Confusion of {len(class_names)} classes; most often {', '.join(said) or 'none is taken for another'}",
        "mistakes": mistakes,
        "worst": [rows[place] for place in places[:extremes]],
        "best": [rows[place] for place in places[: -extremes - 1 : -1]],
    }


def _whole_percent(fraction):
    text = f"{100 * fraction:.0f}"
    return "" if text == "0" else text


def _per_class(test, class_names):
    counts = test.confusion.sum(axis=1)
    return [
        {
            "name": name,
            "images": number(count),
            "accuracy": percent(accuracy, 1),
            "share": f"{100 * np.nan_to_num(accuracy):.1f}",
        }
        for name, count, accuracy in zip(class_names, counts, test.per_class, strict=True)
    ]


def _calibration(reported):
    test, tempered, temperature = reported.test, reported.tempered, reported.temperature
    text = f"The expected calibration error on the test images is {percent(test.calibration_error)}"
    if tempered:
        text += (
            f" as trained, and {percent(tempered.calibration_error)} with the logits divided by a temperature of "
            f"{temperature:.3f}, fitted on the validation images."
        )
    else:
        text += f". A temperature was not fitted: {reported.not_fitted}."
    alt = "Reliability diagram: accuracy against confidence in 15 bins. " + text
    return {"text": text, "alt": alt, "source": pictures.drawn(pictures.reliability, test, tempered, temperature)}


def _environment(environment):
    shown = {name: found for name, found in environment.items() if name != "class_names" and found is not None}
    if "command" in shown:
        shown["command"] = _command(shown["command"])
    if "resumed" in shown:
        shown["resumed"] = number(len(shown["resumed"])) + " times"
    if "continues" in shown:
        shown["continues"] = _continues(shown["continues"])
    return [(name.replace("_", " "), _plain(found)) for name, found in shown.items()]


def _continues(origin):
    """Which run it branched off from, and with what changed."""
    try:
        changed = ", ".join(f"{name} {now}, not {before}" for name, (before, now) in origin["changed"].items())
        return f"{origin['run']} behind epoch {origin['epochs']}, with {changed or 'nothing changed'}"
    except (TypeError, KeyError, ValueError, AttributeError):
        return _plain(origin)


def _command(command):
    if not isinstance(command, list):
        return _plain(command)
    program, *arguments = map(str, command)
    start = "python -m kcifar.train" if program == "train.py" else program
    return f"{start} {shlex.join(arguments)}".strip()


def _plain(found):
    return found if isinstance(found, str) else json.dumps(found)


def _times(metrics):
    epochs = metrics.get("seconds_per_epoch")
    return [
        ("training, without evaluation", duration(metrics.get("train_seconds"))),
        ("median epoch", duration(statistics.median(epochs) if epochs else None)),
        ("its arithmetic", arithmetic(metrics.get("training_flops"))),
        ("arithmetic of evaluation", arithmetic(metrics.get("evaluation_flops"))),
        ("images per second", number(metrics.get("images_per_second"), ",.0f")),
        ("most main memory", mebibytes(metrics.get("peak_memory_bytes"))),
        ("most memory of the device", mebibytes(metrics.get("peak_device_bytes") or None)),
    ]
