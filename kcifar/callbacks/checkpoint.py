"""Keeps the best and the last epoch of a run."""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from kcifar.callbacks.early_stopping import better
from kcifar.errors import InputError
from kcifar.runs.state import load_state, save_model, save_state


def after_divergence(epochs):
    """The end of an error of a training that diverged after so many good epochs: what is left, and what to do."""
    kept = f"the checkpoint of epoch {epochs} stays" if epochs else "nothing was saved yet"
    return f"{kept}. Lower the learning rate, or clip gradients (optimizer.global_clipnorm=1)"


class Checkpoint(keras.callbacks.Callback):
    """Saves the best model so far, and after every epoch all that an exact resume needs.

    `folder/best.keras` opens in plain Keras, without the optimizer. `folder/last/state.npz` holds weights, moving
    statistics, seeds, optimizer slots and the callbacks' state. Each is written whole or not at all.

    Put it behind the callbacks whose figures it watches and whose state it saves:

        checkpoint = Checkpoint("runs/mine", "val_accuracy", stateful=[early_stopping])
        first = checkpoint.resume(model) if again else 0
        model.fit(batches, initial_epoch=first, callbacks=[early_stopping, checkpoint], …)

    Args:
        folder: of the run; made where it does not exist.
        monitor: the figure that tells which epoch is best (see `EarlyStopping`); None: the last one is.
        from_epoch: the first epoch, counted from 1, that may be the best; of a run that ends before, it is the last.
        stateful: callbacks with `state()` and `restore(state)`.
        saved: the model that is saved as the best, where that is not the trained one but shares its weights.

    Attributes:
        best: the best value so far, or None.
        best_epoch: its epoch counted from 1, or None.
        stopped: whether training was ended before its last epoch (early stopping).

    Raises:
        InputError: at the end of an epoch: `monitor` is not in the log, or a weight is NaN or infinite.
    """

    def __init__(self, folder, monitor, from_epoch=1, stateful=(), saved=None):
        super().__init__()
        self.folder = Path(folder)
        self.monitor = monitor
        self.from_epoch = from_epoch
        self.stateful = list(stateful)
        self.saved = saved
        self.best = None
        self.best_epoch = None
        self.stopped = False
        self._sign = -1 if monitor and better(monitor) == "min" else 1

    @property
    def best_path(self):
        return self.folder / "best.keras"

    @property
    def state_path(self):
        return self.folder / "last" / "state.npz"

    def resume(self, model):
        """Gives the compiled model and the stateful callbacks what was saved last; returns the epochs done.

        Raises:
            InputError: nothing was saved, or it is damaged or of another model.
        """
        for callback in self.stateful:
            callback.set_model(model)  # what it adds to the model's state has to be there
        record = load_state(self.state_path, model)
        if len(record["callbacks"]) != len(self.stateful):
            raise InputError(
                f"{self.state_path} holds the state of {len(record['callbacks'])} callbacks, but {len(self.stateful)} "
                "are given; expected those that it was saved with (stateful=[…]), in their order"
            )
        self.best, self.best_epoch, self.stopped = record["best"], record["best_epoch"], record["stopped"]
        for callback, state in zip(self.stateful, record["callbacks"], strict=True):
            callback.restore(state)
        return record["epochs"]

    def on_train_begin(self, logs=None):
        self.state_path.parent.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        self._expect_finite(epoch)
        if self._is_best(epoch + 1, logs):
            self.best_epoch = epoch + 1
            save_model(self.saved or self.model, self.best_path)
        self.stopped = self.model.stop_training
        record = {
            "epochs": epoch + 1,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "callbacks": [callback.state() for callback in self.stateful],
        }
        save_state(self.state_path, self.model, record)

    def _expect_finite(self, epochs_before):
        """The last step can break weights whose loss nobody has seen yet."""
        if not all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in self.model.weights):
            raise InputError(
                f"weights are not finite after epoch {epochs_before + 1}; {after_divergence(epochs_before)}"
            )

    def _is_best(self, epoch, logs):
        if self.monitor is None:
            return True
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
