"""The runs of a sweep: each done once, by whoever comes, and the study told what their folders say."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kcifar import InputError
from kcifar.experiment.sweeping.claims import Claims
from kcifar.experiment.sweeping.storage import JOURNAL
from tests.experiment.sweeping.sweeps import GRID, NAMES, RECIPE, ROOT, ByRate, prepared, states, sweep, trials
from tests.fake_trainings import Faked, begin_run, write_end, write_epochs

pytestmark = pytest.mark.once


def test_a_grid_is_all_combinations_and_their_means_are_told(out):
    assert sweep(out, kind=ByRate) == NAMES
    assert sorted(path.name for path in out.iterdir()) == [*sorted(NAMES), "study.journal", "sweep.json"]
    first, second = trials(out)
    assert first.params == {"optimizer.learning_rate": 0.1}
    assert first.value == pytest.approx(0.5 - 0.1 + 0.2 + 0.005)  # of the last epoch, the mean of two seeds
    assert second.value == pytest.approx(0.5 - 0.01 + 0.2 + 0.005)
    assert first.intermediate_values == pytest.approx({1: 0.5, 2: 0.6})  # of the first seed
    assert first.user_attrs == {}


def test_a_second_time_nothing_is_trained(out):
    sweep(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert sweep(out) == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_is_left_is_trained_and_what_was_begun_is_resumed(out):
    """One was interrupted, one is written by somebody, whose end is waited for."""
    begun = prepared(out)
    names = {}

    class Resuming(Faked):
        def begin(self):
            names[Path(self.arguments[-1]).name] = self.arguments[0]
            super().begin()
            if len(names) == 3:  # and so does the one elsewhere
                elsewhere.give_back(NAMES[0])
                write_epochs(run, [0.5, 0.6])
                write_end(run)

    run = begin_run(out / NAMES[0], begun.sweep.recipe_of({"optimizer.learning_rate": 0.1}, 0))
    begin_run(out / NAMES[1], begun.sweep.recipe_of({"optimizer.learning_rate": 0.1}, 1))
    elsewhere = Claims(out)
    assert elsewhere.take(NAMES[0], run)
    assert not Claims(out).take(NAMES[0], run)
    sweep(out, kind=Resuming)
    assert names == {NAMES[1]: "--resume", NAMES[2]: str(RECIPE), NAMES[3]: str(RECIPE)}
    assert states(out) == ["COMPLETE"] * 2


def test_the_folder_is_the_truth(out):
    """A study that was lost is made again from the runs, also those that were drawn."""
    drawn = ["epochs=1", "optimizer.learning_rate=log:1e-4..1e-1"]
    assert len(sweep(out, *drawn, trials=3)) == 3
    before = [(trial.params, trial.value) for trial in trials(out)]
    (out / JOURNAL).unlink()
    assert sweep(out, *drawn, trials=3) == []
    assert sorted((str(trial.params), trial.value) for trial in trials(out)) == sorted((str(p), v) for p, v in before)


def test_several_workers_and_their_means(out):
    """Two at a time; none twice."""

    class Slow(ByRate):
        code = None
        most = 0
        running = 0

        def end(self):
            type(self).running += 1
            type(self).most = max(self.most, self.running)

        def wait(self, timeout=None):
            if self.code is None and (self.running == 2 or len(self.started) == 4):
                super().end()
                type(self).running -= 1
                self.code = 0
            return super().wait(timeout)

    assert sorted(sweep(out, kind=Slow, workers=2)) == sorted(NAMES)
    assert Slow.most == 2
    assert states(out) == ["COMPLETE"] * 2


class Stepwise(ByRate):
    """An epoch each time that it is looked at."""

    code = None

    def end(self):
        self.epochs = 0

    def wait(self, timeout=None):
        if self.code is None:
            self.epochs += 1
            total = self.run.recipe.epochs
            write_epochs(self.run, [self.accuracy(self.run.recipe, e + 1) for e in range(min(self.epochs, total))])
            if self.epochs > total:
                write_end(self.run)
                self.code = 0
        return super().wait(timeout)


def test_pruning(out):
    """From the sixth configuration on, what does worse than the median is ended, as if interrupted."""
    rates = ["optimizer.learning_rate=0.01,0.02,0.03,0.04,0.05,0.3,0.001", "epochs=6"]
    sweep(out, *rates, kind=Stepwise, prune=True)
    assert states(out) == [*["COMPLETE"] * 5, "PRUNED", "COMPLETE"]
    assert not (out / "learning_rate=0.3" / "metrics.json").exists()
    assert trials(out)[5].user_attrs == {"why": "pruned"}
    assert sweep(out, *rates, kind=Stepwise, prune=True) == []  # and is not resumed


def test_what_has_ended_its_last_epoch_is_not_pruned(out):
    """It would lose what it is about to write."""
    rates = ["optimizer.learning_rate=0.01,0.02,0.03,0.04,0.05,0.3", "epochs=1"]
    sweep(out, *rates, kind=Stepwise, prune=True)
    assert states(out) == ["COMPLETE"] * 6


class Failing(Faked):
    """Ends by the code `failure` where the name of its folder is `failing`."""

    failing, failure = NAMES[0], 2

    def end(self):
        if self.run.path.name == self.failing:
            self.code = self.failure
        else:
            super().end()


def test_one_that_diverges_is_told_and_not_begun_again(out):
    class Diverging(Failing):
        def end(self):
            super().end()
            if self.code:
                self.run.divergence.write_text("the loss is nan in epoch 1 at step 3 of 9\n")

    assert sweep(out, kind=Diverging) == [NAMES[0], *NAMES[2:]]
    assert states(out) == ["PRUNED", "COMPLETE"]
    assert trials(out)[0].user_attrs == {"why": "diverged: the loss is nan in epoch 1 at step 3 of 9"}
    assert sweep(out) == []


def test_one_whose_figure_is_no_number_is_told_as_diverged(out):
    class Infinite(Faked):
        def end(self):
            super().end()
            if self.run.path.name == NAMES[0]:
                self.run.log.write_text(self.run.log.read_text().replace(",0.5\n", ",inf\n"))

    assert sweep(out, "select_by=loss", *GRID, kind=Infinite) == [NAMES[0], *NAMES[2:]]
    assert states(out) == ["PRUNED", "COMPLETE"]
    assert trials(out)[0].user_attrs == {"why": "diverged: its validation_loss is inf"}


def test_one_that_fails_is_left_out_and_tried_again_by_the_next_command(out, capsys):
    class Once(Failing):
        failing = NAMES[2]

    assert sweep(out, kind=Once) == NAMES[:3]
    assert states(out) == ["COMPLETE", "FAIL"]
    assert "ended with exit code 2" in capsys.readouterr().err
    assert sweep(out) == NAMES[2:]
    assert states(out) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_the_first_failure_ends_all(out):
    with pytest.raises(InputError, match=r"ended with exit code 2; the same command again goes on"):
        sweep(out, kind=Failing)
    assert Failing.started == (NAMES[0],)
    assert not list(out.glob("*.lock"))


def test_one_that_is_killed_goes_on(out, capsys):
    """Where it was; one that is killed again and again without an epoch is a failure."""

    class Killed(Faked):
        def end(self):
            if len(self.started) > 2:
                super().end()
            else:
                self.code = -9

    assert sweep(out, kind=Killed) == [NAMES[0], NAMES[0], *NAMES]
    assert "was ended from outside (exit code -9): it goes on" in capsys.readouterr().err

    class Dying(Failing):
        failure = -9

    with pytest.raises(InputError, match="ended with exit code -9"):
        sweep(out.parent / "dying", kind=Dying)
    assert Dying.started == (NAMES[0],) * 3


def test_another_sweep_in_the_same_folder(out):
    sweep(out)
    for overrides, options, message in [
        (
            ["epochs=2", "optimizer.learning_rate=0.1,0.2", "seed=0..1"],
            {},
            "is a sweep of optimizer.learning_rate=0.1,0.01",
        ),
        (["epochs=3", *GRID[1:]], {}, r"is a sweep of another recipe \(epochs is 2 there\)"),
        (GRID, {"prune": True}, "was begun without --prune"),
        (GRID, {"at_random": True}, "was begun without --random"),
    ]:
        with pytest.raises(InputError, match=message):
            sweep(out, *overrides, **options)


def test_folders_that_are_no_sweep(out, tmp_path):
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(InputError, match=r"is already there and no sweep, it holds 'notes\.txt'; choose another"):
        sweep(out)
    with pytest.raises(InputError, match="is a file; choose another"):
        sweep(out / "notes.txt")
    with pytest.raises(InputError, match=r"cannot write the sweep to .*choose another"):
        sweep(out / "notes.txt" / "sweep")


def test_what_a_killed_command_left_is_taken(out):
    out.mkdir()
    for name in (".kcifar-sweep-3f2.json", JOURNAL):
        (out / name).touch()
    assert sweep(out) == NAMES


def test_two_commands_at_once(out):
    """They share the runs, also where both begin."""
    program = "import sys; from tests.experiment.sweeping.sweeps import *; print('did', *sweep(Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, out]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    started = [name for each in both for name in each.communicate()[0].splitlines()[-1].split()[1:]]
    assert [each.returncode for each in both] == [0, 0]
    assert sorted(started) == sorted(NAMES)
    assert not list(out.glob("*.lock"))


def test_runs_that_are_not_of_the_sweep(out):
    """In its folder, under another name or with values that it does not have."""
    sweep(out)
    recipe = prepared(out).sweep.recipe_of({"optimizer.learning_rate": 0.1}, 0)
    begin_run(out / "extra", recipe)
    begin_run(out / "learning_rate=0.3,seed=0", recipe.override(["optimizer.learning_rate=0.3"]))
    (out / JOURNAL).unlink()
    assert sweep(out) == []
    assert states(out) == ["COMPLETE"] * 2
    (out / "sweep.json").unlink()
    with pytest.raises(InputError, match="it holds 'extra'"):
        sweep(out)


def test_a_damaged_description_and_a_damaged_study(out):
    sweep(out)
    held = json.loads((out / "sweep.json").read_text())
    for content in ("{", "[]", json.dumps(held | {"space": [3]}), json.dumps(held | {"recipe": {}})):
        (out / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=r"sweep\.json' is damaged .*the runs beside it stay"):
            sweep(out)
    (out / "sweep.json").unlink()
    assert sweep(out) == []
    (out / JOURNAL).write_text("no journal\n" * 3)
    with pytest.raises(InputError, match=r"study\.journal' cannot be read .*made again from the runs"):
        sweep(out)


@pytest.mark.parametrize("override", ["validation=0.1,0.2", "select_on=last,validation", "data=demo,auto"])
def test_what_configurations_are_compared_by_is_not_varied(override, out):
    with pytest.raises(InputError, match=r"is varied, but configurations are compared on the same images"):
        prepared(out, override)


def test_a_run_of_another_recipe(out):
    recipe = prepared(out).sweep.recipe_of({"optimizer.learning_rate": 0.1}, 0)
    begin_run(out / NAMES[0], dataclasses.replace(recipe, batch_size=7))
    with pytest.raises(InputError, match=r"is a run of another recipe \(batch_size is 7 there\)"):
        sweep(out)


def test_selection_on_test_is_refused_where_configurations_are_drawn(out):
    drawn = ["optimizer.learning_rate=0.1..0.2", "select_on=test"]
    with pytest.raises(InputError, match=r"select_on is 'test', so .* hold images out"):
        prepared(out, *drawn, trials=3)
    with pytest.raises(InputError, match=r"there are no validation images, so"):
        prepared(out, *drawn[:1], "select_on=last", "validation=0", trials=3)
    described = dict(prepared(out, *GRID, "select_on=test").describe())
    assert described["compared by"] == "test accuracy (the test set itself: not an honest estimate)"
    assert dict(prepared(out).describe())["compared by"] == "validation accuracy"
