"""Derivatives, for training steps of another kind than Keras's."""

import torch


def gradients(function, variables, others):
    """What a function of no arguments computes, and the gradients of its first result.

    Args:
        function: gives (scalar, anything); called once. May read and assign Keras variables.
        variables: the `keras.Variable`s that the scalar is differentiated by; the function leaves them as they are.
        others: all other variables that the function reads or assigns.

    Returns:
        (anything, a gradient or None for each variable).
    """
    scalar, result = function()
    return result, torch.autograd.grad(scalar, [variable.value for variable in variables], allow_unused=True)


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
