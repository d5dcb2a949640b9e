"""The only room that imports torch or jax. Modules `torch` and `jax` define the same functions; this picks one."""

import importlib

import keras

from kcifar.backend.files import download, is_averaged, read_pytorch
from kcifar.errors import InputError

_FUNCTIONS = [
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
__all__ = [*_FUNCTIONS, "download", "is_averaged", "name", "read_pytorch"]

name = keras.backend.backend()
if name not in ("torch", "jax"):
    raise InputError(f"Keras's backend is '{name}'; kcifar runs on 'torch' and 'jax': set KERAS_BACKEND to one of them")
_module = importlib.import_module(f"kcifar.backend.{name}")
globals().update({function: getattr(_module, function) for function in _FUNCTIONS})
