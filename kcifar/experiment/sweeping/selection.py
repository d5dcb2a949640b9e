"""By which figure configurations are compared, and what it is of a run."""

import math

from kcifar.errors import InputError
from kcifar.runs.report import records


class Selection:
    """The figure that a recipe selects on: of its chosen epoch, or of the last where none is chosen.

    Args:
        recipe: resolved.

    Attributes:
        on: the split that it is of, "validation" or "test".
        by: "accuracy" or "loss".
    """

    def __init__(self, recipe, has_validation=True):
        self.on = "test" if recipe.select_on == "test" or not has_validation else "validation"
        self.by = recipe.select_by
        self.chosen = recipe.select_on != "last"

    @property
    def column(self):
        """Its name in log.csv."""
        return f"{self.on}_{self.by}"

    @property
    def direction(self):
        """Optuna's word for which way is better."""
        return "maximize" if self.by == "accuracy" else "minimize"

    def of(self, run):
        """The figure of a run that has ended. Raises InputError where its files are damaged or do not hold it."""
        metrics, rows = records.metrics(run), records.log(run)
        found = metrics.get(self.column) if self.on == "test" else None
        if found is None and rows:
            epoch = metrics.get("best_epoch") if self.chosen else rows[-1]["epoch"]
            found = next((row.get(self.column) for row in rows if row["epoch"] == epoch), None)
        if found is None:
            raise InputError(f"'{run.path}' has no {self.column}: delete it, and it is made again")
        return found

    def diverged(self, run):
        """Why a run has no figure and will have none; "" where it has one, or may have."""
        if run.diverged or not run.complete:
            return run.diverged
        figure = self.of(run)
        return "" if math.isfinite(figure) else f"its {self.column} is {figure}"

    def by_epoch(self, run):
        """The figures of the epochs that have ended, by their numbers; {} where none is logged."""
        return {int(row["epoch"]): row[self.column] for row in records.log(run) if self.column in row}


def has_validation(recipe):
    """Whether a recipe's training has validation images: held out, or the data's own."""
    if recipe.validation or recipe.select_on == "validation":
        return True
    if recipe.select_on == "test":
        return False
    from kcifar import data

    return data.load(recipe.data).validation is not None
