"""Ensembles: members' probabilities combined by a vote, in one model."""

import importlib

_FILES = {"Voting": "layer", "ensemble": "ensembles", "soup": "soups"}
__all__ = list(_FILES)


def __getattr__(name):
    if name in _FILES:
        return getattr(importlib.import_module(f"kcifar.voting.{_FILES[name]}"), name)
    raise AttributeError(f"module 'kcifar.voting' has no attribute '{name}'")
