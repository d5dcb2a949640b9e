"""Keras callbacks. Those with `state()` and `restore(state)` go on exactly where they were when a run is resumed."""

from kcifar.callbacks.checkpoint import Checkpoint
from kcifar.callbacks.cyclic import CyclicLR
from kcifar.callbacks.early_stopping import EarlyStopping
from kcifar.callbacks.freeze import Freeze
from kcifar.callbacks.stop_on_nan import StopOnNaN
from kcifar.callbacks.tensorboard import TensorBoard
from kcifar.callbacks.unfreeze import Unfreeze
from kcifar.callbacks.weight_ema import WeightEMA

__all__ = ["Checkpoint", "CyclicLR", "EarlyStopping", "Freeze", "StopOnNaN", "TensorBoard", "Unfreeze", "WeightEMA"]
