"""What optimizers with PyTorch's semantics have in common."""

import fnmatch
import inspect
import math

import keras
import numpy as np
from keras import ops

from kcifar.errors import InputError, nearest

# Arguments of torch.optim: what serves instead.
_OF_TORCH = {
    "lr": "learning_rate",
    "betas": "beta_1 and beta_2",
    "eps": "epsilon",
    "weight_decay": "l2 (Keras's weight_decay is decoupled), or an optimizer of keras.optimizers",
    "dampening": "no dampening, torch's default",
    "amsgrad": "keras.optimizers.Adam(amsgrad=True)",
    "maximize": "the negative of the loss",
}
# Of every optimizer of Keras, which does what they say to the gradients before a step and to the weights behind it.
_OF_KERAS = (
    *("clipnorm", "clipvalue", "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor"),
    *("gradient_accumulation_steps", "weight_decay"),
)


class CoupledL2(keras.optimizers.Optimizer):
    """An optimizer whose L2 penalty is part of the gradient: g += l2·w, before anything else is done with it.

    Attributes:
        penalty_has_factor: whether a factor of the learning rate acts on the penalty too.
    """

    penalty_has_factor = False

    def __init__(self, learning_rate, l2, l2_kernels_only, learning_rate_factors, global_clipnorm, name, **kwargs):
        for argument, value in kwargs.items():
            if (value is not None and argument in _OF_TORCH) or argument not in _OF_KERAS:
                raise _unknown(type(self), argument, value)
        expect_not_negative(type(self).__name__, learning_rate=learning_rate, l2=l2)
        super().__init__(learning_rate, global_clipnorm=global_clipnorm, name=name, **kwargs)
        if global_clipnorm is not None and not global_clipnorm > 0:
            raise InputError(f"{type(self).__name__}(global_clipnorm={global_clipnorm}): expected above 0, or None")
        self.l2 = l2
        self.l2_kernels_only = l2_kernels_only
        self.learning_rate_factors = _factors(type(self).__name__, learning_rate_factors)
        self._expected = False  # whether its patterns were compared with what it trains
        self._slots = {}  # lists of them, in the order of the variables, by name
        self._first_steps = {}  # by the id of a variable that is trained from a later step on

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slots = {name: self.add_optimizer_variables(variables, name) for name in self._slot_names()}

    def expect_variables(self, variables):
        """Raises InputError where a pattern that names variables matches none of these."""
        expect_matches(f"{type(self).__name__}(learning_rate_factors=…)", self.learning_rate_factors or (), variables)

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
        if not self._expected:
            self.expect_variables(self._trainable_variables)
            self._expected = True
        kinds = list(map(self._kind_of, variables))
        slots = list(self._slots.values())
        for alike in dict.fromkeys(kinds):
            group = [pair for *pair, kind in zip(gradients, variables, kinds, strict=True) if kind == alike]
            if not self._update_natively(*map(list, zip(*group, strict=True)), slots, learning_rate, *alike):
                super()._backend_update_step(*zip(*group, strict=True), learning_rate)

    def _slot(self, name, variable):
        return self._slots[name][self._get_variable_index(variable)]

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step, factor):
        """Updates variables of one kind; False, with nothing done, where the backend cannot."""
        raise NotImplementedError

    def _kind_of(self, variable):
        """(its penalty, the optimizer's step that was its first, the factor of its learning rate)."""
        return self._l2_of(variable), self._first_steps.get(id(variable), 0), self._factor_of(variable)

    def _l2_of(self, variable):
        """What the weight is multiplied by in the gradient: where it is to have no factor, divided by that."""
        if self.l2_kernels_only and len(variable.shape) < 2:
            return 0.0
        return self.l2 if self.penalty_has_factor else self.l2 / self._factor_of(variable)

    def _factor_of(self, variable):
        """That of the first pattern that its path matches; 1 without."""
        factors = (self.learning_rate_factors or {}).items()
        return next((factor for pattern, factor in factors if fnmatch.fnmatchcase(variable.path, pattern)), 1.0)

    def _coupled(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if l2 := self._l2_of(variable):
            gradient = ops.add(gradient, ops.multiply(variable, l2))
        return gradient, ops.cast(times(learning_rate, self._factor_of(variable)), variable.dtype)

    def _step_of_sgd(self, gradient, variable, learning_rate, momentum, nesterov):
        """`update_step` of SGD; without momentum no velocity is needed."""
        step, learning_rate = self._coupled(gradient, variable, learning_rate)
        if momentum:
            step = self._accumulated(step, self._slot("velocity", variable), momentum, nesterov)
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def _accumulated(self, gradient, velocity, momentum, nesterov):
        """The step's direction, behind v ← μ·v + g: v, or g + μ·v."""
        self.assign(velocity, ops.add(ops.multiply(velocity, momentum), gradient))
        return ops.add(gradient, ops.multiply(velocity, momentum)) if nesterov else velocity

    def get_config(self):
        own = {name: getattr(self, name) for name in ("l2", "l2_kernels_only", "learning_rate_factors")}
        return {**super().get_config(), **own}


def times(learning_rate, factor):
    """The product; the very learning rate where the factor is 1."""
    return learning_rate if factor == 1 else learning_rate * factor


def _factors(optimizer, factors):
    """The factors by pattern as floats. Raises InputError where they are something else."""
    if factors is None:
        return None
    if not isinstance(factors, dict) or not all(isinstance(pattern, str) for pattern in factors):
        raise InputError(
            f"{optimizer}(learning_rate_factors={factors!r}): expected factors by patterns of paths of variables, as "
            "{'*/beta': 64.0}, or None"
        )
    for pattern, factor in factors.items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise InputError(
                f"{optimizer}(learning_rate_factors={{{pattern!r}: {factor!r}}}): expected a number above 0"
            )
    return {pattern: float(factor) for pattern, factor in factors.items()}


def expect_matches(what, patterns, variables):
    """Raises InputError where a pattern matches the path of none of these variables."""
    paths = [variable.path for variable in variables]
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern):
            raise InputError(f"{what}: no weight that is trained is called '{pattern}'; {nearest(pattern, paths)}")


def expect_not_negative(optimizer, **arguments):
    """Raises InputError, naming the first, where one is text, None, or a number that is negative or not finite.

    Schedules pass.
    """
    for name, value in arguments.items():
        is_number = isinstance(value, (int, float))
        if value is None or isinstance(value, str) or (is_number and not 0 <= value < math.inf):
            raise InputError(f"{optimizer}({name}={value}): expected a number ≥ 0")


def _unknown(kind, argument, value):
    """The error for an argument that an optimizer does not take."""
    if argument in _OF_TORCH:
        return InputError(f"{kind.__name__}({argument}={value}): expected {_OF_TORCH[argument]}")
    own = [name for name in inspect.signature(kind).parameters if name not in ("name", "kwargs")]
    hint = nearest(argument, [*own, *_OF_KERAS[:-1]], cutoff=0.85)  # momentum is no slip of ema_momentum
    return InputError(f"{kind.__name__} has no argument '{argument}'; {hint}")
