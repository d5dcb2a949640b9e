"""What people give the commands that cannot be used: each is refused in one line, and leaves nothing behind.

All of it is the table in docs/bad-inputs.md, which must be as it is generated here. To write it anew:
KCIFAR_WRITE_DOCS=1 python -m pytest tests/test_bad_inputs.py
"""

import contextlib
import errno
import io
import os
import re
import shlex
from pathlib import Path

import pytest

from kcifar.__main__ import main
from kcifar.runs.lock import writing
from tests.bad_inputs import INTRODUCTION, TABLES
from tests.bad_inputs_folder import make_folder
from tests.instants import failing

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

PAGE = Path(__file__).parents[1] / "docs" / "bad-inputs.md"
CASES = [case for cases in TABLES.values() for case in cases]
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, blank_pictures):
    """All that the commands of the tables name."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("bad-inputs").resolve()
        patched.chdir(folder)
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        make_folder(main)
        yield folder


@contextlib.contextmanager
def circumstances(case, folder):
    """Those under which a command is given: variables before it, a full disk, another process that writes."""
    with contextlib.ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("KCIFAR_DEVICE", "KERAS_TORCH_DEVICE", "WORLD_SIZE"):
            patched.setenv(name, "")
            patched.delenv(name)  # the command may set it for itself
        arguments = shlex.split(case.command)
        while "=" in arguments[0]:
            patched.setenv(*arguments.pop(0).split("=", 1))
        if case.disk_full:
            stack.enter_context(failing(folder / case.disk_full, 1, NO_SPACE))
        if case.written:
            stack.enter_context(writing(case.written))
        yield arguments[1:]


class Commands:
    """What the commands did, each given once.

    Args:
        folder: in which they are.
    """

    def __init__(self, folder):
        self.folder, self.there, self.done = folder, listing(folder), {}

    def outcome(self, case):
        """(exit code, what is on stderr, what changed in the folder) of a command."""
        if case.command not in self.done:
            code, said = given(case, self.folder)
            before, self.there = self.there, listing(self.folder)
            changed = sorted({path for path, _ in before.items() ^ self.there.items()})
            self.done[case.command] = code, said, changed
        return self.done[case.command]


def given(case, folder):
    """(exit code, what is on stderr) of a command."""
    said = io.StringIO()
    with (
        circumstances(case, folder) as arguments,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        return main(arguments), anywhere(said.getvalue(), folder)


def listing(folder):
    """Every path below it, with its size and the time of its change; of a folder nothing else."""
    found = {}
    for root, folders, files in os.walk(folder):
        found |= dict.fromkeys(os.path.join(root, name) for name in folders if name != "__pycache__")
        if not root.endswith("__pycache__"):
            paths = [os.path.join(root, name) for name in files]
            found |= {path: (os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths}
    return found


def anywhere(text, folder):
    """What a command says, the same on every machine."""
    text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), ".")
    text = re.sub(r"process \d+ on .*?: wait", "process 4242 on ada: wait", text)
    return re.sub(r"expected cpu(, \w+:\d+)*", "expected cpu", text)


@pytest.fixture(scope="module")
def commands(folder):
    """What each command did."""
    return Commands(folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command)
def test_it_is_refused_in_one_line_and_leaves_nothing_behind(case, commands):
    code, said, changed = commands.outcome(case)
    assert code == 2, said
    (line,) = said.splitlines()
    assert len(line) <= 300
    assert re.match(r"(kcifar|train|sweep|evaluate|predict|report|vote): ", line)
    assert "Traceback" not in line
    assert not changed


def test_every_command_is_told_once():
    assert len({case.command for case in CASES}) == len(CASES)


def test_the_page_is_what_the_commands_say(commands):
    page = "\n\n".join([INTRODUCTION.strip(), *(table(title, commands) for title in TABLES)]) + "\n"
    if os.environ.get("KCIFAR_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "write it anew: see above in this file"


def table(title, commands):
    """The part of the page with this title."""
    lines = [f"## {title}", "", "| what is wrong | command | message | exit code |", "|---|---|---|---|"]
    for case in TABLES[title]:
        code, said, _ = commands.outcome(case)
        cells = case.what, f"`{case.command}`", f"`{said.strip()}`", str(code)
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)
