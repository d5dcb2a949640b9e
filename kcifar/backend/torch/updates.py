"""Optimizer updates of all variables in one native call, with PyTorch's semantics."""

import torch
from keras import ops


@torch.no_grad()
def update_adam(optimizer, gradients, variables, slots, learning_rate):
    """One step of `kcifar.training.Adam`; False, with nothing done, where the variables are of several kinds.

    Args:
        slots: the means of all variables, then their mean squares.
    """
    if not _are_alike(variables, gradients):
        return False
    parameters, gradients, (means, squares) = _laid_out_alike(variables, gradients, slots)
    count = (optimizer.iterations.value + 1).float()
    torch._fused_adam_(
        parameters,
        gradients,
        means,
        squares,
        [],
        [count] * len(parameters),
        lr=ops.convert_to_tensor(learning_rate),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=optimizer.l2,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
    )
    return True


@torch.no_grad()
def update_sgd(optimizer, gradients, variables, slots, learning_rate):
    """One step of `kcifar.training.SGD`; False, with nothing done, where the variables are of several kinds.

    Args:
        slots: the velocities of all variables; none without momentum.
    """
    if not _are_alike(variables, gradients):
        return False
    parameters, gradients, velocities = _laid_out_alike(variables, gradients, slots)
    torch._fused_sgd_(
        parameters,
        gradients,
        *(velocities or [[]]),
        weight_decay=optimizer.l2,
        momentum=optimizer.momentum,
        lr=ops.convert_to_tensor(learning_rate),
        dampening=0.0,
        nesterov=optimizer.nesterov,
        maximize=False,
        is_first_step=False,
    )
    return True


def _are_alike(variables, gradients):
    kinds = {(tensor.dtype, tensor.device) for tensor in (*(variable.value for variable in variables), *gradients)}
    return len(kinds) == 1


def _laid_out_alike(variables, gradients, slots):
    """The tensors of variables, gradients and slots: the native calls take it that they have the same strides."""
    parameters = [variable.value for variable in variables]
    gradients = [_laid_out(gradient, parameter) for gradient, parameter in zip(gradients, parameters, strict=True)]
    for slot in slots:
        for variable, parameter in zip(slot, parameters, strict=True):
            variable.value.data = _laid_out(variable.value, parameter)
    return parameters, gradients, [[variable.value for variable in slot] for slot in slots]


def _laid_out(tensor, like):
    """The tensor with the strides of another of its shape: itself where it has them."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)
