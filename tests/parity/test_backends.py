"""Report B, SAM, and fast.py, on real images: torch against JAX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RUN = Path(__file__).with_name("run.py")
TOLERANCE = 1e-5
# Steps of SAM and overrides.
SMALL_BATCHES, SMOOTH = "75,batch_size=8", "3,smooth"
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def folder(cifar10_folder, tmp_path_factory):
    """Steps recorded on torch, and what each gives on JAX from torch's weights, moving statistics and slots."""
    folder = tmp_path_factory.mktemp("parity")
    for task, backend in (("record", "torch"), ("replay", "jax")):
        environment = {**os.environ, "KERAS_BACKEND": backend, "XDG_CACHE_HOME": str(folder)}
        command = [sys.executable, RUN, task, cifar10_folder, folder, SMALL_BATCHES, SMOOTH]
        subprocess.run(command, check=True, env=environment)
    for states in folder.glob("*.npy"):
        states.unlink()
    return folder


@pytest.fixture(scope="module")
def report_b(folder):
    """The arrays of the record on torch, and of the replay on JAX."""
    return [np.load(folder / f"{task}-report_b.npz") for task in ("record", "replay")]


@pytest.fixture(scope="module")
def steps(folder):
    """By case how far each step's variables are, each one vector, and their names; the losses are compared here."""
    found = {}
    for case in (SMALL_BATCHES, SMOOTH):
        recorded, replayed = (np.load(folder / f"{task}-{case}.npz") for task in ("record", "replay"))
        assert len(recorded["losses"]) == int(case.split(",")[0])
        assert np.ptp(recorded["losses"]) > 0.05, "the steps are of a training that moves"
        np.testing.assert_allclose(replayed["losses"], recorded["losses"], rtol=TOLERANCE)
        found[case] = replayed["distances"], replayed["names"]
    return found


def test_batches_of_report_b_are_equal(report_b):
    """Drawn on the host, so only the blending of MixUp can differ: by a rounding of float32."""
    torch, jax = report_b
    names = [name for name in torch.files if name.startswith(("images", "labels"))]
    assert len(names) == 2 * 2 * 3
    for name in names:
        np.testing.assert_allclose(jax[name], torch[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_first_steps_of_report_b_run_freely_are_equal(report_b):
    """Initial weights are drawn on the host too; float32 noise stays below 1e-5 for five steps."""
    torch, jax = report_b
    assert len(torch["free"]) == 5
    np.testing.assert_allclose(jax["free"], torch["free"], rtol=1e-5)


def test_steps_of_report_b_from_equal_states_are_equal(report_b):
    """Each step starts on JAX from torch's weights, moving statistics and optimizer slots: no noise builds up.

    Each layer's gradients, weights and moving statistics are one vector, compared by norm. A step can be compared where
    its gradient is well defined in float32. That is where the same value won every pooling window: where two tie, the
    last bit decides which one gets the gradient. And where all that BatchNorm divides by its deviation varies: of an
    ELU that is near its −1 for all 32 images, what is left are roundings, 6e-8 over the deviation.
    """
    recorded, replayed = report_b
    np.testing.assert_allclose(replayed["losses"], recorded["losses"], rtol=1e-5)
    names, distances = replayed["names"], replayed["distances"]
    same = (replayed["windows"] == 0) & (replayed["variances"] > 1e-3)
    assert len(names) == 9 + 4 + 9, names
    assert same.sum() >= 50, f"only {same.sum()} of {len(same)} steps can be compared"
    statistics = np.char.startswith(names, "moving")
    assert distances[:, statistics].max() < 1e-5, "moving statistics do not depend on gradients: every step"

    # Adam's very first step is lr·g/(|g| + ε): by the sign of g, noise for those near ε.
    assert distances[0].max() < 1e-4
    same[0] = False
    worst = distances[same].max(axis=0)
    print(f"{same.sum()} of {len(same)} steps; largest relative differences:")
    print("\n".join(f"  {value:.1e} {name}" for value, name in zip(worst, names, strict=True)))
    assert dict(zip(names[worst >= 1e-5], worst[worst >= 1e-5], strict=True)) == {}
    assert distances.max() < 0.05, "the other steps' gradients are those of neighbouring branches, still close"


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


def test_a_step_of_each_size_of_fast_is_equal(folder):
    """Whitened filters, flips, jitter, images of each size, Muon: run freely from the first step on."""
    torch, jax = (np.load(folder / f"{task}-fast.npz") for task in ("record", "replay"))
    sizes = [torch[name].shape[1] for name in torch.files if name.startswith("images")]
    assert sizes == sorted(set(sizes))
    assert len(sizes) >= 2
    np.testing.assert_allclose(jax["losses"], torch["losses"], rtol=TOLERANCE)
    for name in torch.files:
        # Muon grows the small singular values of a gradient, with the roundings in them: in three steps to 6e-4.
        most = 1e-6 if name.startswith(("images", "losses")) else 3e-3
        np.testing.assert_allclose(jax[name], torch[name], rtol=0, atol=most * np.abs(torch[name]).max(), err_msg=name)
