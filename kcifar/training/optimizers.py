"""Adam and SGD as PyTorch computes them, for runs that are to match a PyTorch program."""

import math

import keras
import numpy as np
from keras import ops

from kcifar import backend
from kcifar.errors import InputError


class _CoupledL2(keras.optimizers.Optimizer):
    """An optimizer whose L2 penalty is part of the gradient: g += l2·w, before anything else is done with it."""

    def __init__(self, learning_rate, l2, l2_kernels_only, global_clipnorm, name, **kwargs):
        super().__init__(learning_rate, global_clipnorm=global_clipnorm, name=name, **kwargs)
        _expect_not_negative(type(self).__name__, learning_rate=learning_rate, l2=l2)
        if global_clipnorm is not None and not global_clipnorm > 0:
            raise InputError(f"{type(self).__name__}(global_clipnorm={global_clipnorm}): expected above 0, or None")
        self.l2 = l2
        self.l2_kernels_only = l2_kernels_only
        self._first_steps = {}  # by the id of a variable that is trained from a later step on

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slots = {name: self.add_optimizer_variables(variables, name) for name in self._slot_names()}

    def extend(self, variables, order):
        """Makes room for variables that are trained later, besides those that it was built with.

        Args:
            variables: some of which it may know.
            order: all of the model's, in the order in which it gives those that are trained.

        Returns:
            Those that it did not know.

        Raises:
            InputError: it accumulates gradients, or averages weights.
        """
        if self.gradient_accumulation_steps or self.use_ema:
            raise InputError(
                f"{type(self).__name__} with gradient_accumulation_steps or use_ema cannot take more weights later: "
                "leave them out (averages: kcifar.callbacks.WeightEMA)"
            )
        places = self._trainable_variables_indices
        others = [variable for variable in variables if self._var_key(variable) not in places]
        places.update({self._var_key(variable): place for place, variable in enumerate(others, start=len(places))})
        # In place: Keras would take what is set for variables of the optimizer's own.
        self._trainable_variables[:] = [variable for variable in order if self._var_key(variable) in places]
        for name, slots in self._slots.items():
            slots += self.add_optimizer_variables(others, name)
        return others

    def save_own_variables(self, store):
        for place, variable in enumerate(self._saved_variables()):
            store[str(place)] = ops.convert_to_numpy(variable)
        if self._first_steps:
            store["first_steps"] = np.array([self._kind_of(variable)[1] for variable in self._trained()])

    def load_own_variables(self, store):
        saved = self._saved_variables()
        if len(saved) != len(set(store.keys()) - {"first_steps"}):
            super().load_own_variables(store)  # which warns
            return
        for place, variable in enumerate(saved):
            variable.assign(store[str(place)])
        if "first_steps" in store.keys():  # noqa: SIM118  (Keras's store is no dict)
            for variable, step in zip(self._trained(), np.array(store["first_steps"]), strict=True):
                self.train_from([variable], int(step))

    def _trained(self):
        return [variable for variable in self._trainable_variables if variable.trainable]

    def _saved_variables(self):
        """Those that an optimizer has which is built for the weights that are trained now, in its order."""
        slots = {id(slot) for of_name in self._slots.values() for slot in of_name}
        others = [variable for variable in self.variables if id(variable) not in slots]
        return [*others, *(self._slot(name, variable) for name in self._slots for variable in self._trained())]

    def _slot_names(self):
        raise NotImplementedError

    def train_from(self, variables, step):
        """Counts the steps of these variables from this one of the optimizer's on, as PyTorch counts each parameter's.

        For variables that have been frozen until then.
        """
        self._first_steps |= {id(variable): step for variable in variables}

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As Keras's own, of the variables that are trained now: others, which may be later, have their slots too."""
        trained = self._trained()
        mapping = [
            *zip(trained, trainable_variables, strict=True),
            *zip(self.variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self.apply(grads, trained)
        return tuple([scope.get_current_value(v) for v in variables] for variables in (trained, self.variables))

    def _backend_update_step(self, gradients, variables, learning_rate):
        pairs = list(zip(gradients, variables, strict=True))
        slots = list(self._slots.values())
        for alike in dict.fromkeys(map(self._kind_of, variables)):
            group = [pair for pair in pairs if self._kind_of(pair[1]) == alike]
            if not self._update_natively(*map(list, zip(*group, strict=True)), slots, learning_rate, *alike):
                super()._backend_update_step(*zip(*group, strict=True), learning_rate)

    def _slot(self, name, variable):
        return self._slots[name][self._get_variable_index(variable)]

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step):
        """Updates variables of one kind; False, with nothing done, where the backend cannot."""
        raise NotImplementedError

    def _kind_of(self, variable):
        """(its penalty, the optimizer's step that was its first)."""
        return self._l2_of(variable), self._first_steps.get(id(variable), 0)

    def _l2_of(self, variable):
        return 0.0 if self.l2_kernels_only and len(variable.shape) < 2 else self.l2

    def _coupled(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if l2 := self._l2_of(variable):
            gradient = ops.add(gradient, ops.multiply(variable, l2))
        return gradient, ops.cast(learning_rate, variable.dtype)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "l2_kernels_only": self.l2_kernels_only}


@keras.saving.register_keras_serializable("kcifar")
class SGD(_CoupledL2):
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
        global_clipnorm: gradients whose norm, of all variables together, is above are scaled to it, as
            `torch.nn.utils.clip_grad_norm_` does (but for the 1e-6 that it adds to the norm); None for never.

    Raises:
        InputError: a negative argument, a clipping of 0, or Nesterov without momentum.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.0,
        nesterov=False,
        l2=0.0,
        l2_kernels_only=False,
        global_clipnorm=None,
        name="sgd",
        **kwargs,
    ):
        super().__init__(learning_rate, l2, l2_kernels_only, global_clipnorm, name, **kwargs)
        _expect_not_negative("SGD", momentum=momentum)
        if nesterov and momentum == 0:
            raise InputError("SGD(nesterov=True, momentum=0): Nesterov's step needs a momentum above 0")
        self.momentum = momentum
        self.nesterov = nesterov

    def _slot_names(self):
        return ["velocity"] if self.momentum else []

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step):
        return backend.update_sgd(self, gradients, variables, slots, learning_rate, l2)

    def update_step(self, gradient, variable, learning_rate):
        gradient, learning_rate = self._coupled(gradient, variable, learning_rate)
        step = gradient
        if self.momentum:
            velocity = self._slot("velocity", variable)
            self.assign(velocity, ops.add(ops.multiply(velocity, self.momentum), gradient))
            step = ops.add(gradient, ops.multiply(velocity, self.momentum)) if self.nesterov else velocity
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable("kcifar")
class Adam(_CoupledL2):
    """Adam as `torch.optim.Adam`: w −= lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε).

    Kingma & Ba 2015, algorithm 1; Keras's own adds ε before the bias correction (their "ε̂"), and takes 1e-7 for it.
    The L2 penalty is coupled: g += l2·w, before the moments.

    Args:
        learning_rate: float or schedule.
        l2: PyTorch's `weight_decay` of Adam (not AdamW), ≥ 0.
        l2_kernels_only, global_clipnorm: as of `SGD`.
        beta_1, beta_2: decay of the moments, in [0, 1).
        epsilon: ε.

    Raises:
        InputError: an argument outside its range.
    """

    def __init__(
        self,
        learning_rate,
        l2=0.0,
        l2_kernels_only=False,
        global_clipnorm=None,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        name="adam",
        **kwargs,
    ):
        super().__init__(learning_rate, l2, l2_kernels_only, global_clipnorm, name, **kwargs)
        _expect_not_negative("Adam", epsilon=epsilon)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise InputError(f"Adam(beta_1={beta_1}, beta_2={beta_2}): expected both from 0 to below 1")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _slot_names(self):
        return ["mean", "square"]

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step):
        return backend.update_adam(self, gradients, variables, slots, learning_rate, l2, first_step)

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


def _expect_not_negative(optimizer, **arguments):
    for name, value in arguments.items():
        if isinstance(value, (int, float)) and not value >= 0:
            raise InputError(f"{optimizer}({name}={value}): expected a number ≥ 0")
