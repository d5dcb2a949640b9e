"""Derivatives, for training steps of another kind than Keras's."""

import contextlib

import torch


def gradients(model, function, at=None):
    """What a function of no arguments computes, and the gradients of its first result by the model's weights.

    Args:
        model: compiled; the function may read its variables and those of its optimizer and metrics, and assign those
            that are not trained.
        function: gives (scalar, anything); called once.
        at: values for the trainable variables and for the others, two lists, in the place of their own; then nothing
            that the function assigns to these stays.

    Returns:
        (anything, a gradient or None for each trainable variable).
    """
    variables = model.trainable_variables
    with (
        contextlib.nullcontext() if at is None else _having(variables + model.non_trainable_variables, [*at[0], *at[1]])
    ):
        scalar, result = function()
        return result, torch.autograd.grad(scalar, [variable.value for variable in variables], allow_unused=True)


@contextlib.contextmanager
def _having(variables, values):
    """The variables have these values inside, whose memory may be changed; outside their own ones, untouched."""
    tensors = [variable.value for variable in variables]
    own = [tensor.data for tensor in tensors]
    try:
        _set(tensors, values)
        yield
    finally:
        _set(tensors, own)


def _set(tensors, values):
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def derivatives(function, variables):
    """A function of (vector, *data) that gives a function's value, its gradient, and its Hessian times the vector.

    Args:
        function: of the data and of Keras variables, which it leaves as they are; gives a scalar.
        variables: the `keras.Variable`s that it is differentiated by. The vector and what comes out are lists like it.
    """

    def of(vector, *data):
        values = [variable.value for variable in variables]
        scalar = function(*data)
        gradient = torch.autograd.grad(scalar, values, create_graph=True, materialize_grads=True)
        product = torch.autograd.grad(gradient, values, vector, materialize_grads=True)
        return scalar.detach(), [part.detach() for part in gradient], product

    return of


def train_step(model, gradients_and_figures, data):
    """`train_step` of a model: the figures.

    Args:
        model: a compiled `keras.Model`.
        gradients_and_figures: of a batch; reads and assigns the model's variables.
        data: what Keras gives to `train_step`.
    """
    found, figures = gradients_and_figures(data)
    with torch.no_grad():
        model.optimizer.apply(found, model.trainable_variables)
    return figures
