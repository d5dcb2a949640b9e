"""What a process sees of the first one, when it is interrupted."""

import threading
import time

import pytest
from torch.distributed import HashStore

from kcifar.backend.torch import watch

pytestmark = pytest.mark.once  # for torch alone


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(watch, "_BETWEEN", 0.2)
    return HashStore()


def seen(store, first):
    """What two others see of a process 0 that has left this sign of life."""
    store.set("alive 0", first)
    others = [watch.Watch(store, rank, 3) for rank in (1, 2)]
    found = [other.first_is_gone() for other in others]
    for other in others:
        other.leave()
    return found


def test_one_that_is_silent_is_told_once(store):
    assert seen(store, "7") == [True, False]


def test_one_that_has_left_is_not_gone(store):
    assert seen(store, "done") == [False, False]


def test_one_that_lives_is_not_gone(store):
    over = threading.Event()

    def live():
        for number in range(100):
            store.set("alive 0", str(number))
            if over.wait(0.05):
                return

    living = threading.Thread(target=live)
    living.start()
    time.sleep(0.1)
    try:
        assert seen(store, "0") == [False, False]
    finally:
        over.set()
        living.join()
