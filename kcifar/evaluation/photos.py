"""What a saved model sees in images of any size."""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import track

from kcifar import data
from kcifar.data import photos
from kcifar.errors import InputError
from kcifar.evaluation.models import expect_classifier, load_model, log_probabilities
from kcifar.runs import folder, saved
from kcifar.runs.state import class_names_in

_AT_ONCE = 32  # images in memory; few, because a user's own model may be large
_UNKNOWN_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model from raw images (batch, height, width, channels) to logits or probabilities (batch, classes).

    Attributes:
        model: a `keras.Model`.
        class_names: one for each of its outputs.
    """

    model: keras.Model
    class_names: tuple[str, ...]

    @property
    def image_size(self):
        """(height, width) of the images that it takes; 32 for a side that may have any length."""
        return tuple(side or _UNKNOWN_SIDE for side in self.model.inputs[0].shape[1:3])

    @property
    def channels(self):
        """Of the images that it takes: 1, grey, or 3, RGB, which also one is shown that takes any."""
        return self.model.inputs[0].shape[3] or 3


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier gives for images.

    Attributes:
        photos: the `kcifar.data.photos.Photo`s that could be read.
        probabilities: float64 (n, classes), a row for each of them.
        unreadable: why the others in folders could not, a line for each.
    """

    photos: list
    probabilities: np.ndarray
    unreadable: list

    def top(self, count):
        """The `count` most probable classes of each image, the most probable first: int64 (n, count)."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]


def load(path):
    """The `Classifier` at `path`: of a run's or a checkpoint's folder the best model, or that in a `.keras` file.

    Its classes have the names that the run beside it was trained on, or that are in the file, as in an ensemble's;
    without either those of CIFAR-10 where it has 10, and "class 0", "class 1" and so on where it has another number.

    Raises:
        InputError: there is no such model, it is damaged, it takes or gives something else, or its number of classes is
            not that of the names.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"'{path}' does not exist; expected a folder that kcifar.train wrote, or a .keras file")
    file = saved.find(path).expect_best() if path.is_dir() else path
    model = load_model(file)
    expect_classifier(model, f"'{file}'")
    return Classifier(model, _class_names(file, model.outputs[0].shape[-1]))


def _class_names(file, classes):
    run = folder.RunFolder(file.parent)
    if run.recipe_json.is_file():
        if len(run.class_names) != classes:
            raise InputError(
                f"'{file}' gives {classes} classes, but '{run.environment}' beside it names {len(run.class_names)}: it "
                "is not this run's model; move it to another folder"
            )
        return run.class_names
    if names := class_names_in(file):
        if len(names) != classes:
            raise InputError(f"'{file}' gives {classes} classes, but its class_names.json names {len(names)}")
        return names
    if classes == len(data.CLASS_NAMES):
        return data.CLASS_NAMES
    return tuple(f"class {label}" for label in range(classes))


def predict(classifier, found):
    """The `Predictions` for images, read a batch at a time, with a progress bar on stderr where that is a terminal.

    Args:
        classifier: a `Classifier`.
        found: list of `kcifar.data.photos.Photo`s. One that cannot be read is left out where it is not named.

    Raises:
        InputError: a named one cannot be read, or not a single one can; the model gives NaN or infinity.
    """
    kept, outputs, unreadable = [], [], []
    bar = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    for start in track(range(0, len(found), _AT_ONCE), "predicting", **bar):
        batch = []
        for photo in found[start : start + _AT_ONCE]:
            try:
                batch.append(photos.read(photo.path, classifier.image_size, classifier.channels))
                kept.append(photo)
            except InputError as error:
                if photo.named:
                    raise
                unreadable.append(str(error))
        if batch:
            outputs += keras.tree.flatten(classifier.model.predict(np.stack(batch), verbose=0))
    if not kept:
        raise InputError(f"none of {len(found):,} images can be read; the first: {unreadable[0]}")
    outputs = np.concatenate(outputs).astype(np.float64)
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        first = kept[finite.argmin()].path
        raise InputError(f"the model gives NaN or infinity for '{first}': it diverged in training; choose another")
    return Predictions(kept, np.exp(log_probabilities(outputs, classifier.model)), unreadable)
