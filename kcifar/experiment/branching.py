"""A new run that goes on from another's last state, with something changed."""

import dataclasses

from kcifar.errors import InputError
from kcifar.experiment import components, own_parts
from kcifar.experiment.planning import Plan, has_state, plan
from kcifar.runs import folder
from kcifar.runs.state import assign, optimizer_of, save_state


@dataclasses.dataclass(frozen=True)
class Branch:
    """A run that is to begin where another is.

    Attributes:
        planned: its `Plan`; the model and the optimizer have the values that the other's had.
        record: what `kcifar.runs.last.State` keeps beside them.
    """

    planned: Plan
    record: dict

    def describe(self):
        """Where it comes from and what will be done, as (name, text) rows."""
        continues = self.record["continues"]
        changed = ", ".join(f"{name} {now}, not {before}" for name, (before, now) in continues["changed"].items())
        start = f"{continues['run']} behind epoch {continues['epochs']}: {changed or 'nothing'} changed"
        return [("continues", start), *self.planned.describe()]

    def write(self, run):
        """Writes into the folder of the new run the state that it begins with."""
        run.last.make()
        save_state(run.last, self.planned.model, self.record)


def branch(run, wanted):
    """A `Branch` of a run.

    It takes the weights, the optimizer's state and the epochs done; its best epoch, its log and its early stopping are
    of the epochs that it trains itself.

    Args:
        run: a `kcifar.runs.folder.RunFolder`; nothing in it is changed.
        wanted: the recipe of the new one.

    Raises:
        InputError: no epoch of the run has ended; there are no further epochs; the model or the optimizer are others,
            or the data's classes; something that the recipe names does not exist or does not fit.
    """
    state = run.last.read()
    if state is None:
        raise InputError(f"no epoch of '{run.path}' has ended, so there is nothing to go on from: train it first")
    done = state.record["epochs"]
    if wanted.epochs <= done:
        raise InputError(
            f"'{run.path}' is behind epoch {done} already, and epochs is {wanted.epochs}: give more, as "
            f"epochs={2 * done}"
        )
    own_parts.go_on(run)
    # The layers that the run never trains are in its best model; what it trains, in its state.
    planned = plan(wanted, run.best if wanted.pretrained and run.best.exists() else None)
    folder.expect_classes([run], planned.dataset)
    before = run.recipe
    _take(state, before, planned)
    record = state.record | {
        "best": None,
        "best_epoch": None,
        "best_sha256": None,
        "stopped": False,
        "callbacks": _states(state.record["callbacks"], before, planned),
        "continues": {"run": str(run.path), "epochs": done, "changed": _changed(before, wanted)},
    }
    return Branch(planned, record)


def _changed(before, wanted):
    """The fields that differ: what they were and are, as a recipe's text."""
    names = [field.name for field in dataclasses.fields(wanted)]
    values = {name: (getattr(before, name), getattr(wanted, name)) for name in names}
    return {name: [_text(old), _text(new)] for name, (old, new) in values.items() if old != new}


def _text(value):
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _take(state, before, planned):
    """Gives the planned model and its optimizer the values of a state of a run by the recipe `before`."""
    wanted, model, arrays = planned.recipe, planned.model, dict(state.arrays)
    if wanted.optimizer.name != before.optimizer.name:
        raise InputError(
            f"optimizer is {wanted.optimizer.name}, which cannot go on with the state of {before.optimizer.name}: "
            "start a new run from the weights alone, with pretrained=RUN/best.keras"
        )
    if wanted.optimizer != before.optimizer:
        arrays.pop("learning_rate", None)  # it is the new one
    if planned.unfreeze:
        planned.unfreeze.set_model(model)  # it adds to the optimizer's state
    assign(model, dataclasses.replace(state, arrays=arrays))
    if before.weight_ema and not wanted.weight_ema:
        _leave_averages(model, before, state)
    # By the new number of batches, where it is another, schedules are where they are after so many epochs.
    optimizer_of(model).iterations.assign(state.record["epochs"] * planned.steps_per_epoch)


def _leave_averages(model, before, state):
    """Gives a model, which has the averages of its weights between epochs, the weights themselves."""
    weight_ema = components.weight_ema(before.weight_ema)
    weight_ema.set_model(model)
    weight_ema.restore(state.record["callbacks"][_parts(before).index("weight_ema")])
    weight_ema.on_epoch_begin(state.record["epochs"])


def _parts(recipe):
    """The parts of a training whose states are kept, in the order of `kcifar.experiment.train`; then come callbacks."""
    there = {
        "unfreeze": recipe.unfreeze_epoch,
        "weight_ema": recipe.weight_ema,
        "log": True,
        "early_stopping": recipe.early_stopping,
    }
    return [name for name, is_there in there.items() if is_there]


def _states(states, before, planned):
    """For the parts of the new run the states that they begin with; None for one that begins anew."""
    wanted, parts = planned.recipe, _parts(before)
    kept = dict(zip(parts, states, strict=False)) | {"log": None, "early_stopping": None}
    if (before.freeze, before.unfreeze_epoch) != (wanted.freeze, wanted.unfreeze_epoch):
        kept["unfreeze"] = None
    further = [None for callback in planned.callbacks if has_state(callback)]
    if before.callbacks == wanted.callbacks:
        further = states[len(parts) :]
    return [*(kept.get(name) for name in _parts(wanted)), *further]
