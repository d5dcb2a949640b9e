"""Every epoch's figures for TensorBoard."""

import time
from pathlib import Path

import keras

from kcifar.errors import InputError

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


class TensorBoard(keras.callbacks.Callback):
    """Writes each figure of an epoch's log as a scalar that TensorBoard shows, at the epoch counted from 1.

    `train_accuracy` and `validation_accuracy` (Keras's `val_accuracy`) become `accuracy/train` and
    `accuracy/validation`, one card each; the running `loss` and `accuracy` of training `loss/batches` and
    `accuracy/batches`. They are on the disk when the epoch ends, so a run can be watched. Put it behind the callbacks
    whose figures it writes.

    `keras.callbacks.TensorBoard` needs TensorFlow; this writes the same file by tensorboardX, which needs neither
    TensorFlow nor torch. A file is opened for each training and named after its first epoch. It tells TensorBoard to
    forget that epoch and later ones, so those that an interrupted run wrote and its resumption does again show once.

    Args:
        folder: that `tensorboard --logdir` takes; made where it does not exist.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, folder):
        super().__init__()
        expect_tensorboardx()
        # By its records: its SummaryWriter hands events to a thread, whose queue `flush` does not wait for.
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self.folder = Path(folder)
        self._open, self._event = RecordWriter, event_pb2
        self._summary = summary_pb2.Summary
        self._writer = None

    def on_train_begin(self, logs=None):
        self.close()

    def on_epoch_begin(self, epoch, logs=None):
        if self._writer is None:
            self._begin(epoch + 1)

    def on_epoch_end(self, epoch, logs=None):
        scalars = [self._summary.Value(tag=_tag(name), simple_value=float(value)) for name, value in logs.items()]
        self._write(step=epoch + 1, summary=self._summary(value=scalars))
        self._writer.flush()

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Closes the file. A training that ends by an error does not do that by itself."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, first):
        self.folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        self._writer = self._open(str(self.folder / f"events.out.tfevents.{first:06d}"))
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=first, session_log=start)

    def _write(self, **event):
        self._writer.write(self._event.Event(wall_time=time.time(), **event).SerializeToString())


def expect_tensorboardx():
    """Raises InputError where tensorboardX cannot be imported."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"TensorBoard's files are written by tensorboardX, which cannot be imported ({error}): "
            "pip install 'kcifar[tensorboard]', or leave tensorboard=false"
        ) from None


def _tag(name):
    """A figure's name in TensorBoard, whose cards stand in groups by what is in front of the stroke."""
    split, _, figure = name.partition("_")
    if figure and split in _SPLITS:
        return f"{figure}/{_SPLITS[split]}"
    return name if name == "learning_rate" else f"{name}/batches"
