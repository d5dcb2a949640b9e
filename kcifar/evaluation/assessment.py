"""All that the evaluation of a run has to tell."""

import dataclasses

import numpy as np

from kcifar import data
from kcifar.evaluation.predictions import predictions
from kcifar.evaluation.scores import Scores, best_temperature
from kcifar.output import cells, cut, left, printable, right
from kcifar.runs.folder import expect_classes
from kcifar.runs.saved import source_of

_MISTAKES = 10
_MOST_CLASSES = 20  # whose confusion fits on a screen
_BEST, _CONFUSED = 10, 20  # what is told of more


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """What a run's best model is worth.

    Attributes:
        run: what `kcifar.runs.saved.find` gives.
        dataset: a `kcifar.data.Dataset`; with the run's validation split, where these data have one.
        tta: test-time augmentation.
        test: the `Scores` on the test images.
        temperature: fitted on the validation images; None without them.
    """

    run: object
    dataset: data.Dataset
    tta: str
    test: Scores
    temperature: float | None

    def figures(self):
        """All figures as plain values, as JSON can hold them."""
        test, names = self.test, self.dataset.class_names
        images = test.confusion.sum(axis=1).tolist()
        return {
            "model": str(self.run.best),
            "data": self.dataset.source,
            "test_images": len(self.dataset.test),
            "test_time_augmentation": self.tta,
            "selected_on": self.run.selected_on,
            "test_accuracy": test.accuracy,
            "test_accuracy_interval": test.accuracy_interval(),
            "test_top_2_accuracy": test.top(2),
            **_likelihood(test),
            "validation_images": len(self.dataset.validation) if self.dataset.validation else 0,
            "temperature": self.temperature,
            "with_temperature": None if self.temperature is None else _likelihood(test.tempered(self.temperature)),
            "classes": [
                {"class": name, "test_images": count, "test_accuracy": float(accuracy) if count else None}
                for name, count, accuracy in zip(names, images, test.per_class, strict=True)
            ],
            "confusion": test.confusion.tolist(),
            "mistakes": [
                {
                    "test_image": int(place),
                    "label": names[test.labels[place]],
                    "predicted": names[test.predicted[place]],
                    "probability": float(test.confidence[place]),
                }
                for place in test.worst(_MISTAKES)
            ],
        }

    def text(self):
        """The figures for people to read."""
        many = len(self._names) > _MOST_CLASSES
        classes = [self._extreme_classes(), self._confused()] if many else [self._classes(), self._confusion()]
        return "\n\n".join([self._head(), self._figures(), *classes, self._mistakes()])

    @property
    def _names(self):
        return [printable(name) for name in self.dataset.class_names]

    def export_onnx(self):
        """Writes the best model beside its file as `.onnx` and returns the path; InputError where the two differ."""
        from kcifar.evaluation.models import open_model
        from kcifar.evaluation.onnx import COMPARED, export_onnx

        path = self.run.best.with_suffix(".onnx")
        export_onnx(open_model(self.run.best), path, self.dataset.test.images[:COMPARED])
        return path

    def _head(self):
        views = "" if self.tta == "none" else f", test-time augmentation {self.tta}"
        images = f"{len(self.dataset.test):,} test images of {self.dataset.source}"
        lines = [f"{printable(self.run.best)} on {images}{views}"]
        if self.run.selected_on == "test":
            lines.append("the epoch was chosen on the test set itself: not an honest estimate")
        return "\n".join(lines)

    def _figures(self):
        test = self.test
        low, high = test.accuracy_interval()
        lines = [
            f"accuracy           {test.accuracy:.2%}  (95 % interval {low:.2%} – {high:.2%})",
            f"top-2 accuracy     {test.top(2):.2%}",
        ]
        calibrated = None if self.temperature is None else test.tempered(self.temperature)
        for name, figure in (("loss", "loss"), ("Brier score", "brier"), ("calibration error", "calibration_error")):
            scaled = "" if calibrated is None else f"  with temperature {getattr(calibrated, figure):.4f}"
            lines.append(f"{name:<19}{getattr(test, figure):.4f}{scaled}")
        if calibrated is None:
            lines.append(f"temperature        not fitted: {self._why_no_temperature()}")
        else:
            images = f"{len(self.dataset.validation):,} validation images"
            lines.append(f"temperature        {self.temperature:.3f}, fitted on {images}")
        return "\n".join(lines)

    def _why_no_temperature(self):
        known = self.run.selected_on is not None
        return "there are no images here that the run held out" if known else self.run.why_no_splits

    def _classes(self):
        return self._accuracies(range(len(self._names)))

    def _extreme_classes(self):
        places = self.test.classes_by_accuracy
        without = len(self._names) - len(places)
        count = min(_BEST, len(places) // 2)
        lines = [f"the {count} worst of {len(self._names)} classes", self._accuracies(places[:count])]
        lines += ["", f"the {count} best", self._accuracies(places[: -count - 1 : -1])]
        if without:
            lines += ["", f"{without} class{'es have' if without > 1 else ' has'} no test images"]
        return "\n".join(lines)

    def _accuracies(self, places):
        """A line for each of these classes."""
        names, accuracies, width = self._names, self.test.per_class, max(map(cells, self._names))
        return "\n".join(
            f"{left(names[place], width)}  "
            + ("      –  (no test images)" if np.isnan(accuracies[place]) else f"{accuracies[place]:7.2%}")
            for place in places
        )

    def _confused(self):
        pairs, images = self.test.confused(_CONFUSED), self.test.confusion.sum(axis=1)
        if not pairs:
            return "no class was taken for another"
        names = self._names
        texts = [f"{names[label]}, predicted {names[taken]}" for label, taken, _ in pairs]
        width = max(map(cells, texts))
        lines = [f"the {len(pairs)} most frequent mistakes, of the images of the label"]
        for text, (label, _, count) in zip(texts, pairs, strict=True):
            lines.append(f"{left(text, width)}  {count:>5} of {images[label]:>5} {count / images[label]:7.2%}")
        return "\n".join(lines)

    def _confusion(self):
        names = self._names
        width, column = max(map(cells, names)), max(len(f"{self.test.confusion.max()}"), 4) + 2
        lines = ["label and, of its images, how many were predicted as each class"]
        lines.append(" " * width + "".join(right(cut(name, column - 2), column) for name in names))
        for name, row in zip(names, self.test.confusion, strict=True):
            lines.append(left(name, width) + "".join(f"{count:>{column}}" for count in row))
        return "\n".join(lines)

    def _mistakes(self):
        names, test = self._names, self.test
        lines = ["the mistakes it is most confident of"]
        for place in test.worst(_MISTAKES):
            predicted, label = names[test.predicted[place]], names[test.labels[place]]
            lines.append(f"test image {place:>5}  {label}, predicted {predicted} {test.confidence[place]:.2%}")
        return "\n".join(lines) if len(lines) > 1 else "no mistakes"


def _likelihood(scores):
    """What a temperature changes."""
    return {
        "test_loss": scores.loss,
        "test_brier_score": scores.brier,
        "test_calibration_error": scores.calibration_error,
    }


def assess(run, source=None, tta="none"):
    """The `Assessment` of a run.

    Args:
        run: what `kcifar.runs.saved.find` gives.
        source: of test images from elsewhere; None for the run's data. The temperature is fitted where the images
            that the run held out are in them.
        tta: test-time augmentation, see `kcifar.evaluation.models.evaluate`.

    Raises:
        InputError: the run has no best model, or it does not fit the data; or there is no source.
    """
    run.expect_best()
    dataset = data.load(source or source_of([run]))
    expect_classes([run], dataset)
    test = predictions(run, "test", dataset.test, tta)
    own = run.splits(dataset)
    # Validation images of other data may be among those that the run was trained on.
    dataset = own or dataclasses.replace(dataset, validation=None)
    temperature = None
    if dataset.validation:
        temperature = best_temperature(predictions(run, "validation", dataset.validation, tta))
    return Assessment(run, dataset, tta, test, temperature)
