"""Ctrl-C, and what batch systems send: a command ends within two seconds, and says how to go on.

The handler of a signal runs when Python comes to it, behind a compilation or a long step. So a thread, which the system
wakes at once, waits beside: where the command has not ended by itself by then, or is asked a second time, it is ended.
That loses nothing, as every file is written whole or not at all.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time

from kcifar.output import note

EXIT_CODE = 130
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SECONDS = 1.5

# Set for a process that is to end when its standard input does, as when the process that holds the other end is killed.
ENDS_WITH_STDIN = "KCIFAR_ENDS_WITH_STDIN"


class Interrupts:
    """What arrives while a command runs.

    Attributes:
        number: of the first signal; None while there was none.
        advice: how to go on, for the line that says that it was interrupted; "" where there is nothing to say.
        seconds: that it may take to end by itself.
        owns_process: whether the process is there for the command alone, and is ended where that lasts longer.
    """

    def __init__(self):
        self.owns_process = False
        self._begin()

    def _begin(self):
        self.number, self.advice, self.seconds = None, "", _SECONDS
        self._waits = False  # whether the handler leaves it to `expect_none`
        self._unsaid = threading.Lock()

    @contextlib.contextmanager
    def heeded(self):
        """Within it these signals raise KeyboardInterrupt, once; a handler that is there already stays.

        What a script starts in the background, as `nohup make test &`, has SIGINT ignored, and Python leaves it so: it
        is heeded here. SIGHUP that is ignored, as by nohup, stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():  # no other may set handlers
            yield
            return
        self._begin()
        unhandled = [signal.SIG_DFL, signal.default_int_handler]
        taken = {
            number: signal.signal(number, self._handle)
            for number in _SIGNALS
            if signal.getsignal(number) in [*unhandled, *([signal.SIG_IGN] if number == signal.SIGINT else [])]
        }
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, set(taken)), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writer.close()  # which ends the thread
            for number, handler in taken.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def advising(self, advice):
        """Within it, and where it is left by an error, this is how to go on."""
        before, self.advice = self.advice, advice
        yield
        self.advice = before

    def wait(self, waits):
        """Whether KeyboardInterrupt is raised by `expect_none`, from now on, in the place of the signal's handler."""
        self._waits = waits
        self.expect_none()

    def expect_none(self):
        """Raises KeyboardInterrupt where a signal has arrived."""
        if self.number is not None:
            raise KeyboardInterrupt

    def say(self):
        """Says once, on stderr, that the command was interrupted, and how to go on."""
        if self._unsaid.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                note("; ".join(["interrupted", *([self.advice] if self.advice else [])]))

    def _handle(self, number, frame):
        if self.number is None:
            self.number = number
            if not self._waits:
                raise KeyboardInterrupt

    def _watch(self, reader, numbers):
        with reader:
            if not self._is_overdue(reader, numbers) or not self.owns_process:
                return
        self.say()
        exit_at_once()

    def _is_overdue(self, reader, numbers):
        """Whether, after a signal, the time is over or it was asked for again; False when the command has ended."""
        deadline, asked = None, 0
        while asked < 2:
            reader.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
            try:
                arrived = reader.recv(1)
            except TimeoutError:
                return True
            if not arrived:
                return False
            if arrived[0] in numbers:
                deadline = deadline or time.monotonic() + self.seconds
                asked += arrived[0] == signal.SIGINT
        return True


interrupts = Interrupts()
"""Those of this process."""


def exit_at_once():
    """Ends this process by EXIT_CODE, without waiting for its threads."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(EXIT_CODE)


def end_with_stdin():
    """Has this process end when its standard input does, where ENDS_WITH_STDIN says so."""
    if os.environ.pop(ENDS_WITH_STDIN, None):
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
