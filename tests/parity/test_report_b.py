"""Report B on real images: torch against JAX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def work(cifar10_folder, tmp_path_factory):
    """The arrays of the worker's record on torch, and of its replay on JAX."""
    folder = tmp_path_factory.mktemp("parity")
    states, found = folder / "states.npy", []
    for task, backend in (("record", "torch"), ("replay", "jax")):
        out = folder / f"{task}.npz"
        environment = {**os.environ, "KERAS_BACKEND": backend, "XDG_CACHE_HOME": str(folder)}
        subprocess.run([sys.executable, WORKER, task, cifar10_folder, out, states], check=True, env=environment)
        found.append(np.load(out))
    states.unlink()
    return found


def test_batches_are_equal(work):
    """Drawn on the host, so only the blending of MixUp can differ: by a rounding of float32."""
    torch, jax = work
    names = [name for name in torch.files if name.startswith(("images", "labels"))]
    assert len(names) == 2 * 2 * 3
    for name in names:
        np.testing.assert_allclose(jax[name], torch[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_first_steps_run_freely_are_equal(work):
    """Initial weights are drawn on the host too; float32 noise stays below 1e-5 for five steps."""
    torch, jax = work
    assert len(torch["free"]) == 5
    np.testing.assert_allclose(jax["free"], torch["free"], rtol=1e-5)


def test_steps_from_equal_states_are_equal(work):
    """Each step starts on JAX from torch's weights, moving statistics and optimizer slots: no noise builds up.

    Each layer's gradients, weights and moving statistics are one vector, compared by norm. A step can be compared where
    its gradient is well defined in float32. That is where the same value won every pooling window: where two tie, the
    last bit decides which one gets the gradient. And where all that BatchNorm divides by its deviation varies: of an
    ELU that is near its −1 for all 32 images, what is left are roundings, 6e-8 over the deviation.
    """
    recorded, replayed = work
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
