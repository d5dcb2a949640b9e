"""Ends training where the loss is no number any more."""

import math

import keras

from kcifar.errors import InputError


class StopOnNaN(keras.callbacks.Callback):
    """Ends training by an error as soon as the loss is NaN or infinite, before anything of that epoch is saved.

    Keras's `TerminateOnNaN` ends the epoch instead, whose checkpoint is then that of a broken model, and has the device
    read after every step.

    Raises:
        InputError: the loss is no finite number; it says in which epoch and step, both counted from 1.
    """

    # Keras then reads a batch's figures in a thread, and training does not wait for the device after every step.
    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            kept = f"the checkpoint of epoch {self._epoch} stays" if self._epoch else "nothing was saved yet"
            raise InputError(
                f"the loss is {logs['loss']} in epoch {self._epoch + 1} at step {batch + 1} of {self.params['steps']}; "
                f"{kept}. Lower the learning rate, or clip gradients (optimizer.global_clipnorm=1)"
            )
