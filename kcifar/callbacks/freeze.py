"""Layers that are trained no longer from an epoch on."""

import keras

from kcifar.errors import InputError
from kcifar.models.freezing import group_names, layers_of


class Freeze(keras.callbacks.Callback):
    """Trains groups of layers for a number of epochs and then no longer (see `kcifar.models.freeze`).

    Their weights stay from then on, get no gradients and no decay, and where nothing in front of them is trained either
    no backward pass goes through them. The optimizer goes on with the others. It has no state of its own: a training
    that is resumed behind that epoch freezes them when it begins.

        model.fit(…, callbacks=[Freeze(3, ["stem"])])

    Args:
        epoch: for how many epochs they are trained, at least 1.
        groups: names, or one.

    Raises:
        InputError: an epoch below 1; when training begins, an unknown group.
    """

    def __init__(self, epoch, groups):
        super().__init__()
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 1:
            raise InputError(f"Freeze(epoch={epoch!r}): expected a whole number of epochs, at least 1")
        self.epoch = epoch
        self.groups = group_names(groups)

    def on_train_begin(self, logs=None):
        self._layers = layers_of(self.model, self.groups)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= self.epoch:
            for layer in self._layers:
                layer.trainable = False

    def state(self):
        """Nothing."""

    def restore(self, state):
        """Nothing to restore."""
