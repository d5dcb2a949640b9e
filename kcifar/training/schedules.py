"""Learning rates as functions of the optimizer's step, with PyTorch's semantics.

Keras's own count in steps too, but its cosine with warm-up asks the device which of its halves a step is in, and its
piecewise one changes a step late by PyTorch's count. These are arithmetic on the step alone: nothing waits for the
device, and many steps are computed in one call.
"""

import itertools
import math

import keras
from keras import ops

from kcifar.errors import InputError


@keras.saving.register_keras_serializable("kcifar")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to η over the first m steps, then final + (η − final)·½(1 + cos(πt/T)) over the T behind them.

    He et al. 2019, arXiv 1812.01187, section 5.1 (T counts from the end of the warm-up). As torch.optim's
    `CosineAnnealingLR(T_max=T, eta_min=final)`, behind a `LinearLR` where there is a warm-up. Stays at `final` after
    the last step.

    Args:
        learning_rate: η > 0.
        steps: m + T, of the whole training.
        warmup_steps: m, from 0 to below `steps`.
        final: from 0 to η.

    Returns (of a call): float32, of the shape of the steps that it is given, counted from 0.

    Raises:
        InputError: an argument outside its range.
    """

    def __init__(self, learning_rate, steps, warmup_steps=0, final=0.0):
        _expect_rate("WarmupCosine", learning_rate)
        _expect_warmup("WarmupCosine", warmup_steps, steps)
        if not 0 <= final <= learning_rate:
            raise InputError(f"WarmupCosine(final={final}): expected from 0 to the learning rate, {learning_rate}")
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.final = final

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "int32"), self.steps)
        # Whole numbers until the place is known: float32 would round it in a long training.
        left = ops.cast(self.steps - step, "float32") / (self.steps - self.warmup_steps)
        cosine = self.final + (self.learning_rate - self.final) * _rising(left)
        if not self.warmup_steps:
            return cosine
        linear = self.learning_rate * ops.cast(step, "float32") / self.warmup_steps
        return ops.where(step < self.warmup_steps, linear, cosine)

    def get_config(self):
        return vars(self).copy()


@keras.saving.register_keras_serializable("kcifar")
class WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from η·`start_factor` to η over the first m steps, then linear to η·`end_factor` over the others.

    As torch.optim's `LinearLR(start_factor, 1, m)` and, behind it, `LinearLR(1, end_factor, steps − m)`. Stays where it
    is after the last step.

    Args:
        learning_rate: η > 0.
        steps: of the whole training.
        warmup_steps: m, from 0 to below `steps`.
        start_factor, end_factor: from 0 to 1.

    Returns (of a call): float32, of the shape of the steps that it is given, counted from 0.

    Raises:
        InputError: an argument outside its range.
    """

    def __init__(self, learning_rate, steps, warmup_steps=0, start_factor=0.0, end_factor=0.0):
        _expect_rate("WarmupLinear", learning_rate)
        _expect_warmup("WarmupLinear", warmup_steps, steps)
        if not (0 <= start_factor <= 1 and 0 <= end_factor <= 1):
            raise InputError(
                f"WarmupLinear(start_factor={start_factor}, end_factor={end_factor}): expected both from 0 to 1"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.start_factor = start_factor
        self.end_factor = end_factor

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "int32"), self.steps)
        left = ops.cast(self.steps - step, "float32") / (self.steps - self.warmup_steps)
        factor = self.end_factor + (1 - self.end_factor) * left
        if self.warmup_steps:
            rising = self.start_factor + (1 - self.start_factor) * ops.cast(step, "float32") / self.warmup_steps
            factor = ops.where(step < self.warmup_steps, rising, factor)
        return self.learning_rate * factor

    def get_config(self):
        return vars(self).copy()


