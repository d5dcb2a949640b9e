"""Sweeps without waiting."""

import pytest

from kcifar.experiment.sweeping import runner


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_TURNS", 0.0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "sweep"
