"""The curves of a run while it trains: how often they are drawn, and what is in them."""

import csv

import keras
import numpy as np
import pytest

from kcifar.callbacks import live_figures
from kcifar.callbacks.live_figures import LiveCurves
from kcifar.callbacks.run_log import RunLog
from kcifar.runs import figures

pytestmark = pytest.mark.once


class Clock:
    """In the place of `time`: goes on when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


class Log:
    rows = ()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(live_figures, "time", clock)
    return clock


def drawn_epochs(monkeypatch, clock, seconds, drawings, epochs, first=0):
    """The epochs, counted from 1, that are drawn, where each takes so many seconds, and each drawing those of a list.

    The last drawing of the list stands for all later ones too.
    """
    found = []
    monkeypatch.setattr(figures, "curves", lambda rows, selected_on: "figure")

    def save(figure, path):
        clock.now += drawings[min(len(found), len(drawings) - 1)]
        found.append(epoch + 1)

    monkeypatch.setattr(figures, "save", save)
    callback = LiveCurves("curves.png", Log(), "validation")
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    for epoch in range(first, epochs):
        clock.now += seconds
        callback.on_epoch_end(epoch)
    return found


def test_long_epochs_are_all_drawn_but_the_last(clock, monkeypatch):
    """A drawing takes 1 s, so the next waits 20 s."""
    assert drawn_epochs(monkeypatch, clock, 20, [1], epochs=4) == [1, 2, 3]


def test_short_epochs_are_drawn_after_twenty_times_what_the_drawing_took(clock, monkeypatch):
    """Epochs of 3 s: 20 s are over after seven of them."""
    assert drawn_epochs(monkeypatch, clock, 3, [1], epochs=20) == [1, 8, 15]


def test_a_drawing_that_takes_longer_makes_the_next_wait_longer(clock, monkeypatch):
    """Of 1 s, 20 s and two epochs of 10 s; then of 3 s, 60 s and six epochs."""
    assert drawn_epochs(monkeypatch, clock, 10, [1, 3, 1], epochs=12) == [1, 3, 9, 11]


@pytest.mark.parametrize("seconds", [0.01, 0.5, 7])
def test_drawing_takes_less_than_a_twentieth_of_the_time(clock, seconds, monkeypatch):
    start = clock.now
    drawn = drawn_epochs(monkeypatch, clock, seconds, [0.5], epochs=3000)
    assert len(drawn) > 1
    assert (len(drawn) - 1) * 0.5 < 0.05 * (clock.now - start)  # but for the first


def test_a_resumed_run_is_drawn_after_its_first_epoch(clock, monkeypatch):
    assert drawn_epochs(monkeypatch, clock, 1, [1], epochs=10, first=6) == [7]


def test_the_picture_shows_the_rows_of_the_log(tmp_path, monkeypatch):
    """After each but the last of three epochs it is that of the rows of log.csv so far."""
    monkeypatch.setattr(live_figures, "_PAUSE", 0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mean_squared_error", metrics=["accuracy"])
    log, path, pictures = RunLog(tmp_path / "log.csv", lambda step: 0.1), tmp_path / "curves.png", []

    def evaluate(epoch, logs):
        logs |= {"train_loss": 2 - epoch, "train_accuracy": epoch / 4}

    def keep(epoch, logs):
        pictures.append(path.read_bytes())

    before, after = (keras.callbacks.LambdaCallback(on_epoch_end=function) for function in (evaluate, keep))
    callbacks = [before, log, LiveCurves(path, log, "train"), after]
    model.fit(np.ones((4, 3)), np.eye(2)[[0, 1, 0, 1]], 2, epochs=3, callbacks=callbacks, verbose=0)

    with open(log.path, encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 3
    expected = []
    for count in (1, 2, 2):
        figures.save(figures.curves(rows[:count], "train"), tmp_path / "expected.png")
        expected.append((tmp_path / "expected.png").read_bytes())
    assert pictures == expected
    assert len(set(pictures)) == 2
