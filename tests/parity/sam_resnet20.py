"""Steps of sam_resnet20.py on one backend, for the parity tests.

record: trains for some steps and writes the state before and after each.
replay: each of those steps again from its state, and how far the outcome is.

A case is a number of steps and overrides, as '8,batch_size=8'. An override that is 'smooth' puts ELU, whose slope is
continuous, in the place of ReLU.
"""

from pathlib import Path

import report_b  # first: it imports kcifar, which chooses the backend where KERAS_BACKEND does not

# isort: split
import keras
import numpy as np

from kcifar import experiment, recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "sam_resnet20.py"


def main(task, data, folder, *cases):
    run = {"record": record, "replay": replay}[task]
    for case in cases:
        steps, *overrides = case.split(",")
        model, batches = planned(data, overrides)
        np.savez(Path(folder, f"{task}-{case}.npz"), **run(model, batches, Path(folder, f"{case}.npy"), int(steps)))


def planned(data, overrides):
    given = [override for override in overrides if override != "smooth"]
    plan = experiment.plan(recipe.load(RECIPE).override([f"data={data}", *given]))
    if "smooth" in overrides:
        for layer in plan.model.model.layers:
            if isinstance(layer, keras.layers.Activation):
                layer.activation = keras.activations.elu
    plan.model.optimizer.build(plan.model.trainable_variables)
    return plan.model, plan.batches


def record(model, batches, states, steps):
    rows = np.lib.format.open_memmap(states, "w+", np.float32, (steps + 1, len(report_b.state(model))))
    rows[0] = report_b.state(model)
    losses = []
    for step in range(steps):
        losses.append(report_b.train(model, batches, step))
        rows[step + 1] = report_b.state(model)
    rows.flush()
    return {"losses": losses}


def replay(model, batches, states, steps):
    """Losses, and by step how far each weight and moving statistic is from what was recorded."""
    rows = np.load(states, mmap_mode="r")
    losses, distances = [], []
    for step in range(steps):
        report_b.restore(model, rows[step])
        losses.append(report_b.train(model, batches, step))
        here, there = report_b.split(model, report_b.state(model)), report_b.split(model, rows[step + 1])
        distances.append([distance(*pair) for pair in zip(here, there, strict=True)][: len(model.weights)])
    return {"losses": losses, "distances": distances, "names": [variable.path for variable in model.weights]}


def distance(actual, expected):
    """‖a − e‖ / ‖e‖ in float64; ‖a‖ where e is all zeros."""
    return report_b.distance(actual, expected) if expected.any() else np.linalg.norm(np.float64(actual))
