"""The log of a run: a row an epoch in log.csv, times apart."""

import csv
import io
import time
from pathlib import Path

import keras

from kcifar.runs.files import write_text
from kcifar.runs.rows import columns


class RunLog(keras.callbacks.Callback):
    """Writes every figure of every epoch to `log.csv`, whole each time, and times training without evaluation.

    A figure that an epoch does not have is an empty cell.

    Times stay out of `log.csv`, so that a resumed run's is the same as an uninterrupted one's to the last bit. Put it
    behind the callbacks whose figures it writes.

    Args:
        path: of log.csv.
        learning_rate_at: the learning rate of an optimizer step, counted from 0.
        flops_at: a function of an epoch, counted from 0, and its figures, to the floating-point operations of (its
            training, its evaluation); called at its end. None: they are not counted.

    Attributes:
        rows: the rows so far, dicts.
        flops: of training and of evaluation so far; None for what is not known.
        train_seconds: of each epoch, without evaluation.
        feature_seconds: that frozen layers took to run once over each image; `kcifar.experiment.train` adds them up.
    """

    # Keras then reads a batch's figures in a thread, and training does not wait for the device after every step.
    async_safe = True

    def __init__(self, path, learning_rate_at, flops_at=None):
        super().__init__()
        self.path = Path(path)
        self.learning_rate_at = learning_rate_at
        self.flops_at = flops_at
        self.rows = []
        self.flops = (0, 0) if flops_at else (None, None)
        self.train_seconds = []
        self.feature_seconds = 0.0

    def state(self):
        """What `restore` needs."""
        return {
            "rows": self.rows,
            "flops": self.flops,
            "train_seconds": self.train_seconds,
            "feature_seconds": self.feature_seconds,
        }

    def restore(self, state):
        """Goes on behind the rows of `state`."""
        self.rows = state["rows"]
        self.flops = tuple(state.get("flops", (None, None)))  # which runs of earlier versions do not have
        self.train_seconds = state["train_seconds"]
        self.feature_seconds = state["feature_seconds"]

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        # Called when the figures have been read: the step is over, not only begun.
        if batch + 1 == self.params["steps"]:
            self._ended = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.train_seconds.append(self._ended - self._started)
        if self.flops_at:
            self.flops = tuple(map(plus, self.flops, self.flops_at(epoch, logs)))
        last_step = (epoch + 1) * self.params["steps"] - 1
        figures = {name: float(value) for name, value in logs.items()}
        logs["learning_rate"] = self.learning_rate_at(last_step)
        self.rows.append({"epoch": epoch + 1, "learning_rate": logs["learning_rate"], **figures})
        table = io.StringIO()
        writer = csv.DictWriter(table, columns(self.rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, table.getvalue())


def plus(one, other):
    """The sum of two counts; None where one of them is not known."""
    return None if one is None or other is None else one + other
