"""Muon: momentum, orthogonalised."""

import fnmatch
import math

import keras
from keras import ops

from kcifar import backend
from kcifar.errors import InputError
from kcifar.training.coupled_l2 import CoupledL2, times


@keras.saving.register_keras_serializable("kcifar")
class Muon(CoupledL2):
    """Momentum, orthogonalised: each matrix takes a step of all directions alike; what is no matrix is trained by SGD.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", as in airbench94_muon (github
    KellerJordan/cifar10-airbench). The kernel of a convolution is read as a matrix (height·width·channels, filters).

        v ← μ·v + g                   u = g + μ·v; without `nesterov`, v
        w ← w·√filters/‖w‖            where `normalize_filters`
        w ← w − lr·(ortho(u) + l2·w)

    ortho(u) is near the orthogonal matrix nearest to u: from X = u/‖u‖ some steps of X ← aX + (bA + cA²)X, A = XXᵀ,
    with (a, b, c) = (3.4445, −4.7750, 2.0315), which take all singular values near 1 (after five, between some 0.7 and
    1.2). Where filters are normalised the penalty has little effect.

    `keras.optimizers.Muon` orthogonalises matrices alone, and trains kernels of convolutions by AdamW.

    Args:
        learning_rate: float or schedule.
        momentum: μ of the matrices, from 0 to below 1.
        nesterov: of both kinds of steps.
        ns_steps: Newton–Schulz steps, at least 1.
        normalize_filters: scale each matrix to the norm √filters before each step.
        exclude: patterns (as of `fnmatch`) of paths of matrices that are trained by SGD all the same: that of the
            logits, by the name that it has in kcifar's models; in `tutorial_net` and `elu_cnn` it is "logits/*".
        sgd_momentum: μ of all else, whose steps are those of `SGD` with these factors of the learning rate.
        l2, l2_kernels_only, learning_rate_factors, global_clipnorm: as of `SGD`.
        **kwargs: as of `SGD`.

    Raises:
        InputError: an argument outside its range, or another one, as of `SGD`; in the first step, no matrix.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.6,
        nesterov=True,
        ns_steps=3,
        normalize_filters=True,
        exclude=("head_*",),
        sgd_momentum=0.85,
        l2=0.0,
        l2_kernels_only=False,
        learning_rate_factors=None,
        global_clipnorm=None,
        name="muon",
        **kwargs,
    ):
        super().__init__(learning_rate, l2, l2_kernels_only, learning_rate_factors, global_clipnorm, name, **kwargs)
        if not (_is_fraction(momentum) and _is_fraction(sgd_momentum)):
            raise InputError(f"Muon(momentum={momentum}, sgd_momentum={sgd_momentum}): expected both from 0 to below 1")
        if not (isinstance(ns_steps, int) and ns_steps >= 1):
            raise InputError(f"Muon(ns_steps={ns_steps}): expected a whole number of Newton–Schulz steps, at least 1")
        if isinstance(exclude, str) or not all(isinstance(pattern, str) for pattern in exclude):
            raise InputError(f"Muon(exclude={exclude!r}): expected patterns of paths of variables, as ('head_*',)")
        self.momentum = momentum
        self.nesterov = nesterov
        self.ns_steps = ns_steps
        self.normalize_filters = normalize_filters
        self.exclude = tuple(exclude)
        self.sgd_momentum = sgd_momentum

    def expect_variables(self, variables):
        super().expect_variables(variables)
        if not any(map(self._is_matrix, variables)):
            raise InputError(
                "Muon: nothing that is trained is a matrix or a kernel of a convolution, but for what is excluded "
                f"(exclude={self.exclude}); expected one to orthogonalise: use SGD or Adam"
            )

    def _slot_names(self):
        return ["velocity"]

    def _is_matrix(self, variable):
        excluded = any(fnmatch.fnmatchcase(variable.path, pattern) for pattern in self.exclude)
        return len(variable.shape) >= 2 and not excluded

    def _kind_of(self, variable):
        return *super()._kind_of(variable), self._is_matrix(variable)

    def _update_natively(self, gradients, variables, slots, learning_rate, l2, first_step, factor, is_matrix):
        # Most of the time of a matrix is in products, which are native as they are.
        if is_matrix or not self.sgd_momentum:
            return False
        rate = times(learning_rate, factor)
        return backend.update_sgd(self, gradients, variables, slots, rate, l2, self.sgd_momentum, self.nesterov)

    def update_step(self, gradient, variable, learning_rate):
        if not self._is_matrix(variable):
            self._step_of_sgd(gradient, variable, learning_rate, self.sgd_momentum, self.nesterov)
            return
        velocity = self._slot("velocity", variable)
        learning_rate = ops.cast(times(learning_rate, self._factor_of(variable)), variable.dtype)
        step = self._accumulated(ops.cast(gradient, variable.dtype), velocity, self.momentum, self.nesterov)
        step = ops.reshape(orthogonalized(ops.reshape(step, (-1, variable.shape[-1])), self.ns_steps), variable.shape)
        if self.normalize_filters:
            norm = ops.sqrt(ops.sum(ops.square(variable)))
            self.assign(variable, ops.multiply(variable, math.sqrt(variable.shape[-1]) / (norm + _TINY)))
        if l2 := self._l2_of(variable):
            step = ops.add(step, ops.multiply(variable, l2))
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self):
        names = ("momentum", "nesterov", "ns_steps", "normalize_filters", "exclude", "sgd_momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


_TINY = 1e-7
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix, steps):
    """A matrix near the orthogonal one that is nearest to this one, by so many Newton–Schulz steps; see `Muon`.

    Args:
        matrix: (rows, columns), float.
        steps: whole number; after five, singular values lie between some 0.7 and 1.2.

    Returns:
        (rows, columns); 0 of a matrix of 0.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix / (ops.sqrt(ops.sum(ops.square(matrix))) + _TINY)
    tall = matrix.shape[0] > matrix.shape[1]
    for _ in range(steps):
        # The same by either side; the smaller product costs less.
        square = ops.matmul(ops.transpose(x), x) if tall else ops.matmul(x, ops.transpose(x))
        polynomial = b * square + c * ops.matmul(square, square)
        x = a * x + (ops.matmul(x, polynomial) if tall else ops.matmul(polynomial, x))
    return x


def _is_fraction(value):
    return isinstance(value, (int, float)) and 0 <= value < 1
