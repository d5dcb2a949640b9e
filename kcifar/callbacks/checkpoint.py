"""Keeps the best and the last epoch of a run."""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from kcifar.callbacks.early_stopping import better
from kcifar.callbacks.evaluate import is_evaluated
from kcifar.checksum import sha256
from kcifar.data.batches import begin_training_epoch, end_training
from kcifar.errors import InputError
from kcifar.output import warn
from kcifar.runs import generators
from kcifar.runs.last import Last
from kcifar.runs.state import assign, optimizer_of, save_model, save_state


class Diverged(InputError):
    """A training has no finite numbers any more; what is left, and what to do, is said behind `found`.

    Attributes:
        found: what was no number, and when.
        epochs: how many were good.
    """

    def __init__(self, found, epochs):
        kept = f"the checkpoint of epoch {epochs} stays" if epochs else "nothing was saved yet"
        super().__init__(f"{found}; {kept}", "lower the learning rate, or clip gradients (optimizer.global_clipnorm=1)")
        self.found, self.epochs = found, epochs


class Checkpoint(keras.callbacks.Callback):
    """Saves the best model so far, and after every epoch all that an exact resume needs.

    `folder/best.keras` opens in plain Keras, without the optimizer. `folder/last/state.npz` holds weights, moving
    statistics, seeds, optimizer slots (of further optimizers that a model has as attributes too), the state of the
    callbacks named, and that of the global generators of random numbers (Python's, NumPy's, torch's), by which Keras
    shuffles; `folder/last/state-previous.npz` is that of the epoch before. Each is written whole or not at all, and
    tells by its checksum whether it still is.

    Put it behind the callbacks whose figures it watches and whose state it saves:

        checkpoint = Checkpoint("runs/mine", "val_accuracy", stateful=[early_stopping])
        first = checkpoint.resume(model) if again else 0
        model.fit(batches, initial_epoch=first, callbacks=[early_stopping, checkpoint], …)

    The epochs that follow are then those of a training that was not interrupted, to the last bit, on the same machine
    and software: with `kcifar.data.Batches`, which learn the epoch from this callback, and with what begins anew in
    every epoch, as arrays do, whether or not Keras shuffles them. Not with data that keep a place or a generator of
    their own, as Python's generators do; not with `steps_per_epoch` below the number of batches; and not with other
    callbacks that have a state and are not in `stateful`, as `keras.callbacks.ReduceLROnPlateau`.

    Args:
        folder: of the run; made where it does not exist.
        monitor: the figure that tells which epoch is best (see `EarlyStopping`); None: the last one is.
        from_epoch: the first epoch, counted from 1, that may be the best; of a run that ends before, it is the last.
        stateful: callbacks with `state()` and `restore(state)`.
        saved: the model that is saved as the best, where that is not the trained one but shares its weights.
        mode, every: of `monitor`, see `EarlyStopping`.

    Attributes:
        best: the best value so far, or None.
        best_epoch: its epoch counted from 1, or None.
        stopped: whether training was ended before its last epoch (early stopping).
        restored: what `resume` gave to the stateful callbacks, in their order; None for one that begins anew.

    Raises:
        InputError: another `mode`, or a `monitor` that needs one. When training begins: a model that is not compiled,
            or neither functional nor sequential, another first epoch than `resume` gave, `Batches` with another
            `steps_per_epoch` than they have. At the end of an epoch: `monitor` is not in the log, or a weight is NaN
            or infinite.
    """

    def __init__(self, folder, monitor, from_epoch=1, stateful=(), saved=None, mode=None, every=1):
        super().__init__()
        self.folder = Path(folder)
        self.monitor = monitor
        self.from_epoch = from_epoch
        self.stateful = list(stateful)
        self.saved = saved
        self.every = every
        self.best = None
        self.best_epoch = None
        self.stopped = False
        self.restored = []
        self._best_sha256 = None
        self._last = Last(folder)
        self._sign = -1 if monitor and better(monitor, mode) == "min" else 1
        self._resumed = None  # the record of what `resume` gave, until training begins
        self._first_epoch = None  # the one that training has to begin with
        self._epoch = None  # the `TrainingEpoch` that runs

    @property
    def best_path(self):
        """Of the file of the best model."""
        return self._last.best

    def resume(self, model):
        """Gives the compiled model and the stateful callbacks what was saved last; returns the epochs done.

        Where the newest state is damaged it is the one before, and where best.keras is lost it is made again, if the
        states that are kept have it; a warning says so.

        Raises:
            InputError: nothing was saved, or it is damaged or of another model, or best.keras is lost for good.
        """
        state = self._last.read()
        if state is None:
            raise InputError(f"'{self._last.newest}' is missing: nothing to resume from")
        if state.damaged:
            warn(f"{state.damaged}: goes on from the state before, behind epoch {state.record['epochs']}")
        for callback in self.stateful:
            callback.set_model(model)  # what it adds to the model's state has to be there
        assign(model, state)
        record = state.record
        if len(record["callbacks"]) != len(self.stateful):
            raise InputError(
                f"{state.path} holds the state of {len(record['callbacks'])} callbacks, but {len(self.stateful)} "
                "are given; expected those that it was saved with (stateful=[…]), in their order"
            )
        self.best, self.best_epoch, self.stopped = record["best"], record["best_epoch"], record["stopped"]
        self._best_sha256 = record.get("best_sha256")
        self._last.go_on_from(state)
        if not self._last.settle_best(state):
            self._make_best_again(model, state)
        for callback, saved in zip(self.stateful, record["callbacks"], strict=True):
            if saved is not None:  # else it begins anew, in a run that branched off
                callback.restore(saved)
        self._resumed, self.restored = record, record["callbacks"]
        return record["epochs"]

    def _make_best_again(self, model, state):
        """Writes best.keras from the state of its epoch, where that is kept; the model has the state's values after."""
        kept = (found for found in (state, self._last.read_previous()) if found)
        of_best = next((found for found in kept if found.record["epochs"] == self.best_epoch), None)
        if of_best is None:
            raise InputError(
                f"'{self._last.best}', of epoch {self.best_epoch}, is lost or damaged, and '{self._last.folder}' has "
                f"the weights of epoch {state.record['epochs']} alone: start a new run with --out, which gives the same"
            )
        warn(f"'{self._last.best}' was lost or damaged: made again from '{of_best.path}'")
        assign(model, of_best)
        self._save_best(model)
        assign(model, state)
        save_state(self._last, model, state.record | {"best_sha256": self._best_sha256})

    def _save_best(self, model):
        save_model(self.saved or model, self._last.next_best)
        self._best_sha256 = sha256(self._last.next_best)

    def on_train_begin(self, logs=None):
        _expect_savable(self.saved or self.model)
        optimizer_of(self.model)
        self._last.make()
        if self.best_epoch is not None and self.best_epoch < self.from_epoch:
            # It was the last epoch of a training that ended before, and goes on now.
            self.best = self.best_epoch = self._best_sha256 = None
        resumed, self._resumed = self._resumed, None
        self._first_epoch = resumed and resumed["epochs"]
        if resumed and "generators" in resumed:
            generators.restore(resumed["generators"])

    def on_epoch_begin(self, epoch, logs=None):
        if self._first_epoch not in (None, epoch):
            raise InputError(
                f"Checkpoint was resumed behind epoch {self._first_epoch}, but fit begins with epoch {epoch + 1}: give "
                f"it initial_epoch={self._first_epoch}, which resume() returned"
            )
        self._first_epoch = None
        self._epoch = begin_training_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        read, steps = self._epoch.batches_read, self.params["steps"]  # Keras has begun to read, and nothing else yet
        if batch == 0 and read not in (None, steps):
            raise InputError(
                f"Checkpoint: fit(steps_per_epoch={steps}) of Batches that are {read} an epoch cannot be resumed "
                "exactly: leave steps_per_epoch out, or give Batches of fewer images (split.take)"
            )

    def on_train_end(self, logs=None):
        end_training()

    def on_epoch_end(self, epoch, logs=None):
        self._expect_finite(epoch)
        if self._is_best(epoch + 1, logs):
            self.best_epoch = epoch + 1
            self._save_best(self.model)
        self.stopped = self.model.stop_training
        record = {
            "epochs": epoch + 1,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_sha256": self._best_sha256,
            "stopped": self.stopped,
            "callbacks": [callback.state() for callback in self.stateful],
            "generators": generators.states(),
        }
        save_state(self._last, self.model, record)

    def _expect_finite(self, epochs_before):
        """The last step can break weights whose loss nobody has seen yet."""
        if not all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in self.model.weights):
            raise Diverged(f"weights are not finite after epoch {epochs_before + 1}", epochs_before)

    def _is_best(self, epoch, logs):
        if self.monitor is None:
            return True
        if not is_evaluated(epoch - 1, self.every, self.params):
            return False
        if self.monitor not in logs:
            raise InputError(f"Checkpoint(monitor='{self.monitor}'): not in the log, which has {sorted(logs)}")
        value = float(logs[self.monitor])
        if self.best is None:
            # A run that ends before `from_epoch` keeps its last epoch: there is always a best one.
            improved = epoch >= self.from_epoch or epoch == self.params["epochs"] or self.model.stop_training
        else:
            improved = self._sign * value > self._sign * self.best
        if improved:
            self.best = value
        return improved


def _expect_savable(model):
    if not (getattr(model, "inputs", None) and getattr(model, "outputs", None)):
        raise InputError(
            f"Checkpoint: the model '{model.name}' is a {type(model).__name__}, neither functional nor sequential, so "
            "best.keras would not open in plain Keras: give Checkpoint(…, saved=keras.Model(inputs, model(inputs))), "
            "inputs = keras.Input(…)"
        )
