"""A run that goes on: from where, with which weights, and for how long."""

import dataclasses

from kcifar.callbacks.evaluate import is_evaluated
from kcifar.data.sources import NoSourceError
from kcifar.errors import InputError
from kcifar.experiment import own_parts
from kcifar.experiment.planning import plan
from kcifar.output import warn
from kcifar.runs import folder
from kcifar.runs.files import write_text
from kcifar.runs.report import records


def plan_again(run, wanted, start=None):
    """The `Plan` of a run that goes on.

    Args:
        run: a `kcifar.runs.folder.RunFolder`.
        wanted: its recipe, perhaps with more epochs, or with its data in another place.
        start: of its best model's file, where layers that it never trains are taken from there.

    Raises:
        InputError: something that the recipe names is not there any more, or another; or the schedule of a run would
            have been another, had it been made for so many epochs.
    """
    if not run.begun:
        own_parts.expect_recorded(run, wanted)
    own_parts.go_on(run)
    try:
        planned = plan(wanted, start)
    except NoSourceError as error:
        raise InputError(f"{error}. Where the data of '{run.path}' have moved, give them by --data") from None
    own_parts.expect_unchanged(run, wanted)
    if wanted.epochs != run.recipe.epochs:
        _expect_same_rates(run, planned)
    return planned


def go_on(run, wanted, tell):
    """The `Plan` of a run that goes on, whose folder is made ready for it: nobody else may write there.

    Args:
        run, wanted: see `plan_again`.
        tell: called with the rows that say what will be done.

    Raises:
        InputError: see `plan_again` and `kcifar.runs.folder.record_resume`.
    """
    state, start = run.last.read(), start_of(run, wanted)
    if state and wanted.epochs != run.recipe.epochs:
        _expect_open_end(run, state.record, wanted.epochs)
    planned = plan_again(run, wanted, start)
    tell(planned.describe())
    if run.begun:
        folder.record_resume(run, planned.dataset, from_start=start is None)
    else:
        folder.begin(run, wanted, planned.dataset)
    if wanted.epochs != run.recipe.epochs:
        _extend(run, planned)
    return planned


def start_of(run, wanted):
    """The file of the run's best model, where layers that it never trains are taken from there; else None."""
    state = run.last.read()
    has_best = state is not None and run.last.settle_best(state)
    # What it trains is in last/.
    return run.best if has_best and run.best.exists() and wanted.pretrained else None


def _expect_open_end(run, record, epochs):
    """Raises InputError where a run of so many epochs would not have been at this state of the run."""
    done, every = record["epochs"], run.recipe.evaluate_every
    advice = "add --out to go on from there in a new run"
    if record["stopped"]:
        raise InputError(
            f"'{run.path}' was ended by early stopping behind epoch {done} of {run.recipe.epochs}: "
            f"with epochs={epochs} it would have ended there too; {advice}"
        )
    if done == run.recipe.epochs and not is_evaluated(done - 1, every, {"epochs": epochs}):
        raise InputError(
            f"'{run.path}' evaluated epoch {done} because it was the last; with epochs={epochs} and "
            f"evaluate_every={every} it would not have: {advice}"
        )


def _expect_same_rates(run, planned):
    """Raises InputError where a schedule of so many epochs has other rates in those that are done already."""
    steps = planned.steps_per_epoch
    for row in records.log(run):
        epoch = int(row["epoch"])
        if row["learning_rate"] != planned.learning_rate_at(epoch * steps - 1):
            raise InputError(
                f"schedule is {planned.recipe.schedule}, by which epoch {epoch} of {planned.recipe.epochs} has another "
                f"learning rate than it had of {run.recipe.epochs}: "
                f"start a new run with epochs={planned.recipe.epochs}, or add --out to go on from "
                "this one's last epoch all the same"
            )


def _extend(run, planned):
    """Has a run be one of more epochs."""
    epochs, schedule = planned.recipe.epochs, planned.recipe.schedule
    how = f"{schedule} goes on as in a run of that length" if schedule else "the learning rate stays as it is"
    warn(f"'{run.path}' is trained for {epochs} epochs, not {run.recipe.epochs}: {how}")
    run.metrics.unlink(missing_ok=True)  # first, as it says that the run has ended
    write_text(run.recipe_json, dataclasses.replace(run.recipe, epochs=epochs).to_json())
