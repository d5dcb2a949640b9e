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
        increase: of a batch's loss at w + ρ·g/‖g‖, g its gradient: the step of SAM, the mean over the batches.
        eigenvalue: of the Hessian, the one of largest magnitude.
        iterations: of the power method.
        converged: whether its last iteration changed the eigenvalue by less than a thousandth.
    """

    loss: float
    increase: float
    eigenvalue: float
    iterations: int
    converged: bool


def sharpness(model, split, loss, rho=0.05, images=1000, batch_size=128, verbose=False):
    """The loss increase at radius ρ along SAM's direction, and the Hessian's top eigenvalue by the power method.

    Of the mean loss over the first images of a split, as they are, by all trainable variables together.

    The increase is what SAM makes small: each batch has a direction of its own, and the model is in training mode
    (Foret et al. 2021, arXiv 2010.01412, equation 2, and section 4.1 on "m-sharpness", m the batch size). The loss and
    the Hessian are of all the images at once, in inference mode: BatchNorm normalises by its moving statistics. Each
    iteration is one exact product of the Hessian and a vector (Pearlmutter 1994) over all of these images.

    Args:
        model: built, takes raw images, gives logits; in float32. It is left as it is.
        split: a `kcifar.data.Split`, as a rule of training images.
        loss: a function of one-hot labels and logits, as a Keras loss; without penalties.
        rho: ρ > 0.
        images: how many, at most all.
        batch_size: m, at most `images`; as a rule that of the training.
        verbose: show a progress bar where stderr is a terminal.

    Returns:
        `Sharpness`.

    Raises:
        InputError: ρ, a number of images or a batch size that is not above 0.
    """
    if not (0 < rho < np.inf and images >= 1 and batch_size >= 1):
        raise InputError(f"sharpness(rho={rho}, images={images}, batch_size={batch_size}): expected all above 0")
    split = Split(split.images[:images], split.labels[:images], split.classes)
    increase = _increase(model, split, loss, rho, min(batch_size, len(split)))
    around = _Loss(model, split, loss)
    iterations = range(_MOST_ITERATIONS)
    if verbose:
        iterations = track(iterations, "power method", transient=True, console=Console(stderr=True))

    vector, eigenvalues, converged = _random_unit(model.trainable_variables), [np.inf], False
    for _ in iterations:
        value, product = around(vector)
        eigenvalues.append(_dot(vector, product))
        converged = abs(eigenvalues[-1] - eigenvalues[-2]) <= _TOLERANCE * abs(eigenvalues[-1])
        if converged:
            break
        vector = _scaled(product, 1)
    return Sharpness(value, increase, eigenvalues[-1], len(eigenvalues) - 1, converged)


def _increase(model, split, loss, rho, batch_size):
    variables, others = model.trainable_variables, model.non_trainable_variables
    weights, total = [ops.stop_gradient(variable) for variable in variables], 0.0
    batches = Batches(split, batch_size, shuffle=False)

    def of_batch(images, labels):
        value = loss(labels, model(images, training=True))
        return value, ops.stop_gradient(value)

    for images, labels in (batches[place] for place in range(len(batches))):

        def at(values, batch=(images, labels)):
            states = [backend.pass_state(others)]
            (value,), gradient, _ = backend.gradients(of_batch, variables, others, [batch], at=(values, states))
            return value, gradient

        value, gradient = at(weights)
        gradient = [ops.zeros_like(w) if g is None else g for w, g in zip(weights, gradient, strict=True)]
        uphill, _ = at([w + step for w, step in zip(weights, _scaled(gradient, rho), strict=True)])
        total += len(images) * float(uphill - value)
    return total / len(split)


class _Loss:
    """The mean loss over a split around a model's weights."""

    def __init__(self, model, split, loss):
        self.batches = Batches(split, min(_BATCH, len(split)), shuffle=False)
        self.product = backend.hessian_product(
            lambda images, labels: loss(labels, model(images, training=False)), model.trainable_variables
        )

    def __call__(self, vector):
        """(the loss, its Hessian times the vector)."""
        loss, product = 0.0, None
        for batch in range(len(self.batches)):
            images, labels = self.batches[batch]
            share = len(images) / len(self.batches.split)
            of_batch = self.product(vector, images, labels)
            loss += share * float(of_batch[0])
            product = _sum(product, of_batch[1], share)
        return loss, product


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
