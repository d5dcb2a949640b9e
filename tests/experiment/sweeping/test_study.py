"""What Optuna is asked and told: configurations that are drawn, and a study in a database."""

import math

import optuna
import pytest
from optuna.distributions import FloatDistribution

from kcifar import InputError
from kcifar.experiment.sweeping.storage import JOURNAL
from kcifar.experiment.sweeping.study import Sampler
from tests.experiment.sweeping.sweeps import ByRate, states, sweep, trials

pytestmark = pytest.mark.once


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


def test_of_a_few_whole_numbers_each_is_drawn_once(out):
    """Until all of them are."""
    sweep(out, "epochs=1..4", "model.dropout=0.1,0.2", kind=ByRate, trials=6)
    runs = [path.parent.name for path in out.glob("*/metrics.json")]
    assert len(runs) == len(set(runs)) == 6
    assert len(sweep(out, "epochs=1..4", "model.dropout=0.1,0.2", kind=ByRate, trials=8)) == 2
    assert states(out).count("COMPLETE") == 8


@pytest.mark.parametrize("ends", [(0.9999, 0.99999), (0.999, 0.9999), (0.0, 0.6), (1e-8, 1e-7), (0.1, 1.0)])
def test_a_narrow_range_keeps_its_width(ends):
    """Drawn numbers are short, but not so short that few are left."""
    study = optuna.create_study(sampler=Sampler(at_random=True))
    drawn = [study.ask({"x": FloatDistribution(*ends)}).params["x"] for _ in range(300)]
    assert len(set(drawn)) > 200
    assert all(ends[0] <= each <= ends[1] for each in drawn)
    assert sum(drawn) / 300 == pytest.approx(sum(ends) / 2, abs=0.1 * (ends[1] - ends[0]))
    assert max(len(repr(each)) for each in drawn) <= 4 + len(repr(ends[0])) + math.ceil(-math.log10(ends[1] - ends[0]))


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


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////nowhere/study.db",
        "nonsense",
        "mysql+nothing://me:secret@h/d",
        "mysql+nothing://me:the@secret@h/d",
        "mysql+nothing://h/d?user=me&password=secret",
    ],
)
def test_a_storage_that_cannot_be_reached(address, out):
    with pytest.raises(
        InputError, match=r"the study at .* cannot be used .*; expected an address that Optuna"
    ) as error:
        sweep(out, storage=address)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the study is in a Redis; expected a database"):
        sweep(out, storage="redis://x")
