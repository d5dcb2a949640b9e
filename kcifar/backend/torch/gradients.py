"""Derivatives, for training steps of another kind than Keras's."""

import contextlib

import torch


def gradients(model, function, at=None):
    """What a function of no arguments computes, and the gradients of its first result by the model's weights.

    Args:
        model: compiled; the function may read its variables and those of its optimizer and metrics, and assign those
            that are not trained.
        function: gives (scalar, anything); called once.
        at: (values for the trainable variables, an `untrained_state`), in the place of their own; then nothing that
            the function assigns to the variables stays.

    Returns:
        (anything, a gradient or None for each trainable variable).
    """
    variables = [variable.value for variable in model.trainable_variables]
    with contextlib.nullcontext() if at is None else _having(model, *at):
        scalar, result = function()
        return result, torch.autograd.grad(scalar, variables, allow_unused=True)


def untrained_state(model):
    """All that a pass of the model reads and changes but the trainable variables: a pass from it has the same chance.

    That is the other variables, seeds among them, and torch's own generators, which dropout without a seed draws from.
    """
    values = [variable.value.detach().clone() for variable in model.non_trainable_variables]
    return values, [generator.get_state() for generator in _generators()]


def _generators():
    devices = [torch.cuda.default_generators[torch.cuda.current_device()]] if torch.cuda.is_initialized() else []
    return [torch.default_generator, *devices]


@contextlib.contextmanager
def _having(model, weights, state):
    """The model has these values inside, whose memory may be changed; outside its own ones, untouched."""
    tensors = [variable.value for variable in model.trainable_variables + model.non_trainable_variables]
    own = [tensor.data for tensor in tensors]
    others, drawn = state
    try:
        _set(tensors, [*weights, *others])
        for generator, of_generator in zip(_generators(), drawn, strict=True):
            generator.set_state(of_generator)
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
