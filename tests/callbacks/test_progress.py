"""What is shown while a run trains."""

import io
import itertools
import re

import pytest
from rich.console import Console

from kcifar.callbacks import progress
from kcifar.callbacks.progress import ProgressBar, _duration

pytestmark = pytest.mark.once

STEPS, BATCH, IMAGES = 5, 30, 130  # the last batch has 10


class Clock:
    """In the place of `time`: goes on by some seconds whenever it is looked at."""

    def __init__(self, seconds):
        self.times = itertools.count(step=seconds)

    def perf_counter(self):
        return next(self.times)


def shown(monkeypatch, seconds=0, every=None, terminal=False, epochs=2):
    """The lines of a run whose accuracy is 1/3 throughout."""
    monkeypatch.setattr(progress, "time", Clock(seconds))
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False, color_system=None)
    bar = ProgressBar(lambda step: 0.125, IMAGES, BATCH, every, console)
    bar.set_params({"steps": STEPS, "epochs": epochs})
    bar.on_train_begin()
    for epoch in range(epochs):
        bar.on_epoch_begin(epoch)
        for batch in range(STEPS):
            bar.on_train_batch_end(batch, {"loss": 2.5 / (batch + 1), "accuracy": 1 / 3})
        logs = {"loss": 0.5, "accuracy": 1 / 3, "train_accuracy": 0.5, "test_accuracy": 0.25, "learning_rate": 0.125}
        bar.on_epoch_end(epoch, logs)
    bar.close()
    return out.getvalue().splitlines()


def test_a_line_every_so_many_batches_has_loss_accuracy_counts_and_time(monkeypatch):
    """The clock is looked at on the way: 10 s each time."""
    lines = shown(monkeypatch, seconds=10, every=2)
    within = [line for line in lines if "batch" in line]
    assert [re.search(r"epoch (\d/\d)  batch (\d/\d)", line).groups() for line in within] == [
        ("1/2", "2/5"),
        ("1/2", "4/5"),
        ("2/2", "2/5"),
        ("2/2", "4/5"),
    ]
    assert within[0] == "epoch 1/2  batch 2/5  loss 1.2500  accuracy 33.33% (20 of 60)  3 images/s  30 s"
    assert "(40 of 120)" in within[1]


def test_the_last_batch_is_counted_as_small_as_it_is(monkeypatch):
    assert "(43 of 130)" in next(line for line in shown(monkeypatch, seconds=1, every=1) if "batch 5/5" in line)


def test_lines_are_in_order_where_a_batch_overtakes_another():
    out = io.StringIO()
    bar = ProgressBar(lambda step: 0.125, IMAGES, BATCH, 1, Console(file=out, width=200))
    bar.set_params({"steps": STEPS, "epochs": 1})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    for batch in (1, 0, 2, 4, 3):
        bar.on_train_batch_end(batch, {"loss": 1.0, "accuracy": 0.5})
    assert re.findall(r"batch (\d)", out.getvalue()) == list("12345")


@pytest.mark.parametrize(("seconds", "lines"), [(1, 0), (20, 1), (60, 5)])
def test_without_a_bar_there_is_a_line_a_minute(monkeypatch, seconds, lines):
    """An epoch of 5 looks at the clock."""
    found = shown(monkeypatch, seconds=seconds, epochs=1)
    assert len([line for line in found if "batch" in line]) == lines


def test_on_a_terminal_there_is_a_bar_instead(monkeypatch):
    text = "\n".join(shown(monkeypatch, seconds=60, terminal=True))
    assert "batch" not in text
    assert "━" in text


def test_a_line_an_epoch_has_the_accuracy_of_each_split(monkeypatch):
    line = shown(monkeypatch, seconds=1)[-1]
    assert line.startswith("epoch 2/2  loss 0.5000  accuracy: ")
    assert "train 50.00%, test 25.00%" in line
    assert "lr 0.125" in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min 00 s"),
        (3723, "1 h 02 min 03 s"),
        (90_061, "25 h 01 min 01 s"),
    ],
)
def test_times_are_in_hours_minutes_and_seconds(seconds, text):
    assert _duration(seconds) == text
