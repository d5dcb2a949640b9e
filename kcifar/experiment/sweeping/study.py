"""What Optuna is asked and told. Its trials are configurations; what it is told is read in the runs' folders."""

import contextlib
import re
import statistics
import warnings

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from kcifar.errors import InputError, one_line
from kcifar.experiment.sweeping.space import Choices

JOURNAL = "study.journal"
_ID, _AGAIN = "kcifar_sweep", "again"
_DIGITS = 4  # of a number that is drawn: so folders have short names, and the study says what was trained
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
    return min(max(float(f"{value:.{_DIGITS}g}"), distribution.low), distribution.high)


class Study:
    """The study of a sweep: which configurations are being trained, and how those that have ended did.

    Nothing is asked or told but in this process's turn, see `Claims.turn`.

    Args:
        folder: a `SweepFolder`.
        selection: the `Selection` that configurations are compared by.
        storage: an address as Optuna takes it; None for a file in the folder.
        at_random: see `Sampler`.

    Raises:
        InputError: the storage cannot be reached or read, or has a study of that name of another folder.

    Attributes:
        goes_on: whether other configurations are trained where one fails.
        follows: whether it is to be told how epochs did as they end.
        left: what is said where a failure ends all.
    """

    goes_on, follows = True, True
    left = "the same command again goes on"

    def __init__(self, folder, selection, storage=None, at_random=False):
        self._folder, self._sweep, self._selection = folder, folder.sweep, selection
        self._distributions = distributions(self._sweep.space)
        self._storage, self._database = storage or str(folder.path / JOURNAL), None
        with self._errors():
            self._database = storage and _database(storage)
            self._study = _opened(
                storage=self._database or _journal(folder.path / JOURNAL),
                study_name=folder.path.resolve().name,
                direction=selection.direction,
                sampler=Sampler(at_random),
                pruner=optuna.pruners.MedianPruner() if self._sweep.prune else optuna.pruners.NopPruner(),
            )
            owner = self._study.user_attrs.get(_ID)
            if owner is None:
                self._study.set_user_attr(_ID, self._sweep.id)
        if storage and owner not in (None, self._sweep.id):
            self.close()
            raise InputError(
                f"the study '{self._study.study_name}' at {without_password(storage)} is of a sweep in another folder: "
                "choose another name for the folder by --out, or work in the same folder over a shared disk"
            )

    def close(self):
        """Ends the connections to a database."""
        if self._database:
            self._database.remove_session()
            self._database.engine.dispose()

    def begin(self):
        """Has the study know all configurations of a grid, and those whose runs are in the folder already.

        Configurations whose trainings failed are tried again.
        """
        with self._errors():
            known = [self._configuration(trial) for trial in self._trials()]
            wanted = [] if self._sweep.space.sampled else self._sweep.space.configurations()
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
        with self._errors():
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return {trial.number: self._configuration(trial) for trial in running}

    def another(self):
        """Begins another configuration, and returns its number; None where there is none left."""
        with self._errors():
            trials = self._trials()
            waits = any(trial.state == TrialState.WAITING for trial in trials)
            drawn = sum(not trial.user_attrs.get(_AGAIN) for trial in trials)
            if waits or (self._sweep.space.sampled and drawn < self._sweep.trials):
                return self._study.ask(self._distributions).number
        return None

    def report(self, number, run):
        """Tells of a configuration how the epochs of its first run did that have ended.

        Returns:
            Whether it is to be ended, as it does worse than the median of the others; only on request.
        """
        with self._errors():
            trial = self._trial(number)
            before = self._trials()[number].intermediate_values
            figures = self._selection.by_epoch(run)
            for epoch, figure in figures.items():
                if epoch not in before:
                    trial.report(figure, epoch)
            return bool(figures) and trial.should_prune()

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
        with self._errors():
            return self._trials()[number].state == TrialState.RUNNING

    def why(self):
        """Of each configuration that did not complete, why, with the configuration."""
        with self._errors():
            ended = [t for t in self._trials() if t.state in (TrialState.PRUNED, TrialState.FAIL)]
            return [(self._configuration(trial), trial.user_attrs.get("why", _PRUNED)) for trial in ended]

    def _end(self, number, state, figure=None, why=None):
        with self._errors():
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

    @contextlib.contextmanager
    def _errors(self):
        """Has what a storage raises be told in a line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                yield
        except InputError:
            raise
        except Exception as error:  # whatever a database's driver raises
            raise self._told(error) from None

    def _told(self, error):
        text = without_password(one_line(error)).partition(" (Background on this error")[0]
        if self._storage.endswith(JOURNAL):
            return InputError(
                f"'{self._storage}' cannot be read or written ({text}): if it is damaged, remove it: it is made again "
                "from the runs beside it"
            )
        for secret in re.findall(r"://[^/@]*?:([^@]+)@", self._storage):
            text = text.replace(secret, "***")
        return InputError(
            f"the study at {without_password(self._storage)} cannot be used ({text}); expected an address that Optuna "
            "reaches, as postgresql+psycopg://user@host/database or sqlite:///study.db"
        )


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


def without_password(address):
    """An address, or a text with one, whose password is not shown."""
    return re.sub(r"(://[^/@\s]*?):[^@\s]+@", r"\1:***@", address)


def _database(address):
    if address.startswith("redis"):
        raise InputError(f"the study is at {without_password(address)}; expected a database, as postgresql+psycopg://…")
    return optuna.storages.RDBStorage(address)


def _journal(path):
    # By a file that must not be there yet, which NFS and SMB know too. Optuna's own choice, a symbolic link, is none on
    # some disks, and to a path that is not absolute it waits for ever on a lock that was left.
    path = str(path.resolve())
    return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
