"""Tiny runs for the tests of the report."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kcifar import data
from kcifar.train import main as train

RECIPE = Path(__file__).parents[1] / "recipes" / "mixup.py"


def write_images(path, first=0, without=None):
    """An .npz with 200 + 100 of the drawn images, test images from the place `first` on, none of one class."""
    drawn = data.load("demo")
    test = first + np.flatnonzero(drawn.test.labels[first:] != without)[:100]
    arrays = {"x_train": drawn.train.images[:200], "y_train": drawn.train.labels[:200]}
    np.savez(path, **arrays, x_test=drawn.test.images[test], y_test=drawn.test.labels[test])
    return path


def make_runs(folder):
    """Three runs in `folder`: "honest" with validation images, "chosen" on the test set, "going" not yet at its end."""
    images = str(write_images(folder / "images.npz"))
    common = ["batch_size=20", "select_from_epoch=1", "schedule=none", "model=tutorial_net()", "--data", images]
    honest = ["epochs=8", "validation=0.2", "select_on=validation"]
    chosen = ["epochs=1", "select_on=test", "transforms=[]", "seed=7"]
    for name, overrides in (("honest", honest), ("chosen", chosen)):
        arguments = [str(RECIPE), *overrides, *common, "--out", str(folder / name)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["train.py", *arguments])  # as on the command line, for environment.json
            assert train(arguments) == 0
    shutil.copytree(folder / "honest", folder / "going")
    (folder / "going" / "metrics.json").unlink()
    return folder
