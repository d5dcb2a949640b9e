"""The learning-rate range test: its rates grow, its losses are those of the batches, it ends where they explode."""

from pathlib import Path

import keras
import numpy as np
import pytest

from kcifar import InputError, recipe
from kcifar.experiment.range_test import RangeTest, range_test, smoothed
from kcifar.sweep import main as sweep

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.py"
SMALL = ["model=tutorial_net()", "validation=0", "select_on=last", "transforms=[]", "drop_last=false", "schedule=none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz with 130 + 20 images of noise: 26 batches of 5."""
    rng, path, arrays = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "images.npz", {}
    for name, count in (("train", 128), ("test", 20)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"y_{name}"] = rng.integers(0, 10, count)
    np.savez(path, **arrays)
    return path


@pytest.mark.usefixtures("quick_compilation")
def test_its_rates_and_losses(images, tmp_path, capsys):
    """At rates of nearly 0 each loss is that of the first weights on its batch, also of the last, smaller batch."""
    given = [str(RECIPE), "--range-test", *SMALL, "batch_size=5", "optimizer=SGD(learning_rate=0.1)"]
    assert sweep([*given, "--data", str(images), "--out", str(tmp_path / "test")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("the smoothed loss falls steepest at ")
    assert said[1] == str(tmp_path / "test" / "range_test.png")
    rates, losses, means = np.loadtxt(tmp_path / "test" / "range_test.csv", delimiter=",", skiprows=1).T
    np.testing.assert_allclose(rates, np.geomspace(1e-6, 10, 26)[: len(rates)], rtol=1e-6)
    np.testing.assert_allclose(means, smoothed(losses), rtol=1e-9)
    from kcifar.experiment import plan

    planned = plan(recipe.load(RECIPE).override([*SMALL, "batch_size=5", f"data={images}", "epochs=1"]))
    taken = [planned.batches[place] for place in range(8)]
    first = [keras.ops.convert_to_numpy(planned.model.loss(y, planned.model(x, training=False))) for x, y in taken]
    np.testing.assert_allclose(losses[:8], first, rtol=2e-3)  # rates up to 1e-4, and means told in float32


def test_the_mean():
    """By hand: 1, then (0.98·0.02·1 + 0.02·3) / (1 − 0.98²)."""
    assert smoothed([1.0, 3.0]) == pytest.approx([1.0, (0.98 * 0.02 + 0.06) / (1 - 0.98**2)])


def test_the_steepest_point():
    """Of a curve that falls fastest in the middle of its decades."""
    rates = np.geomspace(1e-6, 10, 400)
    losses = 2.3 - 2 / (1 + np.exp(-3 * (np.log10(rates) + 3)))  # a step of the logistic function at 1e-3
    losses[rates > 1e-1] = 30
    found = RangeTest(rates, losses)
    assert 1e-3 < found.steepest < 1e-2  # a mean is behind
    assert found.steepest < found.lowest < 0.15
    assert RangeTest(rates, np.linspace(1, 2, 400)).steepest is None


def test_epochs_that_are_too_short(images):
    with pytest.raises(InputError, match=r"has 2 steps of batch_size=64; expected 20 or more"):
        range_test(recipe.load(RECIPE).override([*SMALL, "batch_size=64", f"data={images}"]))


@pytest.mark.once
def test_what_is_refused(capsys):
    for given, message in [
        (["--trials", "3"], "--trials is for sweeps"),
        (["--workers", "2"], "--workers is for sweeps"),
        (["epochs=1,2"], "'epochs=1,2' varies"),
    ]:
        assert sweep([str(RECIPE), "--range-test", *given]) == 2
        assert message in capsys.readouterr().err
