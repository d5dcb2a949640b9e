"""What every command does around its work: what Ctrl-C and a batch system's SIGTERM lead to."""

import argparse
import os
import signal
import subprocess
import sys
import threading

import pytest

from kcifar.commands import run_command
from kcifar.interrupts import ENDS_WITH_STDIN

pytestmark = pytest.mark.once


@pytest.fixture
def handlers():
    """Sets handlers of signals; those that were there come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield lambda found: [signal.signal(number, handler) for number, handler in found.items()]
    for number, handler in before.items():
        signal.signal(number, handler)


def command(work):
    return run_command(argparse.ArgumentParser(prog="python -m kcifar.train"), lambda options: work(), [])


@pytest.mark.parametrize(
    ("number", "handler"),
    [(signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)],
    ids=["INT", "TERM", "HUP"],
)
def test_a_signal_that_nothing_handles_ends_a_command(handlers, capsys, number, handler):
    """And only the command: what was there comes back."""
    handlers({number: handler})
    assert command(lambda: signal.raise_signal(number)) == 130
    assert signal.getsignal(number) == handler
    assert capsys.readouterr().err == "interrupted\n"


def test_nohup_is_respected(handlers):
    handlers({signal.SIGHUP: signal.SIG_IGN})
    assert command(lambda: signal.raise_signal(signal.SIGHUP)) == 0


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


STUCK = """
import argparse, hashlib, sys
from kcifar.commands import run_command, start

def work(options):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in which Python does not come to its handlers

def failing(options):
    print("begun", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        raise ImportError("numpy.core.multiarray failed to import")

sys.exit(start(lambda: run_command(argparse.ArgumentParser(prog="x"), {work}, [])))
"""


def begun(work, **environment):
    """A process whose command has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.replace("{work}", work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize(
    ("work", "numbers"),
    [("work", [signal.SIGTERM]), ("work", [signal.SIGINT, signal.SIGINT]), ("failing", [signal.SIGINT])],
    ids=["stuck", "twice", "error"],
)
def test_a_process_ends_in_one_line_wherever_it_is(work, numbers):
    process = begun(work)
    for number in numbers:
        process.send_signal(number)
    process.wait()
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130


def test_a_process_ends_with_the_one_that_holds_its_input():
    process = begun("work", **{ENDS_WITH_STDIN: "1"})
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130
