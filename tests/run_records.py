"""Runs that nobody trained: folders with what one writes about itself, to be read again."""

import json
from pathlib import Path

from kcifar import recipe
from kcifar.runs.folder import RunFolder

RECIPE = Path(__file__).parents[1] / "recipes" / "mixup.py"
ENVIRONMENT = {
    "data": "/home/ada/cifar-10-batches-py",
    "data_sha256": "02f0c53" + "0" * 57,
    "class_names": ["cat", "dog"],
    "started": "2026-11-30T12:00:00+00:00",
    "kcifar": "0.1.0",
    "commit": "a" * 40,
    "uncommitted_changes": False,
    "python": "3.11.7",
    "platform": "Linux",
    "cores": 2,
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "backend": "torch",
    "torch": "2.13.0",
    "device": "cpu",
    "threads": 1,
    "pretrained_sha256": None,
}


def write_run(path, accuracy, overrides=(), seed=0, source=None, **environment):
    """A run of mixup.py that has ended, at `path`, with that test accuracy. `source`: bytes of its recipe.py."""
    path.mkdir(parents=True)
    run, data = RunFolder(path), "/home/ada/cifar-10-batches-py"
    resolved = recipe.load(RECIPE).override([*overrides, f"seed={seed}", f"data={data}"])
    run.recipe_source.write_bytes(RECIPE.read_bytes() if source is None else source)
    run.recipe_json.write_text(resolved.to_json())
    command = ["train.py", "recipes/mixup.py", *overrides, "--seed", str(seed), "--data", data]
    run.environment.write_text(json.dumps({**ENVIRONMENT, "command": command, **environment}))
    run.log.write_text(f"epoch,learning_rate,loss,test_accuracy\n1,0.001,2.30258509,0.5\n2,0.0013,1.5,{accuracy}\n")
    metrics = {"test_accuracy": accuracy, "selected_on": resolved.select_on, "best_epoch": 2, "epochs": 2}
    metrics |= {"last_test_accuracy": accuracy, "train_seconds": 50.0, "images_per_second": 1000.0 + seed}
    run.metrics.write_text(json.dumps(metrics))
    return run
