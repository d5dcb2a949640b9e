"""Optimizer updates of all variables in one native call, with PyTorch's semantics."""

import collections
import weakref

import torch
from keras import ops

from kcifar.backend.keras_internals import in_stateless_scope

_Prepared = collections.namedtuple("_Prepared", "parameters strides slots alike")
_PREPARED = weakref.WeakKeyDictionary()  # by optimizer, then by the ids of the variables


@torch.no_grad()
def update_adam(optimizer, gradients, variables, slots, learning_rate, l2, first_step):
    """One step of `kcifar.training.Adam`; False, with nothing done, where the variables are of several kinds.

    Args:
        slots: the optimizer's lists of means and of mean squares, of all its variables.
        l2: the penalty of these variables.
        first_step: the optimizer's step, counted from 0, that was their first.
    """
    prepared = _prepared(optimizer, variables, slots)
    if prepared is None:
        return False
    parameters, (means, squares) = prepared
    count = (ops.convert_to_tensor(optimizer.iterations) + 1 - first_step).float()
    torch._fused_adam_(
        parameters,
        _like(parameters, gradients),
        means,
        squares,
        [],
        [count] * len(parameters),
        lr=ops.convert_to_tensor(learning_rate),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=l2,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
    )
    return True


@torch.no_grad()
def update_sgd(optimizer, gradients, variables, slots, learning_rate, l2, momentum, nesterov):
    """One step of `kcifar.training.SGD`; False, with nothing done, where the variables are of several kinds.

    Args:
        slots: the optimizer's list of velocities, of all its variables; none without momentum.
        l2: the penalty of these variables.
        momentum, nesterov: as of `SGD`.
    """
    prepared = _prepared(optimizer, variables, slots)
    if prepared is None:
        return False
    parameters, velocities = prepared
    torch._fused_sgd_(
        parameters,
        _like(parameters, gradients),
        *(velocities or [[]]),
        weight_decay=l2,
        momentum=momentum,
        lr=ops.convert_to_tensor(learning_rate),
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
    )
    return True


def _prepared(optimizer, variables, slots):
    """The tensors of the variables and of each kind of slot, laid out alike in memory, as the native calls take them.

    None where the variables are of several kinds, or stand for other values. Looked up once for the same variables.
    """
    if in_stateless_scope() or torch.compiler.is_compiling():  # which takes no rate that is a tensor
        return None
    of_optimizer, key = _PREPARED.setdefault(optimizer, {}), tuple(map(id, variables))
    known = of_optimizer.get(key)
    if known is None or known.strides != _strides(known.parameters):
        known = of_optimizer[key] = _prepare(optimizer, variables, slots)
    return (known.parameters, known.slots) if known.alike else None


def _strides(tensors):
    return [tensor.stride() for tensor in tensors]


def _prepare(optimizer, variables, slots):
    parameters = [variable.value for variable in variables]
    alike = len({(parameter.dtype, parameter.device) for parameter in parameters}) == 1
    places = [optimizer._get_variable_index(variable) for variable in variables]
    tensors = [[slot[place].value for place in places] for slot in slots]
    for slot in tensors:
        for tensor, parameter in zip(slot, parameters, strict=True):
            if tensor.stride() != parameter.stride():
                tensor.data = torch.empty_like(parameter).copy_(tensor)
    return _Prepared(parameters, _strides(parameters), tensors, alike)


def _like(parameters, gradients):
    """The gradients with dtype and strides of their parameters."""
    return [
        gradient
        if gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype
        else torch.empty_like(parameter).copy_(gradient)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
