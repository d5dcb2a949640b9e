"""Where Optuna keeps a study: a file in the sweep's folder, or a database."""

import contextlib
import re
import warnings

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from kcifar.errors import InputError, one_line

JOURNAL = "study.journal"
_SECONDS = 10  # for a database's host to answer, as others wait meanwhile
_TIMEOUTS = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mariadb": "connect_timeout"}


class Storage:
    """What Optuna keeps a study in.

    Args:
        folder: path of the sweep.
        address: as Optuna takes it; None for a file in the folder.

    Attributes:
        optunas: Optuna's own.

    Raises:
        InputError: it cannot be reached.
    """

    def __init__(self, folder, address=None):
        self._address, self._file = address, folder / JOURNAL
        with self.errors():
            self.optunas = _database(address) if address else journal(self._file)

    def close(self):
        """Ends the connections to a database."""
        if self._address:
            self.optunas.remove_session()
            self.optunas.engine.dispose()

    @contextlib.contextmanager
    def errors(self):
        """Has what Optuna and a database's driver raise be told in a line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                yield
        except InputError:
            raise
        except Exception as error:  # whatever a driver raises
            raise self._told(one_line(error)) from None

    def _told(self, text):
        if not self._address:
            return InputError(
                f"'{self._file}' cannot be read or written ({text}): if it is damaged, remove it: it is made again "
                "from the runs beside it"
            )
        text = text.replace(self._address, str(self)).partition(" (Background on this error")[0]
        return InputError(
            f"the study at {self} cannot be used ({text}); expected an address that Optuna reaches, as "
            "postgresql+psycopg://user@host/database or sqlite:///study.db"
        )

    def __str__(self):
        """The address without a password."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(self._address)
        except ArgumentError:
            return self._address.partition("://")[0]
        secret = {name: "***" for name in url.query if "pass" in name.lower()}
        shown = url.update_query_dict(secret).render_as_string(hide_password=True)
        return re.sub(r"(://[^:/]*:\*{3}@)[^/?]*@", r"\1", shown)  # a password with an @ in it


def _database(address):
    from sqlalchemy.engine import make_url

    if address.startswith("redis"):
        raise InputError("the study is in a Redis; expected a database, as postgresql+psycopg://user@host/database")
    url = make_url(address)
    timeout = _TIMEOUTS.get(url.get_backend_name())
    given = {timeout: _SECONDS} if timeout and timeout not in url.query else {}
    return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": given})


def journal(path):
    """The storage in a file."""
    # By a file that must not be there yet, which NFS and SMB know too. Optuna's own choice, a symbolic link, is none on
    # some disks, and to a path that is not absolute it waits for ever on a lock that was left.
    path = str(path.resolve())
    return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
