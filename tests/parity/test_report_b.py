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
    """Runs the worker on a backend and gives its arrays."""
    folder = tmp_path_factory.mktemp("parity")
    states = folder / "states.npy"

    def run(task, backend, first=0):
        out = folder / f"{task}-{backend}.npz"
        environment = {**os.environ, "KERAS_BACKEND": backend, "XDG_CACHE_HOME": str(folder)}
        subprocess.run(
            [sys.executable, WORKER, task, cifar10_folder, out, states, str(first)], check=True, env=environment
        )
        return np.load(out)

    yield run
    states.unlink(missing_ok=True)


def test_batches_are_equal(work):
    """Drawn on the host, so only the blending of MixUp can differ: by a rounding of float32."""
    torch, jax = work("batches", "torch"), work("batches", "jax")
    assert torch.files == jax.files
    for name in torch.files:
        np.testing.assert_allclose(jax[name], torch[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_first_steps_run_freely_are_equal(work):
    """Initial weights are drawn on the host too; float32 noise stays below 1e-5 for five steps."""
    np.testing.assert_allclose(work("free", "jax")["losses"], work("free", "torch")["losses"], rtol=1e-5)


def test_steps_from_equal_states_are_equal(work):
    """Each step starts on JAX from torch's weights, moving statistics and optimizer slots: no noise builds up.

    Each layer's gradients, weights and moving statistics are one vector, compared by norm. A step can be compared where
    its gradient is well defined in float32, which is where the same value won every pooling window: where two tie, the
    last bit decides which one gets the gradient. Steps are taken until 50 can be.
    """
    distances, same, first = [], [], 0
    while np.sum(same) < 50 and first < 500:
        recorded, replayed = work("record", "torch", first), work("replay", "jax", first)
        np.testing.assert_allclose(replayed["losses"], recorded["losses"], rtol=1e-5)
        distances.extend(replayed["distances"])
        same.extend(replayed["windows"] == 0)
        first = len(same)

    names, distances, same = replayed["names"], np.array(distances), np.array(same)
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
