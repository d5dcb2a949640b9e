"""The commit that is recorded is that of the code, or none."""

import os
import subprocess

import pytest

from kcifar.runs.commit import commit

pytestmark = pytest.mark.once
UNKNOWN = {"commit": None, "uncommitted_changes": None}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_of_a_tracked_file_alone(tmp_path, monkeypatch):
    code = tmp_path / "package" / "__init__.py"
    code.parent.mkdir()
    code.write_text("a = 1\n")
    assert commit(code) == UNKNOWN
    git(tmp_path, "init", "-q")
    assert commit(code) == UNKNOWN
    git(tmp_path, "add", ".")
    assert commit(code) == UNKNOWN
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "new.py").write_text("")  # not tracked: a run, notes
    assert commit(code) == {"commit": head, "uncommitted_changes": False}
    code.write_text("a = 2\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert commit(code) == {"commit": head, "uncommitted_changes": True}
    monkeypatch.setenv("PATH", "")
    assert commit(code) == UNKNOWN
