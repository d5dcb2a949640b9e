"""What differs on torch."""

import warnings

import keras
import torch

from kcifar.backend import keras_internals
from kcifar.backend.torch.device import (
    describe,
    device_count,
    generator_states,
    is_out_of_memory,
    peak_device_bytes,
    prepares_ahead,
    restore_generators,
    use_deterministic_algorithms,
    use_device,
)
from kcifar.backend.torch.gradients import gradients, hessian_product, pass_state, train_step
from kcifar.backend.torch.graph import native_calls
from kcifar.backend.torch.images import resampled
from kcifar.backend.torch.memory import keep_freed_memory
from kcifar.backend.torch.onlookers import absent_of_torch
from kcifar.backend.torch.onnx import write_onnx
from kcifar.backend.torch.processes import (
    average_gradients,
    join_processes,
    joined_processes,
    mean_of_processes,
)
from kcifar.backend.torch.step import native_parts
from kcifar.backend.torch.updates import update_adam, update_sgd
from kcifar.backend.torch.values import blended, clipped, known_values, switch, values_between_steps
from kcifar.errors import InputError, one_line

__all__ = [
    "accelerate",
    "average_gradients",
    "blended",
    "clipped",
    "compiled",
    "describe",
    "device_count",
    "generator_states",
    "gradients",
    "hessian_product",
    "is_out_of_memory",
    "join_processes",
    "joined_processes",
    "known_values",
    "mean_of_processes",
    "pass_state",
    "peak_device_bytes",
    "prepares_ahead",
    "resampled",
    "restore_generators",
    "switch",
    "train_step",
    "update_adam",
    "update_sgd",
    "use_deterministic_algorithms",
    "use_device",
    "values_between_steps",
    "write_onnx",
]

_SAID = set()


def compiled(function):
    """The function as it is: torch.compile takes longer to start than it wins on a few operations."""
    return function


def accelerate(model):
    """Makes a built Keras model as fast as hand-written PyTorch, in place, and returns it.

    What it computes and what it saves stay, its weights where they lie in memory, and its gradients, by what it gives
    too and of higher order. Its known layers (see `kernels`) go to native calls in channels_last memory, a functional
    graph runs without Keras's checks around every layer, and the training step of a model that does not override it (of
    one that does, the loss and the metrics) without waiting for the device. All else runs as stock: layers that are not
    known, those with hooks of torch, and all of it inside torch.compile (`jit_compile=True`), torch.export and
    torch.func. What is changed on a layer afterwards counts from the next call on. On JAX, where XLA compiles the step
    of a stock model, nothing is changed.

    Dropout without a seed draws in the order of memory, so behind a pooling it keeps as many values as in stock, but
    others. From the first call on glibc keeps the memory that the process frees, for the next batch.

    Where this version of Keras or torch lacks something of its inside that this needs, a warning says so once, and the
    model stays as it is. So does, silently, one whose weights are spread over devices.

    Args:
        model: any `keras.Model`; compiled before or after. Layers that are added later are not accelerated.

    Raises:
        InputError: a model that has no weights yet.
    """
    if not model.built:
        raise InputError(f"the model '{model.name}' has no weights yet: build it or call it before accelerating it")
    if isinstance(keras.distribution.distribution(), keras.distribution.ModelParallel):
        return model
    calls, parts = _native(model)
    keep_freed_memory()
    for layer, call in calls:
        layer.call = call
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def _native(model):
    """Pairs of a layer and its native call, and the native parts of the model's step by name: all, or none of both."""
    try:
        unfit = [*keras_internals.unfit(model), *absent_of_torch()]
        if not unfit:
            return list(native_calls(model)), native_parts(model)
    except Exception as error:  # of another inside of Keras than expected; so far nothing was changed
        unfit = [f"{type(error).__name__}: {one_line(error)}"]
    _say_once(
        f"Keras {keras.__version__} or torch {torch.__version__} lacks, or has changed, what accelerate needs of its "
        f"inside ({', '.join(unfit)}): accelerate leaves models stock, slower and right; other versions, from Keras "
        "3.15 and torch 2.9 on, or a newer kcifar may fit"
    )
    return [], {}


def _say_once(text):
    if text not in _SAID:
        _SAID.add(text)
        warnings.warn(text, stacklevel=4)
