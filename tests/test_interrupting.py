"""What every command does around its work: what Ctrl-C and a batch system's SIGTERM lead to."""

import argparse
import signal
import threading

import pytest

from kcifar.commands import run_command

pytestmark = pytest.mark.once


@pytest.fixture
def handlers():
    """Sets handlers of signals; those that were there come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda found: [signal.signal(number, handler) for number, handler in found.items()]
    for number, handler in before.items():
        signal.signal(number, handler)


def command(work):
    return run_command(argparse.ArgumentParser(prog="python -m kcifar.train"), lambda options: work(), [])


@pytest.mark.parametrize(
    ("number", "handler"), [(signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)], ids=["INT", "TERM"]
)
def test_a_signal_that_nothing_handles_ends_a_command(handlers, number, handler):
    """And only the command: what was there comes back."""
    handlers({number: handler})
    assert command(lambda: signal.raise_signal(number)) == 130
    assert signal.getsignal(number) == handler


def test_handlers_of_the_program_that_calls_a_command_stay(handlers):
    seen = []
    handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, frame: seen.append(number)))
    assert command(lambda: [signal.raise_signal(n) for n in (signal.SIGINT, signal.SIGTERM)]) == 0
    assert seen == [signal.SIGINT, signal.SIGTERM]


def test_a_command_runs_in_a_thread(handlers):
    """Where Python lets nobody set handlers."""
    handlers({signal.SIGTERM: signal.SIG_DFL})
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]
