"""What every command does around its work."""

import argparse

import pytest

from kcifar import InputError
from kcifar.commands import run_command

pytestmark = pytest.mark.once


def ran(monkeypatch, world_size):
    """(exit code, whether the work was done) of a command in an environment with that WORLD_SIZE."""
    if world_size is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    done = []
    return run_command(argparse.ArgumentParser(prog="kcifar.train"), done.append, []), bool(done)


@pytest.mark.parametrize("world_size", ["2", "16", "two"])
def test_one_of_several_processes_ends_in_one_line_before_any_work(world_size, monkeypatch, capsys):
    assert ran(monkeypatch, world_size) == (2, False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train: the variable WORLD_SIZE is '{world_size}'")
    assert "expected 1" in line


@pytest.mark.parametrize("world_size", [None, "", "1"])
def test_a_process_of_its_own_works(world_size, monkeypatch, capsys):
    assert ran(monkeypatch, world_size) == (0, True)
    assert not capsys.readouterr().err


def test_a_line_that_a_file_wrote_into(capsys):
    def work(options):
        raise InputError("\x1b[31m\0" + "A" * 4 * 2**20 + " do this\nthen that")

    assert run_command(argparse.ArgumentParser("kcifar.train"), work, []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert line.startswith("train: \\x1b[31m\\x00AAA")
    assert line.endswith("do this then that")
    assert len(line) <= 300
