"""One process at a time writes into a run's folder, on this machine and on others that share the disk."""

import contextlib
import subprocess
import sys

import pytest

from kcifar import InputError
from kcifar.runs import lock
from kcifar.runs.lock import LOCK, writing

pytestmark = pytest.mark.once

# Another process, of another machine where its name is: it holds the lock until its input ends, then gives it back.
HOLDER = """
import socket, sys
from kcifar.runs import lock
folder, machine, lock.LEASE_SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
if machine:
    socket.gethostname = lambda: machine
with lock.writing(folder):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder, machine="", lease=30):
    command = [sys.executable, "-c", HOLDER, str(folder), machine, str(lease)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def test_a_second_one_is_refused_until_the_first_gives_it_back(tmp_path):
    with held(tmp_path) as process:
        with (
            pytest.raises(InputError, match=rf"is being written by process {process.pid} on .*stop it"),
            writing(tmp_path),
        ):
            pass
        process.communicate("")
        with writing(tmp_path) as writer:
            writer.expect_mine()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_edited(tmp_path, monkeypatch):
    with held(tmp_path, "elsewhere", lease=31), pytest.raises(InputError, match=r"lease of 31.*remove it"):
        writing(tmp_path).__enter__()


def test_the_dead_hold_nothing(tmp_path):
    with held(tmp_path) as process:
        process.kill()
        process.wait()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        with writing(tmp_path):
            pass


def test_a_holder_on_another_machine_has_it_while_it_renews_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 2)
    with held(tmp_path, "elsewhere", lease=2) as process:
        with pytest.raises(InputError, match=rf"written by process {process.pid} on elsewhere"), writing(tmp_path):
            pass
        assert "waiting whether it is alive" in capsys.readouterr().out
        process.kill()
        process.wait()
        with writing(tmp_path):
            pass


def test_one_that_was_halted_too_long_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1)
    with writing(tmp_path) as writer:
        (tmp_path / LOCK).unlink()
        with held(tmp_path), pytest.raises(InputError, match=r"was taken over by process .* it ends here"):
            writer.expect_mine()
