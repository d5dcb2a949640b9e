"""A training of several processes: the first one writes the run, the others follow."""

import contextlib
import json

import keras

from kcifar import backend
from kcifar.callbacks import StopOnNaN
from kcifar.callbacks.checkpoint import Diverged
from kcifar.callbacks.evaluate import Evaluate
from kcifar.callbacks.interruptible import Interruptible
from kcifar.callbacks.processes import StopTogether, Together
from kcifar.errors import InputError, ProcessLost
from kcifar.experiment.advice import advised
from kcifar.experiment.planning import has_state
from kcifar.runs.last import State
from kcifar.runs.state import arrays_of, assign


@contextlib.contextmanager
def telling():
    """Within it an error of this process, one of several, is told to the others; one of theirs is raised here.

    Raises:
        InputError: another process has failed, with its reason.
    """
    try:
        yield
    except ProcessLost as error:
        told = backend.joined_processes().watch.failed()
        if told is None:
            raise
        rank, cause = told
        if isinstance(cause, Diverged) or backend.is_out_of_memory(cause):
            raise cause from None
        raise InputError(f"process {rank}: {cause}", error.advice) from None
    except Exception as error:
        joined = backend.joined_processes()
        if joined and joined.watch.failed() is None:
            joined.watch.fail(error)
        raise


_MAY_DIFFER = ("device", "threads")


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
    given |= {"data": planned.dataset.fingerprint(), "Keras": keras.__version__} | backend.describe()
    told = planned.processes.told_by_all(given)
    for rank, others in enumerate(told):
        differing = [name for name in told[0] if others.get(name) != told[0][name] and name not in _MAY_DIFFER]
        if differing:
            name = differing[0]
            raise InputError(
                f"process {rank} has other {name} than process 0: {others.get(name)!r:.60}, not {told[0][name]!r:.60}; "
                "start all of them by the same command, on the same data and versions"
            )


def common_callbacks(planned, evaluation):
    """The first callbacks of a training, which each of its processes has."""
    together = Together(planned.processes, planned.recipe.seed) if planned.processes else None
    return [
        Interruptible(),
        together,
        planned.unfreeze,
        planned.freeze,
        planned.weight_ema,
        evaluation,
        *planned.callbacks,
    ]


def last_callbacks(planned):
    """The last ones: where parts of somebody's own may end training in one process, it ends in all."""
    return [StopTogether(planned.processes)] if planned.processes and planned.callbacks else []


def stateful_parts(planned):
    """The callbacks of each process that a resumed training goes on with."""
    own = [callback for callback in planned.callbacks if has_state(callback)]
    return [part for part in (planned.unfreeze, planned.weight_ema, planned.early_stopping, *own) if part]


def begin(planned, done=0, stopped=False, states=(), advice=""):
    """Has all processes begin where the first one is; returns the epochs done, and whether training was stopped.

    Args:
        done, stopped, advice: of the first one, which knows the run.
        states: of its `stateful_parts`, which it has restored; none where it begins.
    """
    processes, model, parts = planned.processes, planned.model, stateful_parts(planned)
    for part in parts:
        part.set_model(model)  # what it adds to the model's state has to be there
    model.optimizer.build(model.trainable_variables)
    told = None
    if processes.rank == 0:
        told = done, stopped, arrays_of(model), list(states), advice
    done, stopped, arrays, states, processes.watch.advice = processes.told_by_first(told)
    if processes.rank:
        assign(model, State("process 0", arrays, {}))
        for part, state in zip(parts, states, strict=True) if states else ():
            if state is not None:  # else it begins anew, in a run that branched off
                part.restore(state)
    return done, stopped


def follow(planned):
    """Trains what was planned in a process that is not the first one, which tells where to begin."""
    recipe = planned.recipe
    evaluation = Evaluate(planned.processes, **planned.evaluated_splits())
    done, stopped = begin(planned)
    if done < recipe.epochs and not stopped:
        planned.part.compute_features(evaluation.splits)
        planned.batches.epoch = done
        callbacks = [*common_callbacks(planned, evaluation), planned.early_stopping, StopOnNaN()]
        fit(planned, [*callbacks, *last_callbacks(planned)], done)
    planned.processes.watch.leave()


def fit(planned, callbacks, done, run=None):
    """Trains what was planned from the epoch behind those that are done.

    Raises:
        InputError: the training diverged, there is no memory left, or another process has failed; what to do is said.
    """
    try:
        with telling() if planned.processes else contextlib.nullcontext():
            planned.model.fit(
                planned.batches,
                shuffle=False,  # they have an order of their own
                epochs=planned.recipe.epochs,
                initial_epoch=done,
                callbacks=[callback for callback in callbacks if callback],
                verbose=0,
            )
    except Exception as error:
        known = advised(error, planned.recipe, run)
        if known is None:
            raise
        raise known from None
