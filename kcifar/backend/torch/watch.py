"""Whether the other processes of a training are there: each gives a sign of life, and looks for those of the others."""

import contextlib
import os
import pickle
import threading
import time

from kcifar.errors import ProcessLost
from kcifar.output import complain

_BETWEEN = 1.0  # seconds between two signs of life
_SILENT = 15.0  # after which a process is taken for lost: torchrun kills what does not end within 30
_GRACE = 5.0  # for this process to notice by itself
_DONE = "done"


class Watch:
    """Ends this process, in a line, where another has ended or failed and this one would wait for it.

    On CPUs an exchange fails by itself where another process dies; on GPUs, and where the others are waited for
    elsewhere, nothing is told.

    Args:
        store: of torch's rendezvous.
        rank, count: of this process.

    Attributes:
        advice: how to go on, for the line.
    """

    def __init__(self, store, rank, count):
        self.rank, self.count, self.advice = rank, count, ""
        self._store = store.clone()  # of this thread's own: another waits in its calls
        self._asked = store.clone()
        self._left = threading.Event()
        self._store.set(self._key(rank), "0")
        threading.Thread(target=self._run, daemon=True).start()

    def fail(self, error):
        """Has the others know why this process ends: an exception that can be pickled, or else its text."""
        with contextlib.suppress(RuntimeError):
            self._asked.set("failed", _pickled((self.rank, error)))

    def failed(self):
        """(rank, exception) of the first process that told why it failed; None where none did."""
        with contextlib.suppress(RuntimeError):
            if self._asked.check(["failed"]):
                return pickle.loads(self._asked.get("failed"))
        return None

    def lost(self, why):
        """The `ProcessLost` that says that another process is lost."""
        return ProcessLost(
            f"another of the {self.count} processes of this training has ended, or does not answer ({why})", self.advice
        )

    def first_is_gone(self):
        """Whether process 0 gives no sign of life and has not left: true in the first of the others that finds it."""
        with contextlib.suppress(RuntimeError):
            signs = {self._asked.get(self._key(0))}
            until = time.monotonic() + 2.5 * _BETWEEN
            while time.monotonic() < until and len(signs) == 1 and _DONE.encode() not in signs:
                time.sleep(_BETWEEN / 10)
                signs.add(self._asked.get(self._key(0)))
            return len(signs) == 1 and _DONE.encode() not in signs and self._asked.add("told", 1) == 1
        return False

    def leave(self):
        """No other process waits for this one from now on."""
        if not self._left.is_set():
            self._left.set()
            with contextlib.suppress(RuntimeError):
                self._asked.set(self._key(self.rank), _DONE)

    def _run(self):
        signs, heard, number = {}, {}, 0
        keys = [self._key(rank) for rank in range(self.count)]
        self._store.wait(keys)
        while not self._left.wait(_BETWEEN):
            number += 1
            try:
                self._store.set(keys[self.rank], str(number))
                failed = self._store.check(["failed"])
                found = dict(enumerate(self._store.multi_get(keys)))
            except RuntimeError:
                self._end(self.lost("what they meet at is not there any more"))
                return
            now = time.monotonic()
            for rank, sign in found.items():
                if sign != signs.get(rank):
                    signs[rank], heard[rank] = sign, now
            silent = [rank for rank, sign in found.items() if sign != _DONE.encode() and now - heard[rank] > _SILENT]
            if failed or silent:
                self._end(self.lost(f"process {silent[0]} is silent" if silent else "it failed"))
                return

    def _end(self, error):
        if self._left.wait(_GRACE):
            return
        told = self.failed()
        if told and told[0] == self.rank:
            return  # which says so itself
        text = f"process {told[0]}: {told[1]}" if told else str(error).removesuffix(f"; {error.advice}")
        complain(f"train: {text}", "" if told else error.advice)
        os._exit(2)

    @staticmethod
    def _key(rank):
        return f"alive {rank}"


def _pickled(value):
    try:
        text = pickle.dumps(value)
        pickle.loads(text)
        return text
    except Exception:  # whatever an exception of somebody's makes of it
        rank, error = value
        return pickle.dumps((rank, str(error)))