@keras.saving.register_keras_serializable("kcifar")
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """η·γ^⌊t/n⌋ at step t, as torch.optim's `StepLR`.

    Args:
        learning_rate: η > 0.
        decay_steps: n, at least 1.
        gamma: γ > 0.

    Returns (of a call): float32, of the shape of the steps that it is given, counted from 0.

    Raises:
        InputError: an argument outside its range.
    """

    def __init__(self, learning_rate, decay_steps, gamma=0.1):
        _expect_rate("StepDecay", learning_rate)
        if not (decay_steps >= 1 and _are_whole(decay_steps) and 0 < gamma < math.inf):
            raise InputError(
                f"StepDecay: {decay_steps} steps, gamma={gamma}; expected whole steps, at least 1, and gamma > 0"
            )
        self.learning_rate = learning_rate
        self.decay_steps = decay_steps
        self.gamma = gamma

    def __call__(self, step):
        decays = ops.cast(ops.cast(step, "int32") // self.decay_steps, "float32")
        return self.learning_rate * ops.exp(math.log(self.gamma) * decays)

    def get_config(self):
        return vars(self).copy()


@keras.saving.register_keras_serializable("kcifar")
class PiecewiseConstant(keras.optimizers.schedules.LearningRateSchedule):
    """η times a factor that changes at given steps.

    As torch.optim's `LambdaLR`, and as `MultiStepLR` where the factors are powers of one number.

    Args:
        learning_rate: η > 0.
        boundaries: the steps, counted from 0 and rising, at which the next factor begins to hold.
        factors: one more than boundaries, each ≥ 0; the first holds from step 0 on.

    Returns (of a call): float32, of the shape of the steps that it is given, counted from 0.

    Raises:
        InputError: an argument outside its range, or numbers of boundaries and factors that do not fit.
    """

    def __init__(self, learning_rate, boundaries, factors):
        boundaries, factors = tuple(boundaries), tuple(factors)
        _expect_rate("PiecewiseConstant", learning_rate)
        if len(factors) != len(boundaries) + 1:
            raise InputError(
                f"PiecewiseConstant: {len(boundaries)} boundaries {boundaries} and {len(factors)} factors {factors}; "
                "expected one factor more than boundaries"
            )
        rising = all(one < other for one, other in itertools.pairwise((0, *boundaries)))
        if not (rising and _are_whole(*boundaries)):
            raise InputError(
                f"PiecewiseConstant: the boundaries are {boundaries}; expected rising whole numbers above 0"
            )
        if not all(0 <= factor < math.inf for factor in factors):
            raise InputError(f"PiecewiseConstant: the factors are {factors}; expected numbers ≥ 0")
        self.learning_rate = learning_rate
        self.boundaries = boundaries
        self.factors = factors

    def __call__(self, step):
        step = ops.cast(step, "int32")
        rate = ops.full_like(step, self.learning_rate * self.factors[0], dtype="float32")
        for boundary, factor in zip(self.boundaries, self.factors[1:], strict=True):
            rate = ops.where(step < boundary, rate, self.learning_rate * factor)
        return rate

    def get_config(self):
        return vars(self).copy()


@keras.saving.register_keras_serializable("kcifar")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Up from η/`start_divisor` to η, then down to η/(`start_divisor`·`final_divisor`) at the last step.

    Smith & Topin 2018, arXiv 1708.07120, as `torch.optim.lr_scheduler.OneCycleLR` with two phases. Momentum is not
    cycled (torch's `cycle_momentum=False`). Stays where it is after the last step.

    Args:
        learning_rate: η > 0, the highest.
        steps: of the whole training.
        up_steps: of the rising part, from 2 to below `steps`; η is reached at step `up_steps` − 1, as in PyTorch.
        start_divisor, final_divisor: > 0; PyTorch's `div_factor` and `final_div_factor`.
        shape: of both parts: `cosine`, or `linear`.

    Returns (of a call): float32, of the shape of the steps that it is given, counted from 0.

    Raises:
        InputError: an argument outside its range.
    """

    def __init__(self, learning_rate, steps, up_steps, start_divisor=25.0, final_divisor=1e4, shape="cosine"):
        _expect_rate("OneCycle", learning_rate)
        if not (2 <= up_steps < steps and _are_whole(up_steps, steps)):
            raise InputError(
                f"OneCycle: {up_steps} of {steps} steps rise; expected whole numbers, at least 2 and less than all"
            )
        if not (0 < start_divisor < math.inf and 0 < final_divisor < math.inf):
            raise InputError(
                f"OneCycle(start_divisor={start_divisor}, final_divisor={final_divisor}): expected numbers above 0"
            )
        if shape not in ("cosine", "linear"):
            raise InputError(f"OneCycle(shape='{shape}'): expected 'cosine' or 'linear'")
        self.learning_rate = learning_rate
        self.steps = steps
        self.up_steps = up_steps
        self.start_divisor = start_divisor
        self.final_divisor = final_divisor
        self.shape = shape

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "int32"), self.steps - 1)
        top, start = self.up_steps - 1, self.learning_rate / self.start_divisor
        up = self._between(start, self.learning_rate, step, top)
        down = self._between(self.learning_rate, start / self.final_divisor, step - top, self.steps - 1 - top)
        return ops.where(step < top, up, down)

    def _between(self, first, last, step, steps):
        left = 1 - ops.cast(step, "float32") / steps
        if self.shape == "cosine":
            left = _rising(left)
        return last + (first - last) * left

    def get_config(self):
        return vars(self).copy()


def _rising(place):
    """½(1 − cos(π·place)), from 0 to 1. As a square, since the difference has no digits left near 0."""
    return ops.square(ops.sin(math.pi / 2 * place))


def _are_whole(*steps):
    return all(step % 1 == 0 for step in steps)


def _expect_warmup(schedule, warmup_steps, steps):
    if not (0 <= warmup_steps < steps and _are_whole(warmup_steps, steps)):
        raise InputError(
            f"{schedule}: the warm-up is {warmup_steps} of {steps} steps; expected whole numbers, at least 0 and less "
            "than all"
        )


def _expect_rate(schedule, learning_rate):
    if not 0 < learning_rate < math.inf:
        raise InputError(f"{schedule}(learning_rate={learning_rate}): expected a number above 0")
