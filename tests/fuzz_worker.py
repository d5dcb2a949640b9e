"""Reads what `tests.fuzz` gives it, an input after another, and says what came of each: the process that may die.

Each reader is called as its command calls it, so that what becomes of an error is what a user sees.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import hashlib
import io
import json
import os
import platform
import resource
import sys
import time
import traceback
from pathlib import Path

from kcifar.commands import run_command

RECIPE_FILE = "recipe.py"
_MOST_MEMORY = 4 * 2**30  # beyond which an allocation fails: above the limit, so that it is seen who asks for it
_LARGE = 2**30
_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "socket.connect")


def _data(case, name):
    from kcifar import data

    data.load(case / name)


def _archive(case):
    """One that passes for the published one, whatever is in it."""
    from kcifar.data import layouts, official

    path = case / "cifar-10-python.tar.gz"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and path.stat().st_size < 2**30 else ""
    official.LAYOUTS = (dataclasses.replace(layouts.PYTHON, sha256=found),)
    try:
        _data(case, path.name)
    finally:
        official.LAYOUTS = layouts.LAYOUTS


def _cache(case):
    from kcifar.data import cache

    cache.root, before = lambda: case, cache.root
    try:
        cache.get("entry", "signature")
    finally:
        cache.root = before


def _photos(case):
    from kcifar.data import photos

    for photo in photos.find([*case.iterdir()]):
        photos.read(photo.path, (32, 32))


@functools.cache
def _network(name):
    from kcifar.models import build

    return build(name)


def _weights(case, name):
    from kcifar.models import load_pretrained

    load_pretrained(_network(name), next(case.iterdir(), case / "gone"))


def _state(case):
    import keras

    from kcifar.callbacks import Checkpoint

    model = _network("tutorial_net")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    Checkpoint(case / "run", "accuracy").resume(model)


def _recipe(case):
    from kcifar import recipe

    recipe.load(case / RECIPE_FILE).to_json()


def _overrides(case):
    from kcifar import reading, recipe

    texts = reading.content(case / "overrides.txt").decode("utf-8", "surrogateescape").split("\n")
    recipe.load("recipes/mixup.py").override([text for text in texts if text]).to_json()


def _own_parts(case):
    from kcifar.experiment import own_parts
    from kcifar.runs import folder

    run = folder.find(case / "run")
    own_parts.go_on(run)
    own_parts.expect_unchanged(run, run.recipe)


def _lock(case):
    from kcifar.runs import lock

    lock._LEASE_SECONDS = 0.2  # that of tests.fuzz_inputs
    writer = lock.Writer(case)
    writer._lease.timeout = 0.05
    writer.take()
    writer.give_back()


def _command(name, *arguments):
    def call(case):
        import importlib

        given = [str(case / text[1:]) if text.startswith("@") else text for text in arguments]
        return importlib.import_module(f"kcifar.{name}").main(given)

    return call


def _of_library(work):
    def call(case):
        return run_command(argparse.ArgumentParser("kcifar"), lambda _: work(case), [])

    return call


READERS = {
    "npz": _of_library(functools.partial(_data, name="images.npz")),
    "CIFAR-10, Python": _of_library(functools.partial(_data, name="cifar-10-batches-py")),
    "CIFAR-10, binary": _of_library(functools.partial(_data, name="cifar-10-batches-bin")),
    "CIFAR-100, Python": _of_library(functools.partial(_data, name="cifar-100-python")),
    "archive": _of_library(_archive),
    "folder of images": _of_library(functools.partial(_data, name="images")),
    "TFDS": _of_library(functools.partial(_data, name="tfds")),
    "cache": _of_library(_cache),
    "photo": _of_library(_photos),
    "PyTorch's weights": _of_library(functools.partial(_weights, name="resnet20")),
    "Keras's weights": _of_library(functools.partial(_weights, name="tutorial_net")),
    "saved model": _command("predict", "@model.keras", "@photo.png"),
    "ensemble": _command("evaluate", "@ensemble.keras", "--data", "@images.npz"),
    "run, evaluated": _command("evaluate", "@run", "--data", "@images.npz"),
    "run, reported": _command("report", "@run", "--data", "@images.npz"),
    "runs, voting": _command("vote", "@run", "@other", "--data", "@images.npz"),
    "run, resumed": _command("train", "--resume", "@run", "--data", "@images.npz", "--dry-run"),
    "state": _of_library(_state),
    "own parts": _of_library(_own_parts),
    "lock": _of_library(_lock),
    "recipe": _of_library(_recipe),
    "overrides": _of_library(_overrides),
}
"""What reads a folder with an input, by name; each gives an exit code."""


class _Watch:
    """What a reader does besides reading: writing outside of some folders, starting programs, reaching for a network.

    Args:
        allowed: the folders.
    """

    def __init__(self, allowed):
        self.allowed = tuple(f"{folder}{os.sep}" for folder in allowed)
        self.found, self.watches = [], False
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.watches:
            return
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else 0
            if writes and not isinstance(path, int):
                self._expect_allowed(event, path)
        elif event in _WRITES:
            folders = [part for part in arguments if isinstance(part, int)]
            for path in [part for part in arguments if isinstance(part, (str, bytes, os.PathLike))]:
                self._expect_allowed(event, path, folders[-1] if folders else -1)
        elif event in _STARTS:
            self.found.append(f"{event} {arguments!r:.200}")

    def _expect_allowed(self, event, path, folder=-1):
        """Raises nothing, as readers catch what they can; `folder`, a descriptor, is what a path is relative to."""
        start = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
        path = os.path.abspath(os.path.join(start, os.fsdecode(path)))
        if path != os.devnull and not f"{path}{os.sep}".startswith(self.allowed):
            self.found.append(f"{event} {path}")


def _peak_bytes():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def _read(reader, case):
    """(exit code or None, what was said on stderr, seconds) of a call; without a code the traceback is said.

    Seconds are the processor's: where others need the cores, time passes without a fault of the reader's.
    """
    said = io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = READERS[reader](Path(case))
        except BaseException:
            code = None
            traceback.print_exc()
    return code, said.getvalue(), time.process_time() - started


def _small_batches():
    """The published forms with 12 images a file, as `tests.data_fixtures` writes them."""
    from kcifar.data import layouts
    from tests.data_fixtures import PER_BATCH

    layouts.PER_BATCH = PER_BATCH


def _leave_figures_blank():
    """Drawing is most of a report's time, and reads nothing."""
    from matplotlib.figure import Figure
    from PIL import Image

    def savefig(figure, file, *, format="png", **options):
        if format == "svg":
            file.write(b'<svg xmlns="http://www.w3.org/2000/svg"></svg>')
        else:
            Image.new("L", (1, 1)).save(file, format)

    Figure.savefig = savefig


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _small_batches()
    _leave_figures_blank()
    platform.processor()  # which a library may ask the system for, by a program
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    watch = _Watch(sys.argv[1:])
    for line in sys.stdin:
        asked = json.loads(line)
        watch.found.clear()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is counted from here
        watch.watches = True
        code, said, seconds = _read(asked["reader"], asked["case"])
        watch.watches = False
        answer = {"code": code, "said": said, "seconds": seconds, "bytes": _peak_bytes(), "did": watch.found[:5]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer["bytes"] > _LARGE:
            gc.collect()  # what an error's traceback holds is not of the next input's memory


if __name__ == "__main__":
    main()
