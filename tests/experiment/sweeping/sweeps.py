"""Sweeps whose trainings are no processes, and what their studies were told."""

from pathlib import Path

import optuna

from kcifar.experiment.sweeping import begin
from kcifar.experiment.sweeping.storage import JOURNAL, journal
from tests.fake_trainings import Faked, trainings

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "demo.py"
GRID = ["epochs=2", "optimizer.learning_rate=0.1,0.01", "seed=0..1"]
NAMES = [f"learning_rate={rate},seed={seed}" for rate in (0.1, 0.01) for seed in (0, 1)]


def prepared(out, *overrides, **options):
    return begin.prepare(RECIPE, overrides or GRID, out, **options)


def sweep(out, *overrides, kind=None, storage=None, workers=1, **options):
    """The names of the folders of the trainings that were begun."""
    kind = kind or Faked
    kind.started = ()
    with trainings(kind):
        begin.run(prepared(out, *overrides, **options), storage, workers)
    return list(kind.started)


def trials(out):
    """What the study of a sweep holds."""
    study = optuna.load_study(study_name=out.name, storage=journal(out / JOURNAL))
    return study.get_trials(deepcopy=False)


def states(out):
    return [trial.state.name for trial in trials(out)]


class ByRate(Faked):
    """Better at a lower rate, in later epochs, and from a higher seed."""

    @staticmethod
    def accuracy(recipe, epoch):
        return 0.5 - recipe.optimizer.arguments["learning_rate"] + 0.1 * epoch + 0.01 * recipe.seed
