"""A run's folder as it is at every instant at which its process may be killed."""

import contextlib
import hashlib
import os
import shutil
import sys
from pathlib import Path

# What a name in a folder is changed by, as Python's audit events call it: each is told before it happens.
_CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "tempfile.mkstemp",
    "shutil.move",
}
# No promise is about them: pictures and predictions are made anew, the lock is of a dead process, the rest unfinished.
_NO_PART = ("*.png", "predictions/*", "writer.lock", ".kcifar-*", "*/.kcifar-*", "log.csv")

_recorder = None


class Recorder:
    """Copies a folder whenever something in it is about to change its name, come or go.

    Attributes:
        copies: the folders, in the order of time; what is there at an instant is in one of them.
        written_in_place: files that were opened for writing under their own names.
    """

    def __init__(self, folder, copies):
        self.folder, self.where = Path(folder).absolute(), Path(copies)
        self.copies, self.written_in_place = [], set()

    def on(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if (
                flags & (os.O_WRONLY | os.O_RDWR)
                and _is_inside(self.folder, path)
                and not Path(path).name.startswith(".kcifar-")
            ):
                self.written_in_place.add(Path(path).name)
        elif event in _CHANGES and any(_is_inside(self.folder, argument) for argument in arguments[:2]):
            self.copy()

    def copy(self):
        self.copies.append(self.where / f"{len(self.copies):03}")
        if self.folder.exists():
            # The lock is of a dead process then, and of this one here.
            shutil.copytree(self.folder, self.copies[-1], ignore=shutil.ignore_patterns("writer.lock"))
        else:
            self.copies[-1].mkdir(parents=True)


def _is_inside(folder, path):
    return isinstance(path, (str, Path)) and folder in (Path(path).absolute(), *Path(path).absolute().parents)


@contextlib.contextmanager
def recorded(folder, copies):
    """Within it every change in `folder` is recorded: gives the `Recorder`."""
    global _recorder
    recorder = _recorder = Recorder(folder, copies)
    try:
        yield recorder
    finally:
        _recorder = None
    recorder.copy()


class Failing:
    """Raises an error in the place of one of the changes in a folder, or of one of the openings of its files to write.

    But for the lock, which is of this process: it is free when that has ended.

    Attributes:
        seen: the changes so far.
    """

    def __init__(self, folder, at, error):
        self.folder, self.at, self.error, self.seen = Path(folder).absolute(), at, error, 0

    def on(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            changes = flags & (os.O_WRONLY | os.O_RDWR) and _is_inside(self.folder, path)
        else:
            changes = event in _CHANGES and any(_is_inside(self.folder, argument) for argument in arguments[:2])
        changes = changes and not str(arguments[0]).endswith("writer.lock")
        self.seen += bool(changes)
        if changes and self.seen == self.at:
            raise self.error


@contextlib.contextmanager
def failing(folder, at, error):
    """Within it the change `at`, counted from 1, fails: gives the `Failing`."""
    global _recorder
    _recorder = Failing(folder, at, error)
    try:
        yield _recorder
    finally:
        _recorder = None


def _hook(event, arguments):
    global _recorder
    recorder, _recorder = _recorder, None  # what the recorder does is not recorded
    if recorder is not None:
        try:
            recorder.on(event, arguments)
        finally:
            _recorder = recorder


sys.addaudithook(_hook)


def distinct(copies):
    """Of folders that differ in nothing a command goes by the last one, with most that was left unfinished."""
    return list({_content(copy): copy for copy in copies}.values())


def _content(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {str(path.relative_to(folder)): path for path in files}
    return tuple(
        (name, hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in named.items()
        if not any(Path(name).match(pattern) for pattern in _NO_PART)
    )
