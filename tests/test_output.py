"""Text that users bring: on a terminal it is text, whatever is in it, and no output ends a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcifar import output
from kcifar.commands import Parser, run_command
from kcifar.errors import InputError

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
ESCAPE = "a\x1b[31mred"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain $5 <b> [red]", "plain $5 <b> [red]"),
        (ESCAPE, r"a\x1b[31mred"),
        ("a\nb\r\t\x7f\x9b", r"a\nb\r\t\x7f\x9b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),  # would turn the direction of what follows
        ("漢字\u3000全角 שלום", "漢字\u3000全角 שלום"),
        ("👨\u200d👩", "👨\u200d👩"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),  # a file's name that is no UTF-8
        (os.fsdecode("漢".encode()), "漢"),
        ("\udce6\udcbc\udca2", "漢"),  # the same, as Python reads it where LANG is C
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_shown_as_their_codes(text, shown):
    assert output.printable(text) == shown


def test_lines_stay_lines_and_json_stays_json(capsys):
    output.say(f"one\n{ESCAPE}")
    assert capsys.readouterr().out == "one\na\\x1b[31mred\n"
    output.say_json([ESCAPE, "\x7f"])
    out = capsys.readouterr().out
    assert json.loads(out) == [ESCAPE, "\x7f"]
    assert out.replace("\n", "").isprintable()
    output.warn(f"{ESCAPE}\n")
    assert capsys.readouterr().err == "warning: a\\x1b[31mred\n"


def test_columns_are_as_wide_as_a_terminal_shows_their_signs():
    assert output.left("漢字", 5) == "漢字 "
    assert output.right("漢字", 5) == " 漢字"
    assert output.cut("漢字漢", 5) == "漢字"
    assert output.cut("abc", 3) == "abc"


def test_what_is_wrong_is_said_in_one_line_without_codes(capsys):
    def work(options):
        raise InputError(f"'{ESCAPE}{'x' * 400}'\nis no \x9b run")

    parser = Parser("predict", "about", "examples")
    assert run_command(parser, work, []) == 2
    line = capsys.readouterr().err
    assert line == f"predict: 'a\\x1b[31mred{'x' * 10}…{'x' * 38}' is no \\x9b run\n"
    assert run_command(parser, work, [ESCAPE]) == 2
    assert "unrecognized arguments: a\\x1b[31mred; " in capsys.readouterr().err


def test_how_to_go_on_is_said_whole_however_long_the_path_is(capsys):
    command = f"kcifar train --resume '/{'folder  of/' * 40}run'"

    def work(options):
        raise InputError("what is wrong is " + "told at length " * 40, f"go on with {command}")

    assert run_command(Parser("predict", "about", "examples"), work, []) == 2
    line = capsys.readouterr().err
    assert line.startswith("predict: what is wrong is told at length told ")
    assert line.endswith(f" told at length; go on with {command}\n")
    assert len(line) == 181 + len(f"; go on with {command}")


def test_of_a_long_line_long_paths_are_cut_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = f"/home/{'deep/' * 40}images.npz"
    output.warn(f"'{path}' is one, '{path}' another, '{tmp_path / 'here'}' the third, as {'words ' * 10}tell")
    begin, end = f"'{path}"[:20], f"{path}'"[-39:]
    words = "words " * 10
    told = f"'{begin[1:]}…{end} is one, '{begin[1:]}…{end} another, 'here' the third, as {words}tell"
    assert capsys.readouterr().err == f"warning: {told}\n"


COMMAND = [sys.executable, "-m", "kcifar"]


def shell(line, **environment):
    """The exit code of kcifar in a line of a shell, and what it printed on stderr."""
    line = line.format(" ".join(COMMAND))
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=variables)
    return ended.returncode, ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a line of bash")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{} --version >&-", 0),
        ("{} predict none none.png 2>&- >&-", 2),
        ("{} --help | true; exit ${{PIPESTATUS[0]}}", 0),
        ("{} train --help | true; exit ${{PIPESTATUS[0]}}", 0),
        ("PYTHONIOENCODING=ascii {} --help", 0),
    ],
)
def test_output_that_nobody_reads_or_that_cannot_hold_a_sign_is_no_error(line, code):
    assert shell(line) == (code, "")


# Without what Unix alone has: as on Windows, as far as kcifar's own code goes.
ELSEWHERE = """
import os, signal, sys
import PIL.Image, filelock, keras, matplotlib.figure, rich.progress, scipy.optimize, torch
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline"):
    sys.modules[name] = None
for module, names in (
    (os, "fork sched_getaffinity mkfifo getpgid killpg chown fchmod statvfs O_DIRECTORY O_NOFOLLOW"),
    (signal, "SIGHUP SIGKILL SIGALRM SIGUSR1 alarm"),
):
    for name in names.split():
        delattr(module, name)
from kcifar import train
sys.exit(train.start(train.main))
"""
NAMES = ("$5_bill", "<b>", ESCAPE, "line\nbreak", "漢字\u3000全角", "שלום", "[red]", "=SUM(A1)")
TINY = "model=tutorial_net() epochs=1 batch_size=16 schedule=none transforms=[] select_on=last select_from_epoch=1"


@pytest.mark.skipif(sys.platform == "win32", reason="there such names are none")
def test_a_run_of_names_in_any_script_where_little_can_be_printed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for place in range(2):
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{place}.png")
    recipe = (ROOT / "recipes" / "mixup.py").read_text(encoding="utf-8")
    source = b"# -*- coding: latin-1 -*-\r\n# caf\xe9\r\n" + recipe.encode("ascii", "replace")
    (tmp_path / f"{ESCAPE}.py").write_bytes(source)
    command = [sys.executable, "-c", ELSEWHERE, f"{ESCAPE}.py", *TINY.split(), "--data", "images", "--device", "cpu"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch", "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, cwd=tmp_path, env=variables)
    assert ended.returncode == 0, ended.stderr
    shown = (ended.stdout + ended.stderr).decode("ascii")
    assert shown.replace("\n", "").isprintable()
    assert r"runs/a\x1b[31mred-seed42" in shown
    assert shown.count("warning:") == shown.count("no font here has") <= 1
    run = tmp_path / "runs" / f"{ESCAPE}-seed42"
    assert (run / "recipe.py").read_bytes() == source
    assert json.loads((run / "environment.json").read_text())["class_names"] == sorted(NAMES)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert "&lt;b&gt;" in page
    assert r"a\x1b[31mred" in page
    assert "漢字\u3000全角" in page
