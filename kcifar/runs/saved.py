"""Runs and saved models, found by their paths: whatever has a best model.

Finding one imports no Keras, which takes seconds.
"""

import re
import zipfile
from pathlib import Path

from kcifar.errors import InputError
from kcifar.runs import folder
from kcifar.runs.folder import RunFolder

_EXPECTED = "a folder that kcifar.train or kcifar.callbacks.Checkpoint wrote, or a .keras file"


class SavedModel:
    """A model of which nothing is known but what is in its file: to be asked for the same as a `RunFolder`.

    Attributes:
        path: of a `.keras` file, or of a folder with best.keras that `Checkpoint` wrote in a script of one's own.
        best: of the model's file.
        report: of its report.
    """

    metrics = log = recipe = source = selected_on = None
    ended = True
    why_no_splits = "it is not known which images it was trained on"

    def __init__(self, path):
        self.path = Path(path)
        in_folder = self.path.is_dir()
        self.best = self.path / "best.keras" if in_folder else self.path
        self.report = self.path / "report.html" if in_folder else Path("report.html")

    def expect_best(self):
        """The path of the model's file."""
        return self.best

    def predictions(self, split, tta="none"):
        """Where a folder keeps its predictions; None for a file, beside which nothing is written."""
        return None if self.best == self.path else RunFolder(self.path).predictions(split, tta)

    @property
    def class_names(self):
        """The names that are in the file, as in an ensemble's; None without."""
        from kcifar.runs.state import class_names_in

        try:
            return class_names_in(self.best)
        except (OSError, zipfile.BadZipFile):
            return None  # damaged: told where it is opened

    def began_in(self):
        """An empty dict: it has no `environment.json`."""
        return {}

    def splits(self, dataset):
        """None: it is not known what it was trained on."""


def find(path):
    """The `RunFolder` or `SavedModel` at `path`; of a run's best.keras the run.

    Raises:
        InputError: there is neither.
    """
    path = Path(path)
    of_run = path.parent if path.name == "best.keras" else path
    if (of_run / "recipe.json").is_file():
        return RunFolder(of_run)
    is_model = (path / "best.keras").is_file() or (path.is_file() and path.suffix == ".keras")
    return SavedModel(path) if is_model else folder.find(path, _EXPECTED)


def find_all(paths):
    """What `find` finds at `paths`, and at each of these that is a folder of such folders, those in it, see `by_value`.

    Paths stay in the order given, but for three or more in that of their letters, which a shell puts `runs/*` into.

    Raises:
        InputError: there is none at one of the paths, or one is named twice.
    """
    paths = list(map(Path, paths))
    if len(paths) > 2 and paths == sorted(paths):
        paths.sort(key=by_value)
    runs = [run for path in paths for run in _at(path)]
    for place, run in enumerate(runs):
        if run.path.resolve() in [other.path.resolve() for other in runs[:place]]:
            raise InputError(f"the run '{run.path}' is named twice; expected each run once")
    return runs


def _at(path):
    own = any((path / name).is_file() for name in ("recipe.json", "best.keras"))
    inside = [] if own else {file.parent for name in ("recipe.json", "best.keras") for file in path.glob(f"*/{name}")}
    return [find(child) for child in sorted(inside, key=by_value)] or [find(path)]


def by_value(path):
    """A key to sort paths by, where numbers count by their value: seed2 before seed10, lr=1e-3 before lr=0.01."""
    parts = [re.split(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)", part) for part in path.parts]
    values = [[float(part) if place % 2 else part for place, part in enumerate(found)] for found in parts]
    return values, path.parts


def source_of(runs):
    """The data source of the first of the runs that has one. Raises InputError where none has."""
    for run in runs:
        if run.source is not None:
            return run.source
    raise InputError(f"'{runs[0].path}' does not say what it was trained on: give its images by --data SOURCE")
