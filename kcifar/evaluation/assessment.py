"""All that the evaluation of a run has to tell."""

import dataclasses

from kcifar import data
from kcifar.evaluation.predictions import predictions
from kcifar.evaluation.scores import Scores, best_temperature
from kcifar.runs.folder import expect_classes

_MISTAKES = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """What a run's best model is worth.

    Attributes:
        run: a `kcifar.runs.folder.RunFolder`.
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

    def text(self):
        """The figures for people to read."""
        return "\n\n".join([self._head(), self._figures(), self._classes(), self._confusion(), self._mistakes()])

    def export_onnx(self):
        """Writes the best model as `RUN/best.onnx` and returns the path; InputError where the two differ."""
        from kcifar.evaluation.models import open_model
        from kcifar.evaluation.onnx import COMPARED, export_onnx

        path = self.run.best.with_suffix(".onnx")
        export_onnx(open_model(self.run.best), path, self.dataset.test.images[:COMPARED])
        return path

    def _head(self):
        views = "" if self.tta == "none" else f", test-time augmentation {self.tta}"
        lines = [f"{self.run.best} on {len(self.dataset.test):,} test images of {self.dataset.source}{views}"]
        if self.run.recipe.select_on == "test":
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
            lines.append("temperature        not fitted: there are no images here that the run held out")
        else:
            images = f"{len(self.dataset.validation):,} validation images"
            lines.append(f"temperature        {self.temperature:.3f}, fitted on {images}")
        return "\n".join(lines)

    def _classes(self):
        names = self.dataset.class_names
        width = max(map(len, names))
        return "\n".join(
            f"{name:<{width}}  {accuracy:7.2%}" for name, accuracy in zip(names, self.test.per_class, strict=True)
        )

    def _confusion(self):
        names = self.dataset.class_names
        width, column = max(map(len, names)), max(len(f"{self.test.confusion.max()}"), 4) + 2
        lines = ["label and, of its images, how many were predicted as each class"]
        lines.append(" " * width + "".join(f"{name[: column - 2]:>{column}}" for name in names))
        for name, row in zip(names, self.test.confusion, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{count:>{column}}" for count in row))
        return "\n".join(lines)

    def _mistakes(self):
        names, test = self.dataset.class_names, self.test
        lines = ["the mistakes it is most confident of"]
        for place in test.worst(_MISTAKES):
            predicted, label = names[test.predicted[place]], names[test.labels[place]]
            lines.append(f"test image {place:>5}  {label}, predicted {predicted} {test.confidence[place]:.2%}")
        return "\n".join(lines) if len(lines) > 1 else "no mistakes"


def assess(run, source=None, tta="none"):
    """The `Assessment` of a run.

    Args:
        run: a `kcifar.runs.folder.RunFolder`.
        source: of test images from elsewhere; None for the run's data. The temperature is fitted where the images
            that the run held out are in them.
        tta: test-time augmentation, see `kcifar.evaluation.models.evaluate`.

    Raises:
        InputError: the run has no best model, or it does not fit the data.
    """
    run.expect_best()
    dataset = data.load(source or run.recipe.data)
    expect_classes([run], dataset)
    test = predictions(run, "test", dataset.test, tta)
    own = run.splits(dataset)
    # Validation images of other data may be among those that the run was trained on.
    dataset = own or dataclasses.replace(dataset, validation=None)
    temperature = None
    if dataset.validation:
        temperature = best_temperature(predictions(run, "validation", dataset.validation, tta))
    return Assessment(run, dataset, tta, test, temperature)
