"""Derivatives, for training steps of another kind than Keras's."""

import contextlib

import torch

from kcifar.backend.torch.processes import for_the_optimizer


def gradients(function, variables, others, parts, at=None, keeps_states=False):
    """What a function gives of each part of a batch, and the sums of the gradients of its first result.

    A part's activations are freed before the next one's are computed.

    Args:
        function: of a part, gives (scalar, anything). May read any variable of the model, and assign the `others`.
        variables: the `keras.Variable`s that the scalar is differentiated by.
        others: the model's other variables.
        parts: a list of tuples of arguments of the function.
        at: (values of the `variables`, a `pass_state` of the `others` for each part), in the place of their own; then
            nothing that the function assigns stays.
        keeps_states: whether the states are wanted.

    Returns:
        (a list of anything for each part, a sum or None for each of the `variables`, a list of the `pass_state` that
        each part began with where they are wanted).
    """
    tensors = [variable.value for variable in variables]
    state = [variable.value for variable in others]
    results, sums, states = [], [None] * len(tensors), []
    for place, part in enumerate(parts):
        if keeps_states:
            states.append(pass_state(others))
        with contextlib.nullcontext() if at is None else _having(tensors + state, at[0], at[1][place]):
            result, found = _gradients_of(function, part, tensors)
        results.append(result)
        sums = list(map(_sum, sums, found))
    return results, sums, states


def _gradients_of(function, part, tensors):
    scalar, result = function(*part)
    return result, torch.autograd.grad(scalar, tensors, allow_unused=True)


def _sum(one, other):
    return one if other is None else other if one is None else one + other


def pass_state(others):
    """All that a pass of a model reads and changes but its weights: two passes from it draw the same dropout.

    That is the values of the variables that are not trained, seeds among them, and of torch's own generators, which
    dropout without a seed draws from.
    """
    values = [variable.value.detach().clone() for variable in others]
    return values, [generator.get_state() for generator in _generators()]


def _generators():
    of_device = [torch.cuda.default_generators[torch.cuda.current_device()]] if torch.cuda.is_initialized() else []
    return [torch.default_generator, *of_device]


@contextlib.contextmanager
def _having(tensors, weights, state):
    """Tensors and generators have these values inside, whose memory may be changed; outside their own, untouched."""
    own, (others, drawn) = [tensor.data for tensor in tensors], state
    own_drawn = [generator.get_state() for generator in _generators()]
    try:
        _set(tensors, [*weights, *others])
        _restore(drawn)
        yield
    finally:
        _set(tensors, own)
        _restore(own_drawn)


def _restore(drawn):
    for generator, state in zip(_generators(), drawn, strict=True):
        generator.set_state(state)


def _set(tensors, values):
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def hessian_product(function, variables):
    """A function of (vector, *data) that gives a function's value and its Hessian times the vector.

    Args:
        function: of the data and of Keras variables, which it leaves as they are; gives a scalar.
        variables: the `keras.Variable`s that it is differentiated by. The vector and what comes out are lists like it.
    """

    def of(vector, *data):
        values = [variable.value for variable in variables]
        scalar = function(*data)
        gradient = torch.autograd.grad(scalar, values, create_graph=True, materialize_grads=True)
        product = torch.autograd.grad(gradient, values, vector, materialize_grads=True)
        return scalar.detach(), product

    return of


def train_step(model, gradients_and_figures, data):
    """`train_step` of a model: the figures.

    Args:
        model: a compiled `keras.Model`.
        gradients_and_figures: of a batch; reads and assigns the model's variables.
        data: what Keras gives to `train_step`.
    """
    found, figures = gradients_and_figures(data)
    found, variables = for_the_optimizer(model, found), model.trainable_variables
    for variable, gradient in zip(variables, found, strict=True):
        variable.value.grad = gradient  # where those look who log gradients
    with torch.no_grad():
        model.optimizer.apply(found, variables)
    return figures
