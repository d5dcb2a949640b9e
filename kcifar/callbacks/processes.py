"""What processes that train one model together have to have in common."""

import zlib

import keras
import numpy as np
from keras import ops

from kcifar.backend.keras_internals import seed_states
from kcifar.errors import InputError

_SEEDS_APART = 2**24  # more than there are steps in which a layer draws


class Together(keras.callbacks.Callback):
    """Has processes that share each batch train one model: for each of them, before other callbacks.

    Each draws dropout of its own. At the end of an epoch the figures of the log become those of all images, and the
    weights of all are compared.

    Args:
        processes: what `kcifar.backend.join_processes` gave.

    Raises:
        InputError: at the end of an epoch, the processes have different weights.
    """

    def __init__(self, processes):
        super().__init__()
        self.processes = processes

    def on_train_begin(self, logs=None):
        if self.processes.rank:  # of the first one they are saved
            for state in seed_states(self.model):
                seed, count = ops.convert_to_numpy(state).tolist()
                state.assign([(seed + self.processes.rank * _SEEDS_APART) % 2**32, count])

    def on_epoch_end(self, epoch, logs=None):
        checksums = self.processes.told_by_all(_checksum(self.model.weights))
        if len(set(checksums)) > 1:
            raise InputError(
                f"the {len(checksums)} processes have different weights after epoch {epoch + 1}: something in this "
                "training changes them that is not the optimizer, or draws otherwise in each of them"
            )
        logs.update(mean_figures(self.processes, 1, logs))  # each has seen as many images


def mean_figures(processes, images, figures):
    """Figures of all images, from those that each process has of so many images."""
    told = processes.told_by_all((images, {name: float(value) for name, value in figures.items()}))
    total = sum(images for images, _ in told)
    return {name: sum(images * of[name] for images, of in told) / total for name in figures}


def _checksum(variables):
    found = 0
    for variable in variables:
        found = zlib.crc32(np.ascontiguousarray(ops.convert_to_numpy(variable)), found)
    return found
