"""One process at a time writes into a run's folder."""

import contextlib
import re
import tempfile
from pathlib import Path

from kcifar.errors import InputError, one_line
from kcifar.output import printable, say

LOCK = "writer.lock"
"""The file in a run's folder that names the process which writes there."""

LEASE_SECONDS = 30
"""A holder on another machine that has not renewed its lock for so long is dead."""


class Writer:
    """The right to write into a run's folder, see `writing`."""

    def __init__(self, path):
        from filelock import SoftFileLease

        self.path = Path(path)
        self._lease = SoftFileLease(self.path / LOCK, lease_duration=LEASE_SECONDS, timeout=1)

    def take(self):
        """Takes it. Raises InputError, which names who has it, where somebody has it already."""
        from filelock import LeaseSettingsMismatch, Timeout

        try:
            try:
                self._lease.acquire()
            except Timeout:
                if not self._is_elsewhere():
                    raise
                patience = 1.5 * LEASE_SECONDS
                held = f"'{printable(self.path)}' is locked by {self._holder()}"
                say(f"{held}: waiting whether it is alive, {patience:g} s at most")
                self._lease.acquire(timeout=patience, poll_interval=LEASE_SECONDS / 30)
        except LeaseSettingsMismatch as error:
            raise InputError(
                f"'{self.path / LOCK}' is damaged, or of another kcifar ({one_line(error)}): remove it if "
                "nobody writes there"
            ) from None
        except Timeout:
            raise InputError(
                f"'{self.path}' is being written by {self._holder()}: wait until it has ended, or stop it"
            ) from None

    def give_back(self):
        """Gives it back; where its file cannot be removed, it is free when this process has ended."""
        with contextlib.suppress(OSError):
            self._lease.release()

    def expect_mine(self):
        """Raises InputError where another took it, as may be when this process was halted, or the folder is gone."""
        if not self.path.exists():
            raise InputError(f"'{self.path}' is not there any more: it was moved or removed while it was trained")
        if not self._lease.is_lock_held_by_us:
            raise InputError(
                f"'{self.path}' was taken over by {self._holder()} while this process was halted: it ends here"
            )

    def _is_elsewhere(self):
        """Whether the one who has it runs where it cannot be seen whether it is alive."""
        owner = self._lease.owner
        return owner is not None and owner.hostname != _own_host()

    def _holder(self):
        owner = self._lease.owner
        if owner is None:
            return "another process"
        machine = re.sub(r"\?pidns-.*", "", owner.hostname)  # containers of one machine have their own numbers
        return f"process {owner.pid} on {machine}"


@contextlib.contextmanager
def writing(path):
    """Within it this process is the one that writes into the run's folder at `path`, which is there.

    By filelock's lease: of processes that die, on this machine or another that shares the disk, it is taken over, here
    at once, there when it has not been renewed for half a minute.

    Raises:
        InputError: another process is writing there; it is named.
    """
    writer = Writer(path)
    writer.take()
    try:
        yield writer
    finally:
        writer.give_back()


def _own_host():
    """What filelock calls this machine, or this container."""
    from filelock import SoftFileLease

    with tempfile.TemporaryDirectory() as folder, SoftFileLease(Path(folder) / LOCK) as lease:
        return lease.owner.hostname
