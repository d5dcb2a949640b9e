"""The git commit of a program's code."""

import os
import re
import subprocess

_SECONDS = 20


def commit(file):
    """The commit of the git work tree that a source file belongs to, and whether tracked files of it were changed.

    Args:
        file: its `Path`.

    Returns:
        {"commit": 40 hexadecimal digits, "uncommitted_changes": bool}; both None where the file is in no work tree, as
        in an installed package, or there is no `git`.
    """
    unknown = {"commit": None, "uncommitted_changes": None}
    # Not by the variables of a git command that this may run in; and a file that merely lies in a work tree, as an
    # environment's packages in somebody's project, is none of its.
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return unknown
    found = _git(file, "rev-parse", "HEAD")
    changed = _git(file, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    if found is None or changed is None or not re.fullmatch("[0-9a-f]{40,64}", found.strip()):
        return unknown
    return {"commit": found.strip(), "uncommitted_changes": bool(changed.strip())}


def _git(file, *arguments):
    """What git prints for the folder of a file; None where that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(file.parent), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
