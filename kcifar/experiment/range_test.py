"""The learning-rate range test (Smith 2017, arXiv 1506.01186, section 3.3): at which rates a recipe learns at all."""

import csv
import dataclasses
import io
import math
from pathlib import Path

import keras
import numpy as np

from kcifar import backend
from kcifar.errors import InputError, one_line
from kcifar.experiment.planning import plan
from kcifar.runs import figures
from kcifar.runs.files import write_text
from kcifar.runs.state import optimizer_of

LOWEST, HIGHEST = 1e-6, 10.0
_MEMORY = 0.98  # of the mean of the losses, as fastai has it
_EXPLODED = 4  # times the lowest mean: as fastai ends it
_FEWEST = 20  # steps


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """What a range test found.

    Attributes:
        rates: the learning rate of each step, float64 (steps,).
        losses: of each batch, float64 (steps,).
        means: their exponential mean, see `smoothed`.
        steepest: the rate at which the mean falls fastest by the logarithm of the rate; None where it never falls.
        lowest: the rate at which the mean is lowest.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def means(self):
        return smoothed(self.losses)

    @property
    def lowest(self):
        return float(self.rates[self._lowest])

    @property
    def steepest(self):
        fall = slice(self._first, self._lowest + 1)
        if fall.stop - fall.start < 3:
            return None
        slopes = np.gradient(self.means[fall], np.log10(self.rates[fall]))
        return float(self.rates[fall][slopes.argmin()]) if slopes.min() < 0 else None

    @property
    def _first(self):
        return len(self.rates) // 10  # before it the mean is one of few batches

    @property
    def _lowest(self):
        return self._first + int(self.means[self._first :].argmin())


def smoothed(losses):
    """The mean of the losses so far, in which each counts 0.98 times as much as the next: float64, (steps,).

    Without the weight of a start at 0, as Adam corrects its means; so in fastai's `lr_find`. The paper draws accuracy
    by the rate, not smoothed.
    """
    mean, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        found.append(mean / (1 - _MEMORY**step))
    return np.array(found)


def range_test(recipe):
    """Trains a recipe for an epoch in which the learning rate grows by the same factor in each step, from 1e-6 to 10.

    By its own model, data, transforms, loss, optimizer and SAM; no schedule, no weight average, nothing is saved. It
    ends where the smoothed loss is four times its lowest, or is no number.

    Args:
        recipe: resolved.

    Returns:
        A `RangeTest`.

    Raises:
        InputError: the epoch has fewer than 20 steps, or whatever `plan` raises.
    """
    planned = plan(dataclasses.replace(recipe, schedule=None, early_stopping=None, epochs=1, unfreeze_epoch=None))
    steps = len(planned.batches)
    if steps < _FEWEST:
        raise InputError(
            f"an epoch has {steps} steps of batch_size={recipe.batch_size}; expected {_FEWEST} or more for a range "
            "test: take smaller batches"
        )
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    optimizer_of(planned.model).learning_rate = keras.optimizers.schedules.ExponentialDecay(
        LOWEST, steps - 1, HIGHEST / LOWEST
    )
    watch = _Losses(recipe.batch_size, len(planned.batches.split), recipe.drop_last)
    try:
        planned.model.fit(planned.batches, shuffle=False, epochs=1, callbacks=[watch], verbose=0)
    except Exception as error:
        if backend.is_out_of_memory(error):
            raise InputError(f"out of memory ({one_line(error)[:80]}): give a smaller batch_size") from None
        raise
    if not watch.losses:
        raise InputError(f"the loss of the first batch is no number, at a learning rate of {LOWEST}: look at the data")
    return RangeTest(rates[: len(watch.losses)], np.array(watch.losses))


class _Losses(keras.callbacks.Callback):
    """The loss of each batch, which Keras tells as the mean of all batches so far; ends the epoch where it explodes."""

    def __init__(self, batch_size, images, drop_last):
        super().__init__()
        self._batch_size, self._images, self._drop_last = batch_size, images, drop_last
        self._sum, self._seen, self._mean, self._lowest = 0.0, 0, 0.0, math.inf
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        rest = self._images - self._seen
        size = self._batch_size if self._drop_last else min(self._batch_size, rest)
        self._seen += size
        total = float(logs["loss"]) * self._seen
        loss = (total - self._sum) / size
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self._sum = total
        self.losses.append(loss)
        self._mean = smoothed(self.losses)[-1]
        self._lowest = min(self._lowest, self._mean)
        self.model.stop_training = self._mean > _EXPLODED * self._lowest


def write(found, folder):
    """Writes `range_test.png` and `range_test.csv`; the picture's path.

    Raises:
        InputError: nothing can be written there.
    """
    folder = Path(folder)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("learning_rate", "loss", "smoothed_loss"))
    writer.writerows(zip(*(each.tolist() for each in (found.rates, found.losses, found.means)), strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "range_test.csv", table.getvalue())
        figures.save(figures.range_test(found), folder / "range_test.png")
    except OSError as error:
        raise InputError(f"cannot write to '{folder}': {error.strerror or error}; choose another --out") from None
    return folder / "range_test.png"
