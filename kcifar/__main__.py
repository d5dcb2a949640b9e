"""CIFAR-10 classifiers in Keras 3: train, sweep, evaluate, vote, predict, report."""

import importlib
import sys

import kcifar
from kcifar.commands import start
from kcifar.errors import nearest
from kcifar.output import note, say

_COMMANDS = {
    "train": "train a classifier from a recipe",
    "sweep": "many configurations of a recipe: a grid, or drawn from ranges",
    "evaluate": "accuracy, calibration, confusion of a run's best model",
    "vote": "let runs vote, and write the best ensemble as one file",
    "predict": "the classes of images",
    "report": "one HTML page of a run, or of several compared",
}


def main(arguments=None):
    """The command `kcifar COMMAND …`, the same as `python -m kcifar.COMMAND …`; returns its exit code."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        say(f"usage: kcifar COMMAND …\n\n{__doc__}\n")
        say("\n".join(f"  kcifar {name:<10}{what}" for name, what in _COMMANDS.items()))
        say("\nexamples:\n  kcifar train recipes/demo.py\n  kcifar train --list recipes\n  kcifar COMMAND --help")
        return 0
    if command == "--version":
        say(kcifar.__version__)
        return 0
    if command not in _COMMANDS:
        note(f"kcifar: there is no command '{command}'; {nearest(command, _COMMANDS)}")
        return 2
    return importlib.import_module(f"kcifar.{command}").main(rest)


def run():
    """The console script."""
    sys.exit(start(main))


if __name__ == "__main__":
    run()
