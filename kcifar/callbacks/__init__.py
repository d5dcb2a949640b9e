"""Keras callbacks. Those with `state()` and `restore(state)` go on exactly where they were when a run is resumed."""

from kcifar.callbacks.checkpoint import Checkpoint
from kcifar.callbacks.cyclic import CyclicLR
from kcifar.callbacks.early_stopping import EarlyStopping

__all__ = ["Checkpoint", "CyclicLR", "EarlyStopping"]
