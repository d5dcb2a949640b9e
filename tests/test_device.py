"""The option that names a device, in every command that computes."""

import json
import subprocess
import sys

import pytest

from kcifar.evaluate import main as evaluate
from kcifar.predict import main as predict
from kcifar.report import main as report
from kcifar.train import main as train
from kcifar.vote import main as vote


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """The commands set these for themselves and for those that they start."""
    for name in ("KCIFAR_DEVICE", "KERAS_TORCH_DEVICE", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def complaint(capsys, command, *arguments):
    assert command([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@pytest.mark.parametrize("name", ["cuda:77", "gpu:77", "quantum"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name, tmp_path, capsys):
    for command in (train, evaluate, report):
        line = complaint(capsys, command, tmp_path / "run", "--device", name)
        assert f"the device is '{name}', which is not here; expected cpu" in line
    for command in (vote, predict):
        line = complaint(capsys, command, tmp_path / "run", tmp_path / "other", "--device", name)
        assert f"the device is '{name}', which is not here; expected cpu" in line


def test_the_device_is_recorded_and_handed_on():
    """In a process of its own, as Keras reads the device when it is imported."""
    program = (
        "import json, os, sys, kcifar.commands, argparse\n"
        "parser = argparse.ArgumentParser()\n"
        "kcifar.commands.add_device_option(parser)\n"
        "def work(options):\n"
        "    from kcifar import backend\n"
        "    print(json.dumps([backend.describe()['device'], os.environ['KCIFAR_DEVICE']]))\n"
        "sys.exit(kcifar.commands.run_command(parser, work))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "--device", "cpu"], capture_output=True, check=True)
    assert json.loads(done.stdout) == ["cpu", "cpu"]
