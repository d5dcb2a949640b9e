"""Cyclic learning rates."""

import math

import keras
from keras import ops

from kcifar.backend.keras_internals import innermost, schedule_of, set_learning_rate
from kcifar.errors import InputError, nearest

_MODES = ("triangular", "triangular2", "exp_range")
_UNITS = ("batch", "epoch")


class CyclicLR(keras.callbacks.Callback):
    """Moves the learning rate up and down between two bounds, as `torch.optim.lr_scheduler.CyclicLR`.

    Smith 2017, arXiv 1506.01186. With u steps up and d down, at step t: c = ⌊t/(u+d)⌋, p = t − c·(u+d), and
    lr = base + (maximum − base)·k·(p/u if p ≤ u else (u+d−p)/d), where k = 1 (`triangular`), 1/2^c (`triangular2`) or
    γ^t (`exp_range`). Momentum is not cycled.

    It gives the optimizer a schedule of its own step count when training begins, so a resumed run needs nothing saved.
    When training ends the optimizer has a plain rate again: that of the next step, as PyTorch's scheduler leaves it.

    Args:
        base, maximum: the two learning rates, 0 ≤ base ≤ maximum.
        step_size_up: u, whole steps, at least 1.
        step_size_down: d, whole steps, at least 1; the same as `step_size_up` where None.
        mode: `triangular`, `triangular2` or `exp_range`.
        gamma: γ of `exp_range`, in (0, 1].
        unit: what a step is: a `batch`, or an `epoch` (where a PyTorch program calls `scheduler.step()` once an epoch).

    Raises:
        InputError: an argument outside its range; when training begins, where the unit is an epoch and Keras does not
            know how many steps it has, or where the optimizer has a schedule already.
    """

    def __init__(self, base, maximum, step_size_up, step_size_down=None, mode="triangular", gamma=1.0, unit="batch"):
        super().__init__()
        step_size_down = step_size_up if step_size_down is None else step_size_down
        for name, value, known in (("mode", mode, _MODES), ("unit", unit, _UNITS)):
            if value not in known:
                raise InputError(f"CyclicLR(…, {name}='{value}'): unknown {name}; {nearest(str(value), known)}")
        if not 0 <= base <= maximum < math.inf:
            raise InputError(f"CyclicLR(base={base}, maximum={maximum}): expected 0 ≤ base ≤ maximum, both finite")
        for name, value in (("step_size_up", step_size_up), ("step_size_down", step_size_down)):
            if not (isinstance(value, int) and value >= 1) or isinstance(value, bool):
                raise InputError(f"CyclicLR(…, {name}={value}): expected a whole number of steps, at least 1")
        if not 0 < gamma <= 1:
            raise InputError(f"CyclicLR(…, gamma={gamma}): expected a number above 0, at most 1")
        self.base = base
        self.maximum = maximum
        self.step_size_up = step_size_up
        self.step_size_down = step_size_down
        self.mode = mode
        self.gamma = gamma
        self.unit = unit

    def learning_rate_at(self, step):
        """The learning rate at a step, counted from 0 in the callback's unit: float."""
        cycle, place = divmod(step, self.step_size_up + self.step_size_down)
        if place <= self.step_size_up:
            height = place / self.step_size_up
        else:
            height = (self.step_size_up + self.step_size_down - place) / self.step_size_down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]
        return self.base + (self.maximum - self.base) * height * scale

    def schedule(self, steps_per_epoch):
        """The learning rate as a function of the optimizer's step, for epochs of that many steps."""
        batches = 1 if self.unit == "batch" else steps_per_epoch
        return CyclicSchedule(
            self.base,
            self.maximum,
            self.step_size_up,
            self.step_size_down,
            self.mode,
            self.gamma,
            batches,
        )

    def on_train_begin(self, logs=None):
        if self.unit == "epoch" and self.params["steps"] is None:
            raise InputError(
                "CyclicLR(unit='epoch') has to know the steps of an epoch, which Keras cannot tell of these data: give "
                "fit(…, steps_per_epoch=…)"
            )
        optimizer = innermost(self.model.optimizer)
        own = schedule_of(optimizer)
        if own is not None and not isinstance(own, CyclicSchedule):  # one of these stays where a training broke off
            raise InputError(
                f"CyclicLR: the optimizer has a schedule, {type(own).__name__}, which would be lost: leave one of the "
                "two out, or give the optimizer a number"
            )
        optimizer.learning_rate = self.schedule(self.params["steps"])
        # A step that JAX compiled in an earlier `fit` has that one's schedule in it.
        self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        optimizer = innermost(self.model.optimizer)
        set_learning_rate(optimizer, float(ops.convert_to_numpy(optimizer.learning_rate)))
        self.model.make_train_function(force=True)


@keras.saving.register_keras_serializable("kcifar")
class CyclicSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`CyclicLR` as a function of the optimizer's step, computed on the device: float32 scalar.

    The arguments are those of `CyclicLR`, with `batches`, the optimizer's steps in one of the schedule's.
    """

    def __init__(self, base, maximum, step_size_up, step_size_down, mode, gamma, batches):
        self.base = base
        self.maximum = maximum
        self.step_size_up = step_size_up
        self.step_size_down = step_size_down
        self.mode = mode
        self.gamma = gamma
        self.batches = batches

    def __call__(self, step):
        # Whole numbers until the place in the cycle is known: float32 would lose it in a long run.
        step = ops.cast(step, "int32") // self.batches
        period = self.step_size_up + self.step_size_down
        cycle = step // period
        place = ops.cast(step - cycle * period, "float32")
        height = ops.minimum(place / self.step_size_up, (period - place) / self.step_size_down)
        if self.mode == "triangular2":
            height = height * ops.power(0.5, ops.cast(cycle, "float32"))
        elif self.mode == "exp_range":
            # Not as a power: γ is near 1, and in float32 too far from what it was meant to be.
            height = height * ops.exp(math.log(self.gamma) * ops.cast(step, "float32"))
        return self.base + (self.maximum - self.base) * height

    def get_config(self):
        return vars(self).copy()
