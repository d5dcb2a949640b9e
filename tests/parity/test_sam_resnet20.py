"""SAM on real images: torch against JAX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("sam_resnet20_worker.py")
TOLERANCE = 1e-5
SMALL_BATCHES, SMOOTH = "75,batch_size=8", "4,smooth"  # steps and overrides
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def steps(cifar10_folder, tmp_path_factory):
    """Takes steps on torch, and each again on JAX from torch's weights, moving statistics and velocities.

    By case how far each step's variables are, each one vector, and their names; the losses are compared here.
    """
    folder = tmp_path_factory.mktemp("parity")
    for task, backend in (("record", "torch"), ("replay", "jax")):
        environment = {**os.environ, "KERAS_BACKEND": backend, "XDG_CACHE_HOME": str(folder)}
        command = [sys.executable, WORKER, task, cifar10_folder, folder, SMALL_BATCHES, SMOOTH]
        subprocess.run(command, check=True, env=environment)
    found = {}
    for case in (SMALL_BATCHES, SMOOTH):
        recorded, replayed = (np.load(folder / f"{task}-{case}.npz") for task in ("record", "replay"))
        assert len(recorded["losses"]) == int(case.split(",")[0])
        assert np.ptp(recorded["losses"]) > 0.1, "the steps are of a training that moves"
        np.testing.assert_allclose(replayed["losses"], recorded["losses"], rtol=TOLERANCE)
        found[case] = replayed["distances"], replayed["names"]
        (folder / f"{case}.npy").unlink()
    return found


def test_steps_of_sam_resnet20_from_equal_states_are_equal(steps):
    """Losses of all steps; new weights and moving statistics of at least 50.

    A step can be compared where its two gradients are well defined in float32: where no input of a ReLU is so near 0
    that the last bit decides whether it passes. One that differs changes the gradient by a thousandth or so, rounding
    by a ten-millionth: the outcome tells which of the two it is. With 25 million ReLUs a pass, hardly any step is free
    of it at the recipe's batch of 128: so a batch of 8 is taken.
    """
    distances, names = steps[SMALL_BATCHES]
    worst = distances.max(axis=1)
    clear = worst < TOLERANCE
    largest = distances[clear].max(axis=0)
    print(f"{clear.sum()} of {len(clear)} steps within {TOLERANCE}; the largest difference there {largest.max():.1e}")
    print(f"of {names[largest.argmax()]}; in the other steps from {min(worst[~clear], default=0):.1e}")
    assert clear.sum() >= 50, f"only {clear.sum()} of {len(clear)} steps can be compared"
    assert len(clear) < 1.5 * clear.sum(), "a step that differs is an exception"
    statistics = np.char.find(names, "moving") >= 0
    assert distances[:, statistics].max() < TOLERANCE, "moving statistics are of the first forward pass: every step"
    assert worst.max() < 0.1, "the other steps' gradients are those of neighbouring branches, still close"


def test_with_a_smooth_activation_every_step_at_the_recipes_batch_is_equal(steps):
    distances, names = steps[SMOOTH]
    largest = distances.max(axis=0)
    print(f"largest difference {largest.max():.1e} of {names[largest.argmax()]}")
    assert largest.max() < TOLERANCE
