"""Ends training where the loss is no number any more."""

import math
import threading

import keras

from kcifar.callbacks.checkpoint import Diverged
from kcifar.errors import InputError


class StopOnNaN(keras.callbacks.Callback):
    """Ends training by an error as soon as the loss is NaN or infinite, before anything of that epoch is saved.

    Keras's `TerminateOnNaN` ends the epoch instead, whose checkpoint is then that of a broken model, and has the device
    read after every step.

    Raises:
        InputError: the loss is no finite number; it says in which epoch and first in which step, both counted from 1.
    """

    # Keras then reads a batch's figures in threads, in any order, and training does not wait for the device after every
    # step. What is raised there ends `fit` at one of the next steps, or else before any callback's `on_epoch_end`.
    async_safe = True

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._finite = 0  # calls whose loss was finite
        self._first = None  # (step, loss) of the first one so far that was not

    def on_train_batch_end(self, batch, logs=None):
        if "loss" not in logs:
            raise InputError(f"StopOnNaN: a step's figures are {sorted(logs)}; expected 'loss' among them")
        loss = logs["loss"]
        with self._lock:
            if math.isfinite(loss):
                self._finite += 1
            elif self._first is None or batch < self._first[0]:
                self._first = batch, loss
            if self._first and self._finite >= self._first[0] // self._model.steps_per_execution:
                raise Diverged(self._found(*self._first), self._epoch)

    def _found(self, step, loss):
        of_all = f" of {self.params['steps']}" if self.params["steps"] else ""
        return f"the loss is {loss} in epoch {self._epoch + 1} at step {step + 1}{of_all}"
