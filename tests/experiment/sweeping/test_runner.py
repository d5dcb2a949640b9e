"""The runs of a sweep: each done once, by whoever comes, and the study told what their folders say."""

import dataclasses
import json
from pathlib import Path

import optuna
import pytest

from kcifar import InputError
from kcifar.experiment.sweeping import begin, runner
from kcifar.experiment.sweeping.claims import Claims
from kcifar.experiment.sweeping.study import JOURNAL, _journal
from tests.fake_trainings import Faked, begin_run, trainings, write_end, write_epochs

pytestmark = pytest.mark.once

RECIPE = Path(__file__).parents[3] / "recipes" / "demo.py"
GRID = ["epochs=2", "optimizer.learning_rate=0.1,0.01", "seed=0..1"]
NAMES = [f"learning_rate={rate},seed={seed}" for rate in (0.1, 0.01) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_TURNS", 0.0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "sweep"


def prepared(out, *overrides, **options):
    return begin.prepare(RECIPE, overrides or GRID, out, **options)


def sweep(out, *overrides, kind=None, storage=None, workers=1, at_random=False, **options):
    """The names of the folders of the trainings that were begun."""
    kind = kind or Faked
    kind.started = ()
    with trainings(kind):
        begin.run(prepared(out, *overrides, **options), storage, workers, at_random)
    return list(kind.started)


def trials(out):
    study = optuna.load_study(study_name=out.name, storage=_journal(out / JOURNAL))
    return study.get_trials(deepcopy=False)


def states(out):
    return [trial.state.name for trial in trials(out)]


class ByRate(Faked):
    """Better at a lower rate, in later epochs, and from a higher seed."""

    @staticmethod
    def accuracy(recipe, epoch):
        return 0.5 - recipe.optimizer.arguments["learning_rate"] + 0.1 * epoch + 0.01 * recipe.seed


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
    (out / "claims").mkdir()
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


def test_drawn_configurations(out):
    """Of the ranges given, with four digits; more trials go on; who begins anew draws the same."""
    space = ["optimizer.learning_rate=log:1e-4..1e-1", "epochs=1..3", "model.dropout=0.1,0.2"]
    assert len(sweep(out, *space, kind=ByRate, trials=12)) == 12
    found = [trial.params for trial in trials(out)]
    assert all(1e-4 <= each["optimizer.learning_rate"] <= 1e-1 for each in found)
    assert {each["epochs"] for each in found} == {1, 2, 3}
    assert {each["model.dropout"] for each in found} == {0.1, 0.2}
    assert all(len(f"{each['optimizer.learning_rate']:.10g}".lstrip("0.").partition("e")[0]) <= 5 for each in found)
    assert f"learning_rate={found[0]['optimizer.learning_rate']!r}," in "".join(p.name for p in out.iterdir())
    # Not one chance for all keys: drawn evenly, rate and dropout are apart.
    assert len({(each["model.dropout"], each["optimizer.learning_rate"] > 3e-3) for each in found}) > 2
    assert len(sweep(out, *space, kind=ByRate, trials=14)) == 2
    again = out.parent / "again"
    sweep(again, *space, kind=ByRate, trials=14)
    assert [trial.params for trial in trials(again)] == [trial.params for trial in trials(out)]
    with pytest.raises(InputError, match="is a sweep of 14 trials; expected --trials of as many"):
        sweep(out, *space, trials=3)


def test_what_did_well_is_looked_for(out):
    """TPE draws lower rates than chance does, where they do better."""
    space = ["optimizer.learning_rate=0.0..0.4", "epochs=1"]
    sweep(out, *space, kind=ByRate, trials=25)
    sweep(out.parent / "random", *space, kind=ByRate, trials=25, at_random=True)
    of_tpe, of_chance = (
        [t.params["optimizer.learning_rate"] for t in trials(each)] for each in (out, out.parent / "random")
    )
    assert of_tpe[:10] == of_chance[:10]
    assert sum(of_tpe[10:]) < 0.5 * sum(of_chance[10:])


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
    assert not (out / "claims").exists()


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
    ]:
        with pytest.raises(InputError, match=message):
            sweep(out, *overrides, **options)


def test_folders_that_are_no_sweep(out, tmp_path):
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(InputError, match="is already there and no sweep; choose another --out"):
        sweep(out)
    with pytest.raises(InputError, match="is a file; choose another"):
        sweep(out / "notes.txt")
    with pytest.raises(InputError, match=r"cannot write the sweep to .*choose another"):
        sweep(out / "notes.txt" / "sweep")


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


def test_arguments_that_a_component_does_not_take(out):
    with pytest.raises(InputError, match="Adam has no argument 'learning_rat'; did you mean 'learning_rate'"):
        prepared(out, "optimizer.learning_rat=0.1,0.2")
    with pytest.raises(InputError, match="expected"):
        prepared(out, "transforms.RandomCrop.size=-1..4", trials=2)


def test_a_database(out, tmp_path):
    """Of Optuna's: the study is there, with its name; that of another folder is refused."""
    address = f"sqlite:///{tmp_path}/study.db"
    sweep(out, storage=address, kind=ByRate)
    study = optuna.load_study(study_name=out.name, storage=address)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert study.best_params == {"optimizer.learning_rate": 0.01}
    assert not (out / JOURNAL).exists()
    with pytest.raises(InputError, match=r"the study 'sweep' at sqlite.* is of a sweep in another folder"):
        sweep(tmp_path / "b" / "sweep", storage=address)


@pytest.mark.parametrize("address", ["sqlite:////nowhere/study.db", "nonsense", "mysql+nothing://me:secret@h/d"])
def test_a_storage_that_cannot_be_reached(address, out):
    with pytest.raises(
        InputError, match=r"the study at .* cannot be used .*; expected an address that Optuna"
    ) as error:
        sweep(out, storage=address)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the study is at redis://x; expected a database"):
        sweep(out, storage="redis://x")
