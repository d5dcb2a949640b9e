"""What Optuna is asked and told. Its trials are configurations; what it is told is read in the runs' folders."""

import math
import statistics

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from kcifar.errors import InputError
from kcifar.experiment.sweeping.space import Choices
from kcifar.experiment.sweeping.storage import Storage

_ID, _AGAIN = "kcifar_sweep", "again"
# Of a number that is drawn: so folders have short names, and the study says what was trained.
_DIGITS, _STEPS = 4, 1000  # significant ones, or more where the range would have fewer steps than that
_MOST_DRAWS = 20  # of a configuration that there was not yet
_PRUNED = "pruned"

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Sampler(optuna.samplers.BaseSampler):
    """Draws configurations: each by chance of its own number, so that who goes on with a study draws no value again.

    Args:
        at_random: whether by chance alone; else by TPE (Bergstra et al. 2011), as Optuna has it by default.
    """

    def __init__(self, at_random=False):
        self._kind = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
        self._number, self._sampler = None, None

    def _of(self, trial):
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._kind(seed=trial.number)
        return self._sampler

    def infer_relative_search_space(self, study, trial):
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        drawn = self._of(trial).sample_relative(study, trial, search_space)
        return {name: _rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        drawn = self._of(trial).sample_independent(study, trial, param_name, param_distribution)
        return _rounded(drawn, param_distribution)


def _rounded(value, distribution):
    if not isinstance(distribution, FloatDistribution):
        return value
    low, high = distribution.low, distribution.high
    if value == 0:
        return value
    digits = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, max(digits, math.ceil(math.log10(_STEPS / (high - low)))))
    return min(max(rounded, low), high)


class Study:
    """The study of a sweep: which configurations are being trained, and how those that have ended did.

    Nothing is asked or told but in this process's turn, see `Claims.turn`.

    Args:
        folder: a `SweepFolder`.
        selection: the `Selection` that configurations are compared by.
        storage: an address as Optuna takes it; None for a file in the folder.

    Raises:
        InputError: the storage cannot be reached or read, or has a study of that name of another folder.

    Attributes:
        goes_on: whether other configurations are trained where one fails.
        follows: whether it is to be told how epochs did as they end.
        left: what is said where a failure ends all.
    """

    goes_on, follows = True, True
    left = "the same command again goes on"

    def __init__(self, folder, selection, storage=None):
        self._folder, self._sweep, self._selection = folder, folder.sweep, selection
        self._distributions = distributions(self._sweep.space)
        self._storage = Storage(folder.path, storage)
        with self._storage.errors():
            self._study = _opened(
                storage=self._storage.optunas,
                study_name=folder.path.resolve().name,
                direction=selection.direction,
                sampler=Sampler(self._sweep.at_random),
                pruner=optuna.pruners.MedianPruner() if self._sweep.prune else optuna.pruners.NopPruner(),
            )
            owner = self._study.user_attrs.get(_ID)
            if owner is None:
                self._study.set_user_attr(_ID, self._sweep.id)
        if storage and owner not in (None, self._sweep.id):
            self.close()
            raise InputError(
                f"the study '{self._study.study_name}' at {self._storage} is of a sweep in another folder: "
                "choose another name for the folder by --out, or work in the same folder over a shared disk"
            )

    def close(self):
        """Ends the connections to a database."""
        self._storage.close()

    def begin(self):
        """Has the study know all configurations of a grid, and those whose runs are in the folder already.

        Configurations whose trainings failed are tried again.
        """
        with self._storage.errors():
            known = [self._configuration(trial) for trial in self._trials()]
            wanted = () if self._sweep.space.sampled else self._sweep.space.configurations()
            for configuration in [*wanted, *self._folder.found(known)]:
                if configuration not in known:
                    known.append(configuration)
                    self._study.enqueue_trial(configuration)
            trials = self._trials()
            others = [self._configuration(t) for t in trials if t.state != TrialState.FAIL]
            for configuration in [self._configuration(t) for t in trials if t.state == TrialState.FAIL]:
                if configuration not in others:
                    others.append(configuration)
                    self._study.enqueue_trial(configuration, user_attrs={_AGAIN: True})

    def active(self):
        """The configurations that are being trained, by the numbers of their trials, in their order."""
        with self._storage.errors():
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return {trial.number: self._configuration(trial) for trial in running}

    def another(self):
        """Begins another configuration, and returns its number; None where there is none left."""
        with self._storage.errors():
            trials = self._trials()
            if any(trial.state == TrialState.WAITING for trial in trials):
                return self._study.ask(self._distributions).number
            drawn = sum(not trial.user_attrs.get(_AGAIN) for trial in trials)
            if not self._sweep.space.sampled or drawn >= self._sweep.trials:
                return None
            return self._new([trial.params for trial in trials])

    def _new(self, known):
        """Begins a configuration that is drawn. What there was already, as may be of whole numbers, is drawn anew."""
        for _ in range(_MOST_DRAWS):
            trial = self._study.ask(self._distributions)
            if trial.params not in known:
                return trial.number
            trial.set_user_attr(_AGAIN, True)
            self._study.tell(trial, state=TrialState.FAIL)
        self._study.enqueue_trial(next(each for each in self._sweep.space.configurations() if each not in known))
        return self._study.ask(self._distributions).number

    def report(self, number, run):
        """Tells of a configuration how the epochs of its first run did that have ended.

        Returns:
            Whether it is to be ended, as it does worse than the median of the others; only on request, and not where
            no epoch is left.
        """
        with self._storage.errors():
            trial = self._trial(number)
            before = self._trials()[number].intermediate_values
            figures = self._selection.by_epoch(run)
            for epoch, figure in figures.items():
                if epoch not in before:
                    trial.report(figure, epoch)
            return bool(figures) and max(figures) < run.recipe.epochs and trial.should_prune()

    def diverged(self, run):
        """Why a run has no figure and will have none; "" where it has one, or may have."""
        return self._selection.diverged(run)

    def tell(self, number, runs):
        """Tells of a configuration whose runs have all ended the mean of their figures."""
        self._end(number, TrialState.COMPLETE, statistics.fmean(map(self._selection.of, runs)))

    def prune(self, number, why=_PRUNED):
        """Tells that a configuration was ended early, as it does badly."""
        self._end(number, TrialState.PRUNED, why=why)

    def fail(self, number, why):
        """Tells that a training of a configuration failed."""
        self._end(number, TrialState.FAIL, why=why)

    def is_active(self, number):
        """Whether a configuration has not been ended, by whomever."""
        with self._storage.errors():
            return self._trials()[number].state == TrialState.RUNNING

    def _end(self, number, state, figure=None, why=None):
        with self._storage.errors():
            if self._trials()[number].state != TrialState.RUNNING:
                return
            if why:
                self._trial(number).set_user_attr("why", why)
            self._study.tell(number, figure, state)

    def _trials(self):
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number):
        return optuna.trial.Trial(self._study, self._trials()[number]._trial_id)

    def _configuration(self, trial):
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        return {dimension.key: values.get(dimension.key) for dimension in self._sweep.space.dimensions}


def distributions(space):
    """What Optuna draws from, by key."""
    return {dimension.key: _distribution(dimension) for dimension in space.dimensions}


def _distribution(dimension):
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    kind = IntDistribution if dimension.whole else FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)


def _opened(direction, **options):
    """The study of that name, made where there is none."""
    try:
        return optuna.load_study(**options)
    except KeyError:
        return optuna.create_study(direction=direction, load_if_exists=True, **options)
