"""What `kcifar.train --list` prints: every name there is, as a recipe may have it."""

import re

import pytest

from kcifar.experiment.components import KINDS
from kcifar.experiment.listing import listing
from kcifar.recipe import load, packaged

pytestmark = pytest.mark.once


@pytest.mark.parametrize("kind", ["models", "transforms", "losses", "optimizers", "schedules", "callbacks"])
def test_each_name_has_its_arguments_and_a_line(kind):
    lines = listing(kind).splitlines()
    known = KINDS[{"losses": "loss"}.get(kind, kind[:-1])]
    assert [re.match(r"\w+", line)[0] for line in lines[:-1:2]] == list(known)
    assert all(line.startswith("    ") and line.strip().endswith(".") for line in lines[1:-1:2])
    assert "package.module:Name" in lines[-1]


def test_arguments_have_their_defaults():
    assert "MixUp(alpha, probability=1.0)\n" in listing("transforms")
    assert "resnet18(stem='imagenet', hidden=None, dropout=0.0)\n" in listing("models")
    assert "StepDecay(decay_epochs, gamma=0.1)\n" in listing("schedules")


def test_recipes_have_the_first_line_of_their_docstrings():
    lines = listing("recipes").splitlines()
    assert lines[::2] == list(packaged())
    assert all(load(name) for name in lines[::2])
    assert lines[lines.index("recipes/mixup.py") + 1].strip().startswith("ELU CNN with MixUp")
