"""Layers that are trained from a later epoch on."""

import keras
from keras import ops

from kcifar.errors import InputError
from kcifar.models.freezing import group_names, layers_of


class Unfreeze(keras.callbacks.Callback):
    """Trains frozen groups of layers too, after a number of epochs (see `kcifar.models.freeze`).

    The optimizer goes on with what it holds, and its learning rate with its schedule; weights that it has not trained
    yet start with slots of 0 and, in Adam, with a count of steps of their own: as in PyTorch where `requires_grad` is
    set. Those that it trained before they were frozen go on, with the optimizer's count (PyTorch's would have stood).
    To resume exactly, give it to `Checkpoint(stateful=[unfreeze])`.

        kcifar.models.freeze(model, ["stem", "layer1"])
        model.compile(kcifar.training.SGD(0.01, momentum=0.9), …)
        model.fit(…, callbacks=[Unfreeze(5, ["stem", "layer1"])])

    Args:
        epoch: how many epochs they stay frozen, at least 1.
        groups: names, or one.

    Raises:
        InputError: an epoch below 1; when training begins, an unknown group, one of which nothing is frozen, or an
            optimizer other than kcifar's, which could not take more weights.
    """

    def __init__(self, epoch, groups):
        super().__init__()
        if not isinstance(epoch, int) or epoch < 1:
            raise InputError(f"Unfreeze(epoch={epoch!r}): expected a whole number of epochs, at least 1")
        self.epoch = epoch
        self.groups = group_names(groups)
        self._optimizer = None
        self._first_step = None  # of the optimizer with them

    def state(self):
        """What `restore` needs: the step at which it was done."""
        return {"first_step": self._first_step}

    def restore(self, state):
        """Goes on from `state` when training begins."""
        self._first_step = state["first_step"]

    def set_model(self, model):
        """Takes the model, and has its optimizer make slots for all that will be trained."""
        super().set_model(model)
        if model.optimizer is not self._optimizer:
            self._frozen = self._frozen_layers(model)
            self._extend(model)
            self._optimizer, self._first_step = model.optimizer, None

    def _frozen_layers(self, model):
        of_group = {group: [x for x in layers_of(model, group) if not x.trainable] for group in self.groups}
        for group, layers in of_group.items():
            if not layers:
                raise InputError(
                    f"Unfreeze: nothing of the group '{group}' is frozen in '{model.name}': freeze it first"
                )
        return [layer for layers in of_group.values() for layer in layers]

    def _extend(self, model):
        optimizer = model.optimizer
        if not hasattr(optimizer, "extend"):
            name = type(optimizer).__name__
            raise InputError(f"Unfreeze got a model compiled with {name}; expected kcifar.training.SGD, Adam or Muon")
        optimizer.build(model.trainable_variables)
        self._set_trainable(True)
        variables = model.trainable_variables
        self._set_trainable(False)
        self._added = optimizer.extend(variables, model.variables)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch < self.epoch or all(layer.trainable for layer in self._frozen):
            return
        optimizer = self.model.optimizer
        if self._first_step is None:
            self._first_step = int(ops.convert_to_numpy(optimizer.iterations))
        self._set_trainable(True)
        optimizer.train_from(self._added, self._first_step)

    def _set_trainable(self, value):
        for layer in self._frozen:
            layer.trainable = value
