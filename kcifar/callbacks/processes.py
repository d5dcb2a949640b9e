"""What processes that train one model together have to have in common."""

import zlib

import keras
import numpy as np
from keras import ops

from kcifar.backend.keras_internals import seed_states
from kcifar.errors import InputError

_SEEDS_APART = 2**24  # more than there are steps in which a layer draws
_ROUNDING = 1e-3  # by which machines of other kinds may be apart after an epoch, of the largest value of an array


class Together(keras.callbacks.Callback):
    """Has processes that share each batch train one model: for each of them, before other callbacks.

    Each draws dropout of its own. At the end of an epoch the figures of the log become those of all images, and the
    weights of all are compared: those that are another machine's rounding apart become those of process 0.

    Args:
        processes: what `kcifar.backend.join_processes` gave.
        seed: of what layers without a seed draw, in the processes but the first.

    Raises:
        InputError: at the end of an epoch, the processes have different weights.
    """

    def __init__(self, processes, seed=0):
        super().__init__()
        self.processes, self.seed = processes, seed

    def on_train_begin(self, logs=None):
        if self.processes.rank:  # of the first one they are saved
            for state in seed_states(self.model):
                seed, count = ops.convert_to_numpy(state).tolist()
                state.assign([(seed + self.processes.rank * _SEEDS_APART) % 2**32, count])

    def on_epoch_begin(self, epoch, logs=None):
        if self.processes.rank:  # the first one has what it would have alone, and a resumed run restores
            drawn = np.random.SeedSequence((self.seed, self.processes.rank, epoch)).generate_state(1)
            keras.utils.set_random_seed(int(drawn[0]))

    def on_epoch_end(self, epoch, logs=None):
        if len(set(self.processes.told_by_all(_checksum(self.model.weights)))) > 1:
            self._take_those_of_first(epoch)
        logs.update(mean_figures(self.processes, 1, logs))  # each has seen as many images

    def _take_those_of_first(self, epoch):
        variables = [*self.model.weights, *self.model.optimizer.variables]
        own = [ops.convert_to_numpy(variable) for variable in variables]
        first = self.processes.told_by_first(own)
        if self.processes.any(max(map(_apart, own, first)) > _ROUNDING):
            raise InputError(
                f"the {self.processes.count} processes have different weights after epoch {epoch + 1}: something in "
                "this training changes them that is not the optimizer, or draws otherwise in each of them"
            )
        if self.processes.rank:
            for variable, value in zip(variables, first, strict=True):
                variable.assign(value)


class StopTogether(keras.callbacks.Callback):
    """Ends training in all processes where a callback ends it in one of them. Put it last.

    Args:
        processes: what `kcifar.backend.join_processes` gave.
    """

    def __init__(self, processes):
        super().__init__()
        self.processes = processes

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.processes.any(self.model.stop_training)

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = self.processes.any(self.model.stop_training)


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


def _apart(one, other):
    """The largest difference of two arrays, of the largest value in one of them."""
    scale = np.abs(other).max(initial=0) or 1
    return np.abs(one.astype("float64") - other).max(initial=0) / scale
