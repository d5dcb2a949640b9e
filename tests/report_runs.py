"""Tiny runs for the tests of the report."""

import shutil
from pathlib import Path

import numpy as np

from kcifar import data
from kcifar.train import main as train

RECIPE = Path(__file__).parents[1] / "recipes" / "mixup.py"


def write_images(path, first=0):
    """An .npz with 200 + 100 of the drawn images, the test images from the place `first` on."""
    drawn = data.load("demo")
    test = slice(first, first + 100)
    arrays = {"x_train": drawn.train.images[:200], "y_train": drawn.train.labels[:200]}
    np.savez(path, **arrays, x_test=drawn.test.images[test], y_test=drawn.test.labels[test])
    return path


def make_runs(folder):
    """Three runs in `folder`: "honest" with validation images, "chosen" on the test set, "going" not yet at its end."""
    images = str(write_images(folder / "images.npz"))
    common = ["batch_size=20", "select_from_epoch=1", "schedule=none", "--data", images]
    honest = ["epochs=2", "validation=0.2", "select_on=validation"]
    chosen = ["epochs=1", "select_on=test", "transforms=[]", "seed=7"]
    for name, overrides in (("honest", honest), ("chosen", chosen)):
        assert train([str(RECIPE), *overrides, *common, "--out", str(folder / name)]) == 0
    shutil.copytree(folder / "honest", folder / "going")
    (folder / "going" / "metrics.json").unlink()
    return folder
