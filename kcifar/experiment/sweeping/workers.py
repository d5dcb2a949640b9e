"""The trainings of a sweep, several at a time, each a process of its own."""

import os
import signal
import subprocess
import sys
import time

from kcifar import gpus
from kcifar.interrupts import ENDS_WITH_STDIN, interrupts

PATIENCE = 3  # seconds in which a training that is interrupted ends


class Training:
    """A training of a run, in a process that ends with this one, however this one ends.

    Args:
        run: its `RunFolder`.
        arguments: for kcifar.train.
        circumstances: variables of the process besides this one's.
        output: file for what it says; None to show it.

    Attributes:
        asked: whether it was asked to end.
    """

    def __init__(self, run, arguments, circumstances=None, output=None):
        self.run, self.asked = run, False
        self.began = time.monotonic()
        command = [sys.executable, "-m", "kcifar.train", *arguments]
        environment = os.environ | {ENDS_WITH_STDIN: "1"} | (circumstances or {})
        said = {}
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(output, "ab")  # noqa: SIM115
            said = {"stdout": self._file, "stderr": subprocess.STDOUT}
        # Its standard input is ours: it ends with us.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, **said)

    def code(self, seconds=0):
        """Its exit code, once it has ended within so many seconds; None while it runs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self):
        """Asks it to end."""
        self.asked = True
        self.process.terminate()

    def close(self):
        """Gives back what was opened for it, when it has ended."""
        self.process.stdin.close()
        if hasattr(self, "_file"):
            self._file.close()


def end_all(trainings):
    """Ends trainings, which Ctrl-C on a terminal has reached too; waits until they have ended."""
    deadline = time.monotonic() + PATIENCE / 4
    if interrupts.number == signal.SIGINT:
        for training in trainings:
            training.code(max(deadline - time.monotonic(), 0))
    running = [training for training in trainings if training.code() is None]
    for training in running:
        training.end()
    deadline = time.monotonic() + PATIENCE
    for training in running:
        if training.code(max(deadline - time.monotonic(), 0)) is None:
            training.process.kill()
            training.process.wait()


def circumstances_of(workers):
    """The variables for each of so many workers: a share of the cores, and a GPU of their own where there are any.

    Args:
        workers: how many.

    Returns:
        A list of dicts.
    """
    if workers == 1:
        return [{}]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(cores // workers, 1))
    # Of torch and of XLA; those that are set already stay.
    threads = {name: share for name in ("OMP_NUM_THREADS", "PJRT_NPROC") if name not in os.environ}
    found = [] if os.environ.get("KCIFAR_DEVICE") else gpus.visible()
    return [threads | ({gpus.VISIBLE: found[place % len(found)]} if found else {}) for place in range(workers)]
