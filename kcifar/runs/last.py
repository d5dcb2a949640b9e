"""What a run has done so far, in its folder `last/`: the last two epochs' states, and which best model is theirs.

A state is what tells how far a run is. Everything else that an epoch leaves is written before, under another name, and
gets its own name after: so a run that is killed anywhere between is at one epoch or at the other.
"""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from kcifar.checksum import sha256
from kcifar.errors import InputError
from kcifar.runs import sealed
from kcifar.runs.files import link, rename, replacing


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """All that training needs to go on behind an epoch.

    Attributes:
        path: where it was read.
        arrays: of the model and its optimizers, see `kcifar.runs.state`.
        record: how many "epochs" are done, the "best" figure, "best_epoch" and "best_sha256" of best.keras, whether
            training was "stopped" early, and the states of "callbacks" and "generators".
        damaged: of a newer state that is not whole, why; None where there is none.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    record: dict
    damaged: str | None = None


class Last:
    """The folder `last/` of a run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder):
        self.best = Path(folder) / "best.keras"
        self.folder = Path(folder) / "last"
        self.newest = self.folder / "state.npz"
        self.previous = self.folder / "state-previous.npz"
        self.next_best = self.folder / "best.keras"
        self.previous_best = self.folder / "best-previous.keras"
        self._goes_on = False  # whether what is in the folder is of this training

    @property
    def exists(self):
        """Whether an epoch was ended, and its state not lost since."""
        return self.newest.exists() or self.previous.exists()

    def make(self):
        """Makes the folder, where it is not there, for a training that begins or goes on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.next_best.unlink(missing_ok=True)

    def save(self, arrays, record):
        """Writes the state behind an epoch; what is in `next_best`, if anything, becomes the best model with it."""
        with replacing(self.newest) as temporary:
            sealed.write(temporary, arrays, record)
            if self._goes_on and self.newest.exists():
                link(self.newest, self.previous)
        if not self._goes_on:
            self.previous.unlink(missing_ok=True)  # of a training that was here before
        self._goes_on = True
        self._name_best()

    def read(self):
        """The newest `State` that is whole; None where none was saved. Raises InputError where no one is whole."""
        damaged = None
        for path in (self.newest, self.previous):
            try:
                return State(path, *sealed.read(path), damaged)
            except FileNotFoundError:
                continue
            except InputError as error:
                damaged = f"{damaged} and so is {path.name}" if damaged else str(error)
        if damaged is None:
            return None
        best = f", or train on from its best model: pretrained={self.best}" if self.best.exists() else ""
        raise InputError(f"{damaged}: start a new run with --out{best}")

    def read_previous(self):
        """The `State` before the newest; None where there is none, or not whole."""
        with contextlib.suppress(InputError, FileNotFoundError):
            return State(self.previous, *sealed.read(self.previous))

    def go_on_from(self, state):
        """Makes a state that `read` gave the newest one: what is written next replaces nothing that is whole."""
        if state.path == self.previous:
            rename(self.previous, self.newest)
        self._goes_on = True

    def settle_best(self, state):
        """Makes best.keras the best model of a state, where that is anywhere; whether it is there then.

        One that a kill left unnamed gets its name; one that is of a later epoch, which the state does not know, makes
        way for the one before.
        """
        wanted = state.record.get("best_sha256")
        if wanted is None:  # there is none yet, or an earlier version wrote the state
            self.next_best.unlink(missing_ok=True)
            return state.record["best_epoch"] is None or self.best.exists()
        found = [path for path in (self.best, self.next_best, self.previous_best) if path.exists()]
        of_state = next((path for path in found if sha256(path) == wanted), None)
        if of_state == self.next_best:
            self._name_best()
        elif of_state == self.previous_best:
            link(self.previous_best, self.best)
        self.next_best.unlink(missing_ok=True)
        return of_state is not None

    def _name_best(self):
        if self.next_best.exists():
            if self.best.exists():
                link(self.best, self.previous_best)
            rename(self.next_best, self.best)
