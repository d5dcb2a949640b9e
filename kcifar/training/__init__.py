"""What a training step is made of: optimizers with PyTorch's semantics, losses, schedules, SAM, batches in parts."""

import importlib

_FILES = {
    "Accumulated": "accumulated",
    "Adam": "optimizers",
    "AsymmetricLoss": "losses",
    "Muon": "muon",
    "OneCycle": "schedules",
    "PiecewiseConstant": "schedules",
    "SGD": "optimizers",
    "SharpnessAware": "sharpness_aware",
    "StepDecay": "schedules",
    "WarmupCosine": "schedules",
    "WarmupLinear": "schedules",
}
__all__ = list(_FILES)


def __getattr__(name):
    if name in _FILES:
        return getattr(importlib.import_module(f"kcifar.training.{_FILES[name]}"), name)
    raise AttributeError(f"module 'kcifar.training' has no attribute '{name}'")
