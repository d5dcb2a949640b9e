"""Instants at which a run may be killed or its disk be full, and what each command does with what is left then.

The long form, `python -m tests.stress instants`, tries every instant of every variant.
"""

import random

import pytest

from tests import interrupted_runs
from tests.interrupted_runs import COMMANDS, ERRORS, end_of, expect

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures", "prepared")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """In the working directory is what the commands need."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("prepared"))
        interrupted_runs.prepare()
        yield


def test_killed_at_any_instant_a_run_gives_what_it_would_have_given(tmp_path, capsys):
    """One epoch at most is lost; what can be told of the run is told, else one line says what to do."""
    assert interrupted_runs.expect_every_instant_survived(COMMANDS["unfrozen"], tmp_path, capsys.readouterr) > 10


def test_killed_while_it_goes_on_from_the_state_before(tmp_path, capsys):
    """The newest state is damaged: that of the first epoch takes its place, and the second is trained again."""
    run = tmp_path / "run"
    expect(0, [*COMMANDS["late"], run])
    expected = end_of(run)
    (run / "metrics.json").unlink()
    (run / "last" / "state.npz").write_bytes(b"")
    command = ["--resume", run]
    interrupted_runs.expect_every_instant_survived(command, tmp_path, capsys.readouterr, whole=run, tells=False)
    assert end_of(run) == expected


def test_where_a_write_fails_a_line_says_so_and_nothing_is_lost(tmp_path, capsys):
    found = interrupted_runs.expect_failing_writes_survived(
        COMMANDS["late"], tmp_path, capsys.readouterr, ERRORS[0], first=4, stride=23
    )
    assert found[1] > found[0] / 2


def test_damaged_files_are_not_taken_for_whole(tmp_path, capsys):
    expect(0, [*COMMANDS["averaged"], tmp_path / "run"])
    rng = random.Random(0)
    right, refused = interrupted_runs.expect_damage_noticed(tmp_path / "run", tmp_path, capsys.readouterr, rng, 8)
    assert right > refused
