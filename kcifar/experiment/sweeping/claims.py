"""Which process does which run of a sweep: of several commands, on machines that share the folder, one each.

What is claimed by a process that died is free again: on this machine at once, elsewhere when half a minute has passed
in which nobody renewed it, as the locks of run folders, see `kcifar.runs.lock`.
"""

import contextlib

from kcifar.errors import InputError, one_line
from kcifar.runs.lock import LEASE_SECONDS, LOCK

TURN = "turn.lock"
_PATIENCE = 120  # seconds for a turn, in which others tell their studies what has ended


class Claims:
    """The claims of this process on runs of a sweep.

    Args:
        folder: of the sweep, where they are kept, each beside its run: as a folder of their own would have to be made
            and removed, which another may do at that moment.
    """

    def __init__(self, folder):
        self.folder = folder
        self._leases = {}  # by path: one that is asked again knows how long another's has not been renewed
        self._own = set()

    @contextlib.contextmanager
    def turn(self):
        """Within it no other process looks for a run to do, or tells the study anything.

        Raises:
            InputError: another has the turn for minutes.
        """
        from filelock import Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._lease(self.folder / TURN).acquire(timeout=_PATIENCE, poll_interval=0.05):
                yield
        except Timeout:
            raise InputError(
                f"'{self.folder / TURN}' is held by another process for {_PATIENCE} s: look whether it hangs, and "
                "where there is none, remove it"
            ) from None

    def take(self, name, run):
        """Whether the run is this process's from now on: nobody else claims it, and nobody writes it."""
        if name in self._own:
            return False
        claimed = self._acquire(self._path(name))
        # Asked for in any case: of both it is watched from now on whether they are renewed.
        written = run.path.exists() and not self._acquire(run.path / LOCK)
        if run.path.exists() and not written:
            self._lease(run.path / LOCK).release()  # for the training that will be started
        if claimed and written:
            self._lease(self._path(name)).release()
        if claimed and not written:
            self._own.add(name)
        return name in self._own

    def holds(self, name):
        """Whether a run that was claimed still is this process's: one that was halted for long may have lost it."""
        return name in self._own and self._lease(self._path(name)).is_lock_held_by_us

    def give_back(self, name):
        """Gives a run back that has ended or is left to others."""
        self._own.discard(name)
        with contextlib.suppress(OSError):
            self._lease(self._path(name)).release()

    def _path(self, name):
        return self.folder / f"{name}.lock"

    def _lease(self, path):
        from filelock import SoftFileLease

        if path not in self._leases:
            self._leases[path] = SoftFileLease(path, lease_duration=LEASE_SECONDS)
        return self._leases[path]

    def _acquire(self, path):
        from filelock import LeaseSettingsMismatch, Timeout

        try:
            self._lease(path).acquire(timeout=0, poll_interval=0.01)
        except Timeout:
            return False
        except LeaseSettingsMismatch as error:
            raise InputError(f"'{path}' is damaged ({one_line(error)}): remove it if nobody writes there") from None
        return True
