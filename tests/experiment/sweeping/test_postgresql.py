"""A study in PostgreSQL, of a server of the test's own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest

from kcifar import InputError
from tests.conftest import NO_POSTGRESQL, postgresql_programs
from tests.experiment.sweeping.sweeps import ByRate, sweep

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(postgresql_programs() is None, reason=NO_POSTGRESQL),
]


def _user():
    """PostgreSQL refuses to run as root: the user as whom it does then."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


@pytest.fixture(scope="module")
def server():
    """The address of a database on loopback, with a password."""
    folder = Path(tempfile.mkdtemp(prefix="kcifar-postgresql-"))  # pytest's own folders are closed to other users
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if _user():
        shutil.chown(folder, "nobody", "nogroup")
    (folder / "password").write_text("a secret\n")

    def run(program, *arguments):
        command = [postgresql_programs() / program, *map(str, arguments)]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **_user())

    data = folder / "data"
    run("initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-N", "-E", "UTF8")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c shared_buffers=8MB"
    run("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "-t", "60", "start")
    try:
        yield f"postgresql+psycopg://me:a%20secret@127.0.0.1:{port}/postgres"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_study_of_two_trials(server, tmp_path):
    """It is told of each trial, by whoever knows the address; a second command has nothing left to do."""
    out = tmp_path / "sweep"
    assert len(sweep(out, kind=ByRate, storage=server)) == 4
    assert sweep(out, kind=ByRate, storage=server) == []
    storage = optuna.storages.RDBStorage(server)
    study = optuna.load_study(study_name="sweep", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert study.best_value == pytest.approx(0.5 - 0.01 + 0.2 + 0.005)
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.5, 2: 0.6})
    storage.remove_session()
    storage.engine.dispose()
    assert "secret" not in (out / "sweep.json").read_text()


def test_a_wrong_password_and_no_server(server, tmp_path):
    for address in (server.replace("a%20secret", "guessed"), "postgresql+psycopg://me:guessed@127.0.0.1:1/postgres"):
        with pytest.raises(
            InputError, match=r"the study at postgresql\+psycopg://me:\*\*\*@127.*cannot be used"
        ) as error:
            sweep(tmp_path / "sweep", storage=address)
        assert "guessed" not in str(error.value)
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "sweep").glob("*/recipe.json"))
