"""Early stopping that a resumed run continues."""

import re

import keras

from kcifar.callbacks.evaluate import is_evaluated
from kcifar.errors import InputError

_ENDINGS = {
    "max": ("accuracy", "acc", "auc", "precision", "recall", "f1_score", "fbeta_score", "iou"),
    "min": ("loss", "error", "mse", "mae", "divergence", "crossentropy"),
}


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Ends training when a figure has not improved for a number of epochs; the best epoch is `Checkpoint`'s to keep.

    Keras's own, which forgets its count when a run is resumed.

    Args:
        patience: epochs without improvement, at least 1.
        monitor: the figure's name in the log.
        mode: "max" where larger values are better, "min" where smaller ones are; None: told by the name
            where that ends as those of accuracies, areas under curves, F-scores, losses or errors do.
        every: epochs after which there is the figure, and after the last, see `kcifar.callbacks.evaluate`: the others
            are passed over, and not counted.

    Raises:
        InputError: a patience below 1, another mode, or a figure of which it cannot be told what is better.
    """

    def __init__(self, patience, monitor, mode=None, every=1):
        if patience < 1:
            raise InputError(f"EarlyStopping(patience={patience}): expected at least 1 epoch")
        super().__init__(monitor, patience=patience, mode=better(monitor, mode))
        self.every = every
        self._restored = {}

    def state(self):
        """What `restore` needs: epochs waited, best value and its epoch."""
        return {
            "wait": self.wait,
            "best": None if self.best is None else float(self.best),
            "best_epoch": self.best_epoch,
        }

    def restore(self, state):
        """Goes on from `state` when training begins."""
        self._restored = state

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        restored, self._restored = self._restored, {}  # a second `fit` begins anew
        for name, value in restored.items():
            setattr(self, name, value)

    def on_epoch_end(self, epoch, logs=None):
        if is_evaluated(epoch, self.every, self.params):
            super().on_epoch_end(epoch, logs)


def better(monitor, mode=None):
    """'max' or 'min': which values of a logged figure are the better ones; by its name, where no mode says it.

    Larger ones of names that end as Keras's accuracies, areas under curves, precisions, recalls, F-scores and overlaps
    do; smaller ones of losses, errors, divergences and cross-entropies. Keras's number behind a name does not count.
    """
    if mode in ("max", "min"):
        return mode
    if mode is not None:
        raise InputError(f"mode is '{mode}'; expected max, min, or None where the name of '{monitor}' says which")
    name = re.sub(r"_\d+$", "", monitor)
    for found, endings in _ENDINGS.items():
        if name.endswith(endings):
            return found
    raise InputError(
        f"monitor is '{monitor}', of which the name does not say which values are better; expected mode='max' or "
        "mode='min' beside it, or a name that ends as accuracy, auc or loss do"
    )
