"""Which process does which run: one, until it dies, on this machine or on another."""

import time

import pytest

from kcifar.experiment.sweeping import claims
from kcifar.experiment.sweeping.claims import Claims
from kcifar.runs import lock
from kcifar.runs.folder import RunFolder
from tests.runs.test_lock import held

pytestmark = pytest.mark.once


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "a=1")
    run.path.mkdir()
    return run


def test_one_at_a_time(tmp_path, run):
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.turn():
        assert first.take("a=1", run)
        assert not first.take("a=1", run)
    with second.turn():
        assert not second.take("a=1", run)
        assert second.take("a=2", RunFolder(tmp_path / "a=2"))
    assert first.holds("a=1")
    assert not second.holds("a=1")
    first.give_back("a=1")
    assert second.take("a=1", run)
    for name in ("a=1", "a=2"):
        second.give_back(name)
    assert sorted(tmp_path.iterdir()) == [run.path]
    assert list(run.path.iterdir()) == []


def test_a_run_that_somebody_writes_without_a_claim_is_left_alone(tmp_path, run):
    mine = Claims(tmp_path)
    with lock.writing(run.path):
        assert not mine.take("a=1", run)
        assert not mine.holds("a=1")
    assert mine.take("a=1", run)


def test_who_died_elsewhere_is_waited_for(tmp_path, run, monkeypatch):
    """As long as a lease lasts: it is taken up by who has watched for so long that nobody renews it."""
    for module in (claims, lock):
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    mine = Claims(tmp_path)
    with held(run.path, "elsewhere", lease=0.5) as process:
        assert not mine.take("a=1", run)
        process.kill()
        process.wait()
        began = time.monotonic()
        while not mine.take("a=1", run):
            assert time.monotonic() < began + 60
        assert time.monotonic() > began + 0.3
