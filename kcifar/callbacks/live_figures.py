"""The curves of a run while it trains."""

import contextlib
import time

import keras

# The next drawing waits this many times what the last one took, so drawing takes less than 5 % of a run.
_PAUSE = 20


class LiveCurves(keras.callbacks.Callback):
    """Draws `curves.png` after the first epoch, also of a run that is resumed, and then as often as it costs little.

    The last epoch's are left to `kcifar.experiment.train`, which draws them when the run is over. Put it behind the
    callback that keeps the rows.

    Args:
        path: of the picture.
        log: the `RunLog`, whose rows are drawn.
        selected_on: the name of the split that selects the best epoch.
    """

    def __init__(self, path, log, selected_on):
        super().__init__()
        self.path = path
        self.log = log
        self.selected_on = selected_on

    def on_train_begin(self, logs=None):
        self._due = -float("inf")

    def on_epoch_end(self, epoch, logs=None):
        started = time.perf_counter()
        if started < self._due or epoch + 1 == self.params["epochs"]:
            return

        from kcifar.runs import figures  # imports matplotlib, which nobody else needs who imports the callbacks

        with contextlib.suppress(OSError):  # of a full disk: no picture is worth a run
            figures.save(figures.curves(self.log.rows, self.selected_on), self.path)
        ended = time.perf_counter()
        self._due = ended + _PAUSE * (ended - started)
