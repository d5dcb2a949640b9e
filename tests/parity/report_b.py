"""Steps of report B on one backend, for the parity tests.

record: trains for some steps and writes the state before and after each.
replay: each of those steps again from its state, and how far the outcome is from what was written.

Both give the first batches of two epochs, and the losses of 5 steps from the initial weights.
"""

from pathlib import Path

import kcifar  # first: it chooses the backend where KERAS_BACKEND does not

# isort: split
import keras
import numpy as np
from keras import ops

from kcifar import experiment, recipe, training

RECIPE = Path(__file__).parents[2] / "recipes" / "mixup.py"
STEPS = 140


class RecordingAdam(training.Adam):
    """Adam that keeps the gradients of the last step in variables, so that they come out of a compiled step too."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.gradients = self.add_optimizer_variables(variables, "gradient")

    def _backend_update_step(self, gradients, variables, learning_rate):
        for gradient, variable in zip(gradients, variables, strict=True):
            self.assign(self.gradients[self._get_variable_index(variable)], gradient)
        super()._backend_update_step(gradients, variables, learning_rate)


class Winners(keras.layers.Layer):
    """Passes images on and keeps which of its four values wins each window of the max-pooling behind it."""

    batch_size = 32

    def build(self, input_shape):
        height, width, channels = input_shape[1:]
        shape = (self.batch_size, height // 2, width // 2, channels)
        self.winners = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="winners")

    def call(self, images):
        _, height, width, channels = self.winners.shape
        windows = ops.reshape(images, (-1, height, 2, width, 2, channels))
        windows = ops.reshape(ops.transpose(windows, (0, 1, 3, 5, 2, 4)), (-1, height, width, channels, 4))
        self.winners.assign(ops.cast(ops.argmax(windows, axis=-1), "float32"))
        return images

    def compute_output_shape(self, input_shape):
        return input_shape


def main(task, data, folder):
    planned = experiment.plan(recipe.load(RECIPE).override([f"data={data}", "model.dropout=0.0"]))
    arrays = batches(planned.batches)
    planned.batches.epoch = 0
    model = recording_model(planned)
    arrays |= {"record": record, "replay": replay}[task](model, planned.batches, Path(folder, "report_b.npy"))
    np.savez(Path(folder, f"{task}-report_b.npz"), **arrays)


def batches(source):
    arrays = {}
    for epoch in (0, 7):
        source.epoch = epoch
        for step in (0, 1, len(source) - 1):
            images, labels = source[step]
            arrays[f"images_{epoch}_{step}"] = ops.convert_to_numpy(images)
            arrays[f"labels_{epoch}_{step}"] = ops.convert_to_numpy(labels)
    return arrays


def recording_model(planned):
    """The plan's model, accelerated, that records winners and gradients, with the plan's schedule."""

    def recording(layer, images, **arguments):
        return layer(Winners()(images) if isinstance(layer, keras.layers.MaxPooling2D) else images, **arguments)

    model = keras.models.clone_model(planned.model, call_function=recording)
    for layer in planned.model.layers:
        for own, other in zip(layer.weights, model.get_layer(layer.name).weights, strict=True):
            other.assign(own)
    kcifar.accelerate(model)
    optimizer = RecordingAdam(**planned.recipe.optimizer.arguments | {"learning_rate": planned.schedule})
    model.compile(optimizer, planned.model.loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def record(model, source, states):
    rows = np.lib.format.open_memmap(states, "w+", np.float32, (STEPS + 1, len(state(model))))
    rows[0] = state(model)
    losses = []
    for step in range(STEPS):
        losses.append(train(model, source, step))
        rows[step + 1] = state(model)
    rows.flush()
    return {"losses": losses, "free": losses[:5]}


def replay(model, source, states):
    """Losses; by step how far every layer is from what was recorded, and what tells whether that counts."""
    free = [train(model, source, step) for step in range(5)]
    rows = np.load(states, mmap_mode="r")
    losses, distances, windows, variances = [], [], [], []
    for step in range(STEPS):
        restore(model, rows[step])
        losses.append(train(model, source, step))
        here, there = groups(model, state(model)), groups(model, rows[step + 1])
        windows.append(np.count_nonzero(here.pop("winners") != there.pop("winners")))
        variances.append(least_variance(model, rows[step], rows[step + 1]))
        distances.append([distance(here[name], there[name]) for name in here])
    found = {"losses": losses, "free": free, "distances": distances, "names": list(here)}
    return found | {"windows": windows, "variances": variances}


def least_variance(model, before, after):
    """Of all that BatchNorm has normalised in a step, that of the value which varied least in the batch."""
    momentum = {layer.moving_variance.path: layer.momentum for layer in model.layers if hasattr(layer, "momentum")}
    rows = zip(variables(model), split(model, before), split(model, after), strict=True)
    kept = [(momentum[v.path], old, new) for v, old, new in rows if v.path in momentum]
    assert len(kept) == 4
    return min(((new - keep * old) / (1 - keep)).min() for keep, old, new in kept)


def train(model, source, step):
    model.reset_metrics()
    return float(model.train_on_batch(*source[step], return_dict=True)["loss"])


def variables(model):
    """What a step starts from: weights, moving statistics, optimizer slots and step count."""
    return model.weights + model.optimizer.variables


def state(model):
    return np.concatenate([np.ravel(ops.convert_to_numpy(v)) for v in variables(model)], dtype=np.float32)


def restore(model, row):
    for variable, values in zip(variables(model), split(model, row), strict=True):
        variable.assign(values.reshape(variable.shape))


def split(model, row):
    sizes = [int(np.prod(variable.shape)) for variable in variables(model)]
    return np.split(row, np.cumsum(sizes)[:-1])


def groups(model, row):
    """A state's values by what is compared as one vector: a layer's weights, moving statistics, or gradients."""
    gradients = {id(g): v for g, v in zip(model.optimizer.gradients, model.trainable_variables, strict=True)}
    found = {}
    for variable, values in zip(variables(model), split(model, row), strict=True):
        if id(variable) in gradients:
            name = f"gradients of {gradients[id(variable)].path.split('/')[0]}"
        elif variable.path.endswith("winners"):
            name = "winners"
        elif any(variable is weight for weight in model.weights):
            kind = "weights" if variable.trainable else "moving statistics"
            name = f"{kind} of {variable.path.split('/')[0]}"
        else:
            continue
        found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def distance(actual, expected):
    """‖a − e‖ / ‖e‖ in float64."""
    actual, expected = np.float64(actual), np.float64(expected)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
