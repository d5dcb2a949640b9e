"""The loss around the weights that a training found: how sharp the minimum is."""

import dataclasses

import numpy as np
from keras import ops
from rich.console import Console
from rich.progress import track

from kcifar import backend
from kcifar.data import Batches, Split
from kcifar.errors import InputError

_BATCH = 100
_MOST_ITERATIONS = 100
_TOLERANCE = 1e-3  # relative, between two iterations: PyHessian's


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """Figures of the loss around a model's weights.

    Attributes:
        loss: at the weights.
        increase: of the loss at w + ρ·g/‖g‖, the step of SAM (Foret et al. 2021, arXiv 2010.01412, equation 2).
        eigenvalue: of the Hessian, the one of largest magnitude.
        iterations: of the power method.
        converged: whether its last iteration changed the eigenvalue by less than a thousandth.
    """

    loss: float
    increase: float
    eigenvalue: float
    iterations: int
    converged: bool


def sharpness(model, split, loss, rho=0.05, images=1000, verbose=False):
    """The loss increase at radius ρ along the gradient, and the Hessian's top eigenvalue by the power method.

    Of the mean loss over the first images of a split, as they are, by all trainable variables together, in inference
    mode: BatchNorm normalises by its moving statistics, so one image's loss does not depend on the others. Each
    iteration is one exact product of the Hessian and a vector (Pearlmutter 1994) over all of these images.

    Args:
        model: built, takes raw images, gives logits; in float32. Its weights are moved, and put back.
        split: a `kcifar.data.Split`, as a rule of training images.
        loss: a function of one-hot labels and logits, as a Keras loss; without penalties.
        rho: ρ > 0.
        images: how many, at most all.
        verbose: show a progress bar where stderr is a terminal.

    Returns:
        `Sharpness`.

    Raises:
        InputError: ρ or a number of images that is not above 0.
    """
    if not (0 < rho < np.inf and images >= 1):
        raise InputError(f"sharpness(rho={rho}, images={images}): expected both above 0")
    around = _Loss(model, Split(split.images[:images], split.labels[:images], split.classes), loss)
    iterations = range(_MOST_ITERATIONS)
    if verbose:
        iterations = track(iterations, "power method", transient=True, console=Console(stderr=True))

    vector, eigenvalues, converged = _random_unit(model.trainable_variables), [np.inf], False
    for _ in iterations:
        at_weights, gradient, product = around(vector)
        eigenvalues.append(_dot(vector, product))
        converged = abs(eigenvalues[-1] - eigenvalues[-2]) <= _TOLERANCE * abs(eigenvalues[-1])
        if converged:
            break
        vector = _scaled(product, 1)
    uphill = around.moved_by(_scaled(gradient, rho))
    return Sharpness(at_weights, uphill - at_weights, eigenvalues[-1], len(eigenvalues) - 1, converged)


class _Loss:
    """The mean loss over a split around a model's weights."""

    def __init__(self, model, split, loss):
        self.variables = model.trainable_variables
        self.batches = Batches(split, min(_BATCH, len(split)), shuffle=False)
        self.derivatives = backend.derivatives(
            lambda images, labels: loss(labels, model(images, training=False)), self.variables
        )

    def __call__(self, vector):
        """(the loss, its gradient, its Hessian times the vector)."""
        loss, gradient, product = 0.0, None, None
        for batch in range(len(self.batches)):
            images, labels = self.batches[batch]
            share = len(images) / len(self.batches.split)
            of_batch = self.derivatives(vector, images, labels)
            loss += share * float(of_batch[0])
            gradient, product = _sum(gradient, of_batch[1], share), _sum(product, of_batch[2], share)
        return loss, gradient, product

    def moved_by(self, step):
        """The loss at the weights plus a step."""
        start = [ops.copy(ops.stop_gradient(variable)) for variable in self.variables]
        try:
            for variable, value, change in zip(self.variables, start, step, strict=True):
                variable.assign(value + change)
            return self(step)[0]
        finally:
            for variable, value in zip(self.variables, start, strict=True):
                variable.assign(value)


def _random_unit(variables):
    rng = np.random.default_rng(0)
    return _scaled([ops.convert_to_tensor(rng.normal(size=v.shape).astype(v.dtype)) for v in variables], 1)


def _sum(total, values, share):
    values = [share * value for value in values]
    return values if total is None else [a + b for a, b in zip(total, values, strict=True)]


def _scaled(vector, length):
    """The vector, of that length."""
    factor = length / max(_dot(vector, vector) ** 0.5, 1e-12)
    return [factor * value for value in vector]


def _dot(one, other):
    return float(sum(ops.sum(a * b) for a, b in zip(one, other, strict=True)))
