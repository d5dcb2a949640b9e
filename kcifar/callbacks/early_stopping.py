"""Early stopping that a resumed run continues."""

import keras

from kcifar.errors import InputError


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Ends training when a figure has not improved for a number of epochs; the best epoch is `Checkpoint`'s to keep.

    Keras's own, which forgets its count when a run is resumed.

    Args:
        patience: epochs without improvement, at least 1.
        monitor: the figure's name in the log; larger is better where it ends in "accuracy", smaller where in "loss".

    Raises:
        InputError: a patience below 1, or a figure of which it cannot be told what is better.
    """

    def __init__(self, patience, monitor):
        if patience < 1:
            raise InputError(f"EarlyStopping(patience={patience}): expected at least 1 epoch")
        super().__init__(monitor, patience=patience, mode=better(monitor))
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
        for name, value in self._restored.items():
            setattr(self, name, value)


def better(monitor):
    """'max' or 'min': which values of a logged figure are the better ones, told by its name."""
    for ending, mode in (("accuracy", "max"), ("loss", "min")):
        if monitor.endswith(ending):
            return mode
    raise InputError(f"monitor is '{monitor}'; expected a figure of the log whose name ends in 'accuracy' or 'loss'")
