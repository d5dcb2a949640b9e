"""Adam and SGD as PyTorch computes them, for runs that are to match a PyTorch program."""

import math

import keras
from keras import ops

from kcifar import backend
from kcifar.errors import InputError
from kcifar.training.coupled_l2 import CoupledL2, expect_not_negative, times


@keras.saving.register_keras_serializable("kcifar")
class SGD(CoupledL2):
    """Stochastic gradient descent with momentum as `torch.optim.SGD`: v = μ·v + g, w −= lr·v.

    Keras's own puts the learning rate into the velocity, so that a change of it acts late; here it acts at once.
    The L2 penalty is coupled: g += l2·w, before the momentum.

    Args:
        learning_rate: float or schedule.
        momentum: μ ≥ 0; 0 keeps no velocity.
        nesterov: step along g + μ·v instead of v.
        l2: PyTorch's `weight_decay`, ≥ 0.
        l2_kernels_only: penalise variables of two and more dimensions alone, so neither biases nor BatchNorm's scales
            and offsets (He et al. 2019, arXiv 1812.01187, section 3.1); False for all, as PyTorch does.
        learning_rate_factors: by patterns (as of `fnmatch`) of paths of variables, as {"*/beta": 64.0, "head_*": 2.0}:
            the learning rate of these is so many times the others'. The first that matches holds. The penalty has no
            factor: w −= lr·(factor·g + l2·w). So has airbench94's BatchNorm (Jordan 2024, arXiv 2404.00498, 3.4).
        global_clipnorm: gradients whose norm, of all variables together, is above are scaled to it, as
            `torch.nn.utils.clip_grad_norm_` does (but for the 1e-6 that it adds to the norm); None for never.
        **kwargs: of every optimizer of Keras, with its meaning: `clipvalue` (`clip_grad_value_`), `clipnorm` (of each
            variable), `gradient_accumulation_steps` (the mean of so many gradients), `loss_scale_factor`, `use_ema`,
            `ema_momentum`, `ema_overwrite_frequency`. Clipping comes before the penalty.

    Raises:
        InputError: a negative argument, a clipping of 0, Nesterov without momentum, or another argument, such as
            `weight_decay`, which is not this penalty in Keras; in the first step, a pattern that matches nothing.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.0,
        nesterov=False,
        l2=0.0,
        l2_kernels_only=False,
        learning_rate_factors=None,
        global_clipnorm=None,
        name="sgd",
        **kwargs,
    ):
        super().__init__(learning_rate, l2, l2_kernels_only, learning_rate_factors, global_clipnorm, name, **kwargs)
        expect_not_negative("SGD", momentum=momentum)
        if nesterov and momentum == 0:
            raise InputError("SGD(nesterov=True, momentum=0): Nesterov's step needs a momentum above 0")
        self.momentum = momentum
        self.nesterov = nesterov

    def _slot_names(self):
        return ["velocity"] if self.momentum else []

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step, factor):
        rate = times(learning_rate, factor)
        return backend.update_sgd(self, gradients, variables, slots, rate, l2, self.momentum, self.nesterov)

    def update_step(self, gradient, variable, learning_rate):
        self._step_of_sgd(gradient, variable, learning_rate, self.momentum, self.nesterov)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable("kcifar")
class Adam(CoupledL2):
    """Adam as `torch.optim.Adam`: w −= lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε).

    Kingma & Ba 2015, algorithm 1; Keras's own adds ε before the bias correction (their "ε̂"), and takes 1e-7 for it.
    The L2 penalty is coupled: g += l2·w, before the moments.

    Args:
        learning_rate: float or schedule.
        l2: PyTorch's `weight_decay` of Adam (not AdamW), ≥ 0.
        l2_kernels_only, global_clipnorm: as of `SGD`.
        learning_rate_factors: as of `SGD`, of the whole step, in which the penalty is.
        beta_1, beta_2: decay of the moments, in [0, 1).
        epsilon: ε.
        **kwargs: as of `SGD`.

    Raises:
        InputError: an argument outside its range, or another one, as of `SGD`.
    """

    penalty_has_factor = True

    def __init__(
        self,
        learning_rate,
        l2=0.0,
        l2_kernels_only=False,
        learning_rate_factors=None,
        global_clipnorm=None,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        name="adam",
        **kwargs,
    ):
        super().__init__(learning_rate, l2, l2_kernels_only, learning_rate_factors, global_clipnorm, name, **kwargs)
        expect_not_negative("Adam", epsilon=epsilon)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise InputError(f"Adam(beta_1={beta_1}, beta_2={beta_2}): expected both from 0 to below 1")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _slot_names(self):
        return ["mean", "square"]

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step, factor):
        return backend.update_adam(self, gradients, variables, slots, times(learning_rate, factor), l2, first_step)

    def update_step(self, gradient, variable, learning_rate):
        gradient, learning_rate = self._coupled(gradient, variable, learning_rate)
        mean, square = self._slot("mean", variable), self._slot("square", variable)
        step = ops.cast(self.iterations + 1 - self._kind_of(variable)[1], variable.dtype)
        correction_1 = _one_minus_power(self.beta_1, step)
        correction_2 = _one_minus_power(self.beta_2, step)

        self.assign_add(mean, ops.multiply(ops.subtract(gradient, mean), 1 - self.beta_1))
        self.assign_add(square, ops.multiply(ops.subtract(ops.square(gradient), square), 1 - self.beta_2))
        scale = ops.add(ops.divide(ops.sqrt(square), ops.sqrt(correction_2)), self.epsilon)
        self.assign_sub(variable, ops.multiply(ops.divide(mean, scale), learning_rate / correction_1))

    def get_config(self):
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


def _one_minus_power(beta, step):
    """1 − βᵗ. Through expm1, since 1 − 0.999 in float32 is wrong by 5e-5 of itself."""
    return -ops.expm1(step * (math.log(beta) if beta else -math.inf))
