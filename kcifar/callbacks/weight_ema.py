"""Exponential moving average of the weights."""

import keras
import numpy as np
from keras import ops

from kcifar import backend
from kcifar.backend.keras_internals import innermost
from kcifar.errors import InputError


class WeightEMA(keras.callbacks.Callback):
    """Averages every weight and moving statistic, and puts the averages into the model whenever it is not training.

    After optimizer step t, counted from 1: e ← d·e + (1 − d)·w with d = min(decay, (1 + t)/(10 + t)), so that early
    weights are soon forgotten (as TensorFlow's ExponentialMovingAverage with `num_updates`). e starts as the weights
    that training starts from. Variables that are no floats, as counters and seeds, are left alone. Keras's own leaves
    BatchNorm's statistics out.

    The averages are in the model from the end of an epoch to the beginning of the next, while `fit` validates, and when
    training is over: `model.save` then saves them. Within an epoch the weights are, also where training is interrupted
    there; an `evaluate` then wants `callbacks=[this]` to see the averages. Put it before the callbacks that evaluate or
    save; give it to `Checkpoint(stateful=…)`, and a run that is resumed goes on to the same bits. A second `fit` of the
    same model goes on from the weights of the first, whatever was set in between; one of another model starts anew.

    Args:
        decay: from 0 to below 1.

    Raises:
        InputError: a decay outside its range; when training begins, an optimizer that accumulates gradients, or several
            steps an execution.
    """

    def __init__(self, decay):
        super().__init__()
        if not (isinstance(decay, (int, float)) and 0 <= decay < 1):
            raise InputError(f"WeightEMA(decay={decay!r}): expected a number from 0 to below 1")
        self.decay = decay
        self._steps = 0
        self._others = None  # the averages; the weights while the averages are in the model
        self._averages_in = False
        self._of = None  # the model that the averages are of, where it is known
        self._due = False  # whether a step was begun that is not averaged yet
        self._last = ()  # the values after the last step that is averaged

    def state(self):
        """What `restore` needs: the steps averaged, and what is not in the model, as NumPy arrays."""
        arrays = [ops.convert_to_numpy(value) for value in self._others]
        return {"steps": self._steps, "averages_in": self._averages_in, "others": arrays}

    def restore(self, state):
        """Goes on from `state`, where the model has been given the variables that it had then."""
        self._steps = state["steps"]
        self._averages_in = state["averages_in"]
        self._of, self._due = None, False
        self._others = [ops.copy(ops.convert_to_tensor(array)) for array in state["others"]]

    def on_train_begin(self, logs=None):
        self._expect_a_step_a_batch()
        if self._others is None or self._of not in (None, self.model):
            self._steps, self._averages_in, self._due = 0, False, False
            self._others = _copies(self._variables())
        self._of = self.model

    def on_epoch_begin(self, epoch, logs=None):
        self._put_in(averages=False)

    def on_train_batch_begin(self, batch, logs=None):
        # Not `on_train_batch_end`: for that, Keras would read every figure of the step from the device first.
        self._average()
        self._due = True

    def on_epoch_end(self, epoch, logs=None):
        self._average()
        self._put_in(averages=True)

    def on_test_begin(self, logs=None):
        self._average()
        self._were_in = self._averages_in
        self._put_in(averages=self._others is not None)

    def on_test_end(self, logs=None):
        self._put_in(averages=self._were_in)

    def _expect_a_step_a_batch(self):
        optimizer = innermost(self.model.optimizer)
        batches = optimizer.gradient_accumulation_steps or 1, self.model.steps_per_execution or 1
        if batches != (1, 1):
            raise InputError(
                "WeightEMA averages after each batch, but the model was compiled with gradient_accumulation_steps="
                f"{batches[0]} and steps_per_execution={batches[1]}; expected 1 for both"
            )

    def _average(self):
        if not self._due:
            return
        self._due = False
        # `self.model` would have every variable written back first on JAX.
        weights = _floats(backend.values_between_steps(self._model))
        # Where all are the same objects, the data had ended when this step was begun.
        if len(self._last) != len(weights) or any(a is not b for a, b in zip(weights, self._last, strict=True)):
            self._last = weights
            self._steps += 1
            decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
            self._others = backend.blended(self._others, weights, np.float32(1 - decay))

    def _put_in(self, averages):
        if self._averages_in != averages:
            variables = self._variables()
            values = _copies(variables)
            for variable, value in zip(variables, self._others, strict=True):
                variable.assign(value)
            self._others, self._averages_in = values, averages

    def _variables(self):
        return _floats(self.model.variables)


def _floats(values):
    return [value for value in values if keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))]


def _copies(variables):
    return [ops.copy(ops.stop_gradient(variable)) for variable in variables]
