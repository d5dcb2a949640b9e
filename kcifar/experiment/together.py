"""A training of several processes: the first one writes the run, the others follow."""

import json

import keras

from kcifar.callbacks import StopOnNaN
from kcifar.callbacks.evaluate import Evaluate
from kcifar.callbacks.interruptible import Interruptible
from kcifar.callbacks.processes import Together
from kcifar.errors import InputError
from kcifar.experiment.planning import has_state
from kcifar.runs.last import State
from kcifar.runs.state import arrays_of, assign


def leads(planned):
    """Whether this process, first of several or alone, writes the run.

    Raises:
        InputError: the processes were given different recipes or data, or have other versions of Keras.
    """
    if planned.processes:
        _expect_alike(planned)
    return not planned.processes or planned.processes.rank == 0


def _expect_alike(planned):
    given = json.loads(planned.recipe.to_json())
    given |= {"images": planned.dataset.train.fingerprint, "keras": keras.__version__}
    told = planned.processes.told_by_all(given)
    for rank, others in enumerate(told):
        differing = [name for name in told[0] if others.get(name) != told[0][name]]
        if differing:
            name = differing[0]
            raise InputError(
                f"process {rank} has other {name} than process 0: {others.get(name)!r:.60}, not {told[0][name]!r:.60}; "
                "start all of them by the same command, on the same data and versions"
            )


def common_callbacks(planned, evaluation):
    """The first callbacks of a training, which each of its processes has."""
    together = Together(planned.processes) if planned.processes else None
    return [Interruptible(), together, planned.unfreeze, planned.weight_ema, evaluation, *planned.callbacks]


def stateful_parts(planned):
    """The callbacks of each process that a resumed training goes on with."""
    own = [callback for callback in planned.callbacks if has_state(callback)]
    return [part for part in (planned.unfreeze, planned.weight_ema, planned.early_stopping, *own) if part]


def begin(planned, done=0, stopped=False):
    """Has all processes begin where the first one is; returns the epochs done, and whether training was stopped.

    Args:
        done, stopped: of the first one.
    """
    processes, model, parts = planned.processes, planned.model, stateful_parts(planned)
    for part in parts:
        part.set_model(model)  # what it adds to the model's state has to be there
    model.optimizer.build(model.trainable_variables)
    told = None
    if processes.rank == 0:
        told = done, stopped, arrays_of(model), [part.state() for part in parts] if done else None
    done, stopped, arrays, states = processes.told_by_first(told)
    if processes.rank:
        assign(model, State("process 0", arrays, {}))
        for part, state in zip(parts, states or [], strict=bool(states)):
            part.restore(state)
    return done, stopped


def follow(planned):
    """Trains what was planned in a process that is not the first one, which tells where to begin."""
    recipe = planned.recipe
    evaluation = Evaluate(planned.processes, **planned.evaluated_splits())
    done, stopped = begin(planned)
    if done >= recipe.epochs or stopped:
        return
    planned.part.compute_features(evaluation.splits)
    planned.batches.epoch = done
    callbacks = [*common_callbacks(planned, evaluation), planned.early_stopping, StopOnNaN()]
    planned.model.fit(
        planned.batches,
        shuffle=False,
        epochs=recipe.epochs,
        initial_epoch=done,
        callbacks=[callback for callback in callbacks if callback],
        verbose=0,
    )
