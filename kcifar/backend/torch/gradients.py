"""Gradients for training steps of another kind than Keras's."""

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
