"""A progress bar or lines while an epoch runs, and a line when it is over."""

import threading
import time

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kcifar.output import drop_output

# Reading a loss waits for the device, so the bar is drawn this often at most.
_SECONDS_BETWEEN_UPDATES = 0.5
_SECONDS_BETWEEN_LINES = 60


class _Console(Console):
    """Prints to nowhere once the reader of the output is gone, as in `| head`; rich's own ends the process."""

    def on_broken_pipe(self):
        drop_output()


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, accuracy, learning rate, images per second and the time left of the whole run.

    On a terminal a bar while the epoch runs, elsewhere a line a minute; everywhere a line an epoch. Put it last, so
    that this line has all figures.

    Args:
        learning_rate_at: the learning rate of an optimizer step, counted from 0.
        images_per_epoch: images that training sees in an epoch.
        batch_size: images in a batch.
        every: batches after which a line is printed, with loss, accuracy and the images behind it; None for a line a
            minute where there is no bar.
        console: a rich `Console`; a new one on stdout where None.
    """

    # Keras then reads a batch's figures in a thread, and training does not wait for the device after every step.
    async_safe = True

    def __init__(self, learning_rate_at, images_per_epoch, batch_size, every=None, console=None):
        super().__init__()
        self.learning_rate_at = learning_rate_at
        self.images_per_epoch = images_per_epoch
        self.batch_size = batch_size
        self.every = every
        self.console = console or _Console(highlight=False, markup=False, emoji=False)
        self._bar = None
        self._lock = threading.Lock()

    def on_train_begin(self, logs=None):
        self._run_started, self._epochs_before = time.perf_counter(), None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._epochs_before = epoch if self._epochs_before is None else self._epochs_before
        self._epoch_started = self._updated = self._printed = time.perf_counter()
        self._lines, self._next = {}, 1
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(24),
                TextColumn("{task.fields[figures]}", markup=False),
            )
            self._bar = Progress(*columns, console=self.console, auto_refresh=False, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._name(), total=self.params["steps"], figures="")

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        last = batch + 1 == self.params["steps"]
        if last:
            self._train_seconds = now - self._epoch_started
        if self.every is not None:
            if (batch + 1) % self.every == 0:
                self._print_in_order({(batch + 1) // self.every: self._line(batch, logs, now)})
        elif self._bar is None and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self.console.print(self._line(batch, logs, now), soft_wrap=True)
        if self._bar is not None and (last or now - self._updated >= _SECONDS_BETWEEN_UPDATES):
            self._updated = now
            self._bar.update(self._task, completed=batch + 1, figures=self._figures(batch, logs, now))
            self._bar.refresh()

    def _print_in_order(self, line_of):
        """Prints the lines that are next. Keras may tell of a batch in a thread that overtakes another's."""
        with self._lock:
            self._lines |= line_of
            while self._next in self._lines:
                self.console.print(self._lines.pop(self._next), soft_wrap=True)
                self._next += 1

    def _line(self, batch, logs, now):
        seen = min((batch + 1) * self.batch_size, self.images_per_epoch)
        accuracy = float(logs["accuracy"])
        return (
            f"{self._name()}  batch {batch + 1:,}/{self.params['steps']:,}  loss {float(logs['loss']):.4f}  "
            f"accuracy {accuracy:.2%} ({round(accuracy * seen):,} of {seen:,})  "
            f"{seen / (now - self._epoch_started):,.0f} images/s  {_duration(now - self._run_started)}"
        )

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        accuracies = [
            f"{name.removesuffix('_accuracy')} {value:.2%}"
            for name, value in logs.items()
            if name.endswith("_accuracy")
        ] or [f"training batches {logs['accuracy']:.2%}"]
        seconds = time.perf_counter() - self._epoch_started
        speed = self.images_per_epoch / self._train_seconds
        self.console.print(
            f"{self._name()}  loss {logs['loss']:.4f}  accuracy: {', '.join(accuracies)}  "
            f"lr {logs['learning_rate']:.3g}  {speed:,.0f} images/s  {_duration(seconds)}  "
            f"left {_duration(self._seconds_left(epoch + 1))}",
            soft_wrap=True,
        )

    def close(self):
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _name(self):
        return f"epoch {self._epoch + 1}/{self.params['epochs']}"

    def _figures(self, batch, logs, now):
        done = (batch + 1) / self.params["steps"]
        speed = done * self.images_per_epoch / (now - self._epoch_started)
        rate = self.learning_rate_at(self._epoch * self.params["steps"] + batch)
        return (
            f"loss {float(logs['loss']):.4f}  accuracy {float(logs['accuracy']):.2%}  lr {rate:.3g}  "
            f"{speed:,.0f} images/s  left {_duration(self._seconds_left(self._epoch + done))}"
        )

    def _seconds_left(self, epochs_done):
        """From the mean speed of this session, evaluation included."""
        done = epochs_done - self._epochs_before
        return (time.perf_counter() - self._run_started) / done * (self.params["epochs"] - epochs_done)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min {seconds:02d} s"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
