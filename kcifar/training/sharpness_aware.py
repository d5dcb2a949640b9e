"""Sharpness-aware training: SAM and ASAM around any Keras model."""

import math
import numbers

import keras
from keras import ops

from kcifar import backend
from kcifar.errors import InputError
from kcifar.training.accumulated import Accumulated


@keras.saving.register_keras_serializable("kcifar")
class SharpnessAware(Accumulated):
    """Trains a model by SAM, or by ASAM: each step descends by the gradient at the worst point near the weights.

    Foret et al. 2021, arXiv 2010.01412, algorithm 1: with g the gradient at the weights w, ε = ρ·g / ‖g‖; the optimizer
    then takes the gradient at w + ε, and applies it to w. Adaptive (Kwon et al. 2021, arXiv 2102.11600, algorithm 1):
    ε = ρ·T²g / ‖T·g‖, where T is |w| + η for kernels and BatchNorm's scales, and 1 for biases and offsets. Norms are of
    all trainable variables together, and 1e-12 is added to them.

    Both gradients are of the same batch in training mode with the same dropout masks; moving statistics, loss and
    metrics are those of the first; the optimizer's L2 or weight decay acts in the descent alone, as in the program
    davda54/sam (in google-research/sam it is part of the loss, and so of ε; so is a layer's regularizer here). Of a
    batch in parts, see `Accumulated`, both are of all parts, with one ε; each part has in the second pass the masks and
    moving statistics of its first. Of several processes each has an ε of its own, by the gradient of its part of the
    batch, as in the paper's experiments on several devices ("m-sharpness"); synchronized, they have the one of the
    whole batch. On JAX that is so always.

    Use it in place of the model: `compile`, `fit`, `train_on_batch`, `evaluate` and `predict`, with any optimizer,
    policy and callbacks. What it saves is the model in it, without a trace of this class. A step costs two of plain
    training.

        model = kcifar.accelerate(kcifar.models.build("resnet20"))
        trained = SharpnessAware(model, rho=0.05)
        trained.compile(SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])

    Args:
        model: a built `keras.Model`.
        rho: ρ > 0, how far: 0.05 in the paper for CIFAR-10; 0.5 where adaptive.
        adaptive: ASAM instead of SAM.
        eta: η ≥ 0 of ASAM.
        accumulate: k ≥ 1, in how many parts a batch passes through the model.
        synchronized: whether processes that train together share ε, at the price of a second exchange of gradients.

    Raises:
        InputError: as `Accumulated`. With an optimizer that accumulates gradients the two passes of a step would fall
            apart.
    """

    def __init__(self, model, rho=0.05, adaptive=False, eta=0.01, accumulate=1, synchronized=False):
        if not (isinstance(rho, numbers.Real) and 0 < rho < math.inf):
            raise InputError(
                f"SharpnessAware(rho={rho!r}): expected a number above 0; for rho=0 train the model itself"
            )
        if not (isinstance(eta, numbers.Real) and 0 <= eta < math.inf):
            raise InputError(f"SharpnessAware(eta={eta!r}): expected a number ≥ 0")
        super().__init__(model, accumulate)
        self.rho = rho
        self.adaptive = adaptive
        self.eta = eta
        self.synchronized = synchronized

    def _gradients(self, loss_of_part, parts):
        variables, others = self.trainable_variables, self._others()
        given, gradients, states = backend.gradients(loss_of_part, variables, others, parts, keeps_states=True)
        if self.synchronized:
            gradients = backend.mean_of_processes(self, gradients)
        worst = self._worst_point(variables, gradients)
        _, gradients, _ = backend.gradients(loss_of_part, variables, others, parts, at=(worst, states))
        return given, gradients

    def _worst_point(self, variables, gradients):
        """w + ε for each weight."""
        weights = [ops.stop_gradient(variable) for variable in variables]
        gradients = [ops.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
        if not self.adaptive:
            length = self.rho / self._norm(gradients)
            return [w + length * g for w, g in zip(weights, gradients, strict=True)]
        scales = [
            1.0 if variable.name in ("bias", "beta") else ops.abs(w) + self.eta
            for variable, w in zip(variables, weights, strict=True)
        ]
        scaled = [t * g for t, g in zip(scales, gradients, strict=True)]
        length = self.rho / self._norm(scaled)
        return [w + length * t * g for w, t, g in zip(weights, scales, scaled, strict=True)]

    def _norm(self, gradients):
        """‖gradients‖₂ + 1e-12 of the loss as it is, scaled as they are."""
        scale = self.optimizer.scale_loss(1.0)
        values = ops.cast(ops.concatenate([ops.ravel(g) for g in gradients]), "float32")
        return (ops.norm(values / scale) + 1e-12) * scale

    def get_config(self):
        own = {name: getattr(self, name) for name in ("rho", "adaptive", "eta", "synchronized")}
        return super().get_config() | own
