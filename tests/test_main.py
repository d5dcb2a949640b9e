"""`kcifar COMMAND` and `python -m kcifar`: the same commands under one name."""

import pytest

import kcifar
from kcifar.__main__ import main

pytestmark = pytest.mark.once


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(capsys, arguments):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for command in ("train", "evaluate", "vote", "predict", "report"):
        assert f"kcifar {command}" in printed


def test_a_command_gets_what_follows_its_name(capsys):
    assert main(["train", "no/such/recipe.py"]) == 2
    assert capsys.readouterr().err.startswith("train: no recipe at 'no/such/recipe.py'")
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--help"])
    assert ended.value.code == 0
    assert "IMAGE" in capsys.readouterr().out


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == kcifar.__version__


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "kcifar: there is no command 'trian'; did you mean 'train'?\n"
