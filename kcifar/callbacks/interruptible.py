"""Ctrl-C in a training: the batch that runs ends first."""

import keras

from kcifar.interrupts import interrupts


class Interruptible(keras.callbacks.Callback):
    """Ends training by KeyboardInterrupt between two batches, where a signal arrived in one of them.

    Put it first: what other callbacks do behind an epoch is interrupted at once.
    """

    def on_train_batch_begin(self, batch, logs=None):
        # Not `on_train_batch_end`: for that, Keras would read every figure of the step from the device first.
        interrupts.wait(True)

    def on_epoch_end(self, epoch, logs=None):
        interrupts.wait(False)
