"""Who looks on while a model is called, and has to see it run as stock Keras runs it."""

import operator

import keras
import torch

from kcifar.backend import keras_internals

_LAYER_CALL = keras.Layer.__call__
_INTERNALS = (
    "_C._functorch.peek_interpreter_stack",
    "_C._len_torch_dispatch_stack",
    "autograd.forward_ad._current_level",
    "nn.modules.module._has_any_global_hook",
)


def absent_of_torch():
    """What `must_run_as_stock` needs and this torch does not have: a list of names."""
    return [f"torch.{name}" for name in _INTERNALS if not _has(torch, name)]


def _has(place, name):
    try:
        operator.attrgetter(name)(place)
    except AttributeError:
        return False
    return True


def must_run_as_stock():
    """Whether somebody looks on who has to see each layer, or to whom native calls say nothing, or other things.

    That is where variables have other values than their own, in a stateless scope and while shapes are inferred; inside
    torch.compile, torch.export, torch.func, forward-mode differentiation, torch.autocast and modes of torch's
    dispatcher, as of tracing; and where a hook of torch is on all modules, or Keras's calling of layers was replaced.
    """
    return (
        keras_internals.in_stateless_scope()
        or keras_internals.infers_shapes()
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.nn.modules.module._has_any_global_hook()
        or keras.Layer.__call__ is not _LAYER_CALL
    )
