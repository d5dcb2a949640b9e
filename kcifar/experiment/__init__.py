"""A recipe made real: its components, the plan, the training in a run folder, sweeps and several seeds."""

import importlib

_FILES = {"plan": "planning", "train": "fit"}
__all__ = list(_FILES)


def __getattr__(name):
    if name in _FILES:
        return getattr(importlib.import_module(f"kcifar.experiment.{_FILES[name]}"), name)
    raise AttributeError(f"module 'kcifar.experiment' has no attribute '{name}'")
