"""kcifar: CIFAR-10 classifiers in Keras 3, the same on torch and on JAX.

Importing kcifar selects torch as Keras's backend where nothing has decided yet; the variable KERAS_BACKEND or a Keras
that is already imported is respected. Everything public is imported when it is first used, so that `--help` is quick.
"""

import importlib
import os
import sys

from kcifar.errors import InputError

__version__ = "0.1.0"
_ROOMS = ["augment", "callbacks", "data", "evaluation", "experiment", "models", "recipe", "runs", "training", "voting"]
__all__ = ["InputError", "accelerate", *_ROOMS]

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")


def __getattr__(name):
    if name == "accelerate":
        return importlib.import_module("kcifar.backend").accelerate
    if name in _ROOMS:
        return importlib.import_module(f"kcifar.{name}")
    raise AttributeError(f"module 'kcifar' has no attribute '{name}'")
