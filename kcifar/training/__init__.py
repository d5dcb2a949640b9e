"""SAM, losses, optimizers and schedules with PyTorch's semantics, and training from a recipe."""

import importlib

_ROOMS = {
    "Adam": "optimizers",
    "AsymmetricLoss": "losses",
    "OneCycle": "schedules",
    "PiecewiseConstant": "schedules",
    "SGD": "optimizers",
    "SharpnessAware": "sharpness_aware",
    "StepDecay": "schedules",
    "WarmupCosine": "schedules",
    "plan": "planning",
    "sharpness": "landscape",
    "train": "fit",
}
__all__ = list(_ROOMS)


def __getattr__(name):
    if name in _ROOMS:
        return getattr(importlib.import_module(f"kcifar.training.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'kcifar.training' has no attribute '{name}'")
