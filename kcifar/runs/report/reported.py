"""A run with all that its report shows."""

import dataclasses
import functools

from kcifar.runs.folder import RunFolder
from kcifar.runs.report import records


@dataclasses.dataclass(frozen=True, eq=False)
class Reported:
    """A run, what its best model predicts, and what it wrote about itself.

    Args:
        run: its folder; or a `kcifar.runs.saved.SavedModel`, whose metrics, rows, environment and recipe are empty.
        metrics: what its `metrics.json` holds; {} where the run has not ended.
        test: `kcifar.evaluation.scores.Scores` on the test images.
        validation: those on the validation images; None where there are none, or others than it was trained without.
        temperature: fitted on validation; None with `validation`.
        tempered: the scores on the test images with that temperature.
        not_fitted: why there is no temperature; "" where there is one.
    """

    run: RunFolder
    metrics: dict
    test: object
    validation: object = None
    temperature: float | None = None
    tempered: object = None
    not_fitted: str = ""

    @functools.cached_property
    def rows(self):
        """The rows of `log.csv`."""
        return records.log(self.run)

    @functools.cached_property
    def environment(self):
        """What `environment.json` holds."""
        return self.run.began_in()

    @functools.cached_property
    def recipe(self):
        """The resolved recipe; None of a saved model."""
        return self.run.recipe

    @functools.cached_property
    def name(self):
        """The name of its recipe."""
        return records.recipe_name(self.run)

    @property
    def title(self):
        """Its name and, where that is known, its seed."""
        return f"{self.name}, seed {self.recipe.seed}" if self.recipe else self.name

    @property
    def folder(self):
        """The name of its folder."""
        return self.run.path.resolve().name

    @property
    def epochs(self):
        """Behind which epoch it is; None where there is no log."""
        return self.metrics.get("epochs") or (int(self.rows[-1]["epoch"]) if self.rows else None)

    @property
    def selection(self):
        """How its epoch was chosen, in words; "" where that is not known."""
        return {
            "validation": "chosen on validation",
            "test": "chosen on the test set itself: not an honest estimate",
            "last": "the last one, unchosen",
            None: "",
        }[self.selected_on]

    @property
    def selected_on(self):
        """What its epoch was chosen on; None where that is not known."""
        return self.metrics.get("selected_on") or self.run.selected_on
