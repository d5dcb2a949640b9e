"""Steps of fast.py, of a narrow net, on one backend, for the parity tests: an epoch of each size of its images."""

from pathlib import Path

# isort: split
import numpy as np
from keras import ops

from kcifar import experiment, recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "fast.py"
OVERRIDES = ["model.widths=(8,12,16)", "batch_size=64", "whitening.images=500"]


def main(task, data, folder):
    planned = experiment.plan(recipe.load(RECIPE).override([f"data={data}", *OVERRIDES]))
    epochs = [0, *planned.batches.of_epoch.boundary_epochs]
    losses, arrays = [], {}
    for epoch in epochs:
        images, labels = planned.batches.at(epoch, 0)
        arrays[f"images_{epoch}"] = ops.convert_to_numpy(images)
        losses.append(planned.model.train_on_batch(images, labels)[0])
    weights = {variable.path: ops.convert_to_numpy(variable) for variable in planned.model.variables}
    np.savez(Path(folder, f"{task}-fast.npz"), losses=losses, **arrays, **weights)
