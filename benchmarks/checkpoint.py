"""Time what a run keeps behind an epoch: its state, and its best model where it is a better one.

Two checkouts, in turn, each time in a new process; the folder is on the disk that TMPDIR is on.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
_EXAMPLES = """\
examples:
  python benchmarks/checkpoint.py
  python benchmarks/checkpoint.py --before ../kcifar-before --rounds 5 --out benchmarks/results/checkpoint.json
"""


def seconds(epochs):
    """Of each epoch's checkpoint, by whether it is the best one so far: lists. ResNet-18 with SGD's momentum."""
    import keras

    from kcifar import models
    from kcifar.callbacks import Checkpoint

    image = keras.Input((224, 224, 3))
    model = keras.Model(image, models.resnet18(image, 10, seed=0))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    found = {"best": [], "not best": []}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(folder, "val_accuracy")
        checkpoint.set_model(model)
        checkpoint.set_params({"epochs": epochs, "steps": 1})
        checkpoint.on_train_begin()
        for epoch in range(epochs):
            best = epoch % 2 == 0
            os.sync()
            started = time.perf_counter()
            checkpoint.on_epoch_end(epoch, {"val_accuracy": epoch if best else -1.0})
            found["best" if best else "not best"].append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {name: values[1:] for name, values in found.items()} | {"bytes": size}


def measured(checkout, epochs):
    """`seconds` of a checkout, in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(epochs)]
    environment = os.environ | {"PYTHONPATH": str(Path(checkout).resolve()), "KERAS_BACKEND": "torch"}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout, which is measured in turn with this one")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each (default 3)")
    parser.add_argument("--epochs", type=int, default=12, help="checkpoints of a process (default 12)")
    parser.add_argument("--out", type=Path, help="a JSON file for the seconds")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(seconds(options.measure)))
        return
    checkouts = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    found = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            found[name].append(measured(checkout, options.epochs))
    for name, rounds in found.items():
        for kind in ("best", "not best"):
            values = sorted(value for one in rounds for value in one[kind])
            spread = f"{statistics.median(values):.3f} s ({values[0]:.3f} to {values[-1]:.3f}, n = {len(values)})"
            print(f"{name:<8}{kind:<10}{spread}")
        print(f"{name:<8}on disk   {rounds[0]['bytes']:,} bytes")
    if options.out:
        about = {"machine": platform.platform(), "model": "resnet18, SGD with momentum, float32"}
        options.out.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
