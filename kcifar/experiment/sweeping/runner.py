"""The runs of a sweep, done one after another or several at a time, by whoever comes."""

import time

from kcifar.errors import InputError
from kcifar.experiment.sweeping.claims import Claims
from kcifar.experiment.sweeping.space import overrides_of
from kcifar.experiment.sweeping.workers import PATIENCE, Training, circumstances_of, end_all
from kcifar.interrupts import interrupts
from kcifar.output import warn

_SECONDS_BETWEEN_TURNS = 1.0
_MOST_DEATHS = 3  # of a training without an epoch between them
_MOST_FAILURES = 3  # in a row


class Runner:
    """Does the runs of a sweep that nobody else does, and tells its study what has ended, in whose folder it may be.

    Args:
        folder: a `SweepFolder`.
        study: a `Study`, or `Listed`, which are asked for configurations and told how they did.
        recipe: path of the recipe's file.
        overrides: those of all runs.
        shown: what shows how far it is, see `kcifar.experiment.sweeping.shown`.
        workers: how many trainings at a time.
        progress_every: see `kcifar.experiment.train`; of one worker, whose training is shown.
    """

    def __init__(self, folder, study, recipe, overrides, shown, workers=1, progress_every=None):
        self._folder, self._study = folder, study
        self._recipe, self._overrides, self._progress_every = str(recipe), list(overrides), progress_every
        self._shown, self._workers = shown, workers
        self._circumstances = circumstances_of(workers)
        self._claims = Claims(folder.path)
        self._trainings = {}  # by worker: (training, configuration's number, run's name)
        self._skipped = {}  # why runs failed, by their names
        self._deaths = {}  # by run's name: how many, behind which epoch
        self._failures, self._succeeded = 0, False

    def run(self):
        """Returns when all runs have ended, wherever they are done: why those failed that did here.

        Raises:
            InputError: the first training failed, or three in a row; or what `Study` raises.
        """
        interrupts.seconds = 2 * PATIENCE
        try:
            with self._claims.turn():
                self._study.begin()
            while self._turn():
                self._wait()
            return list(self._skipped.values())
        except BaseException:
            end_all([training for training, _, _ in self._trainings.values()])
            raise
        finally:
            for training, _, name in self._trainings.values():
                training.close()
                self._claims.give_back(name)
            self._study.close()
            self._shown.close()

    def _turn(self):
        """Tells what has ended, and begins what is free; whether there is anything to wait for."""
        for worker in list(self._trainings):
            self._end_of(worker)
        waits = True
        if len(self._trainings) < self._workers or self._study.follows:
            with self._claims.turn():
                self._follow()
                waits = self._start()
        self._shown.update({worker: training for worker, (training, _, _) in self._trainings.items()})
        return waits or bool(self._trainings)

    def _wait(self):
        deadline = time.monotonic() + _SECONDS_BETWEEN_TURNS
        for training, _, _ in self._trainings.values():
            if training.code(max(deadline - time.monotonic(), 0)) is not None:
                return
        time.sleep(max(deadline - time.monotonic(), 0))

    def _follow(self):
        """Tells the study of each configuration that is being trained how it does, and ends what it prunes."""
        for number, configuration in self._study.active().items():
            runs = [self._folder.run(configuration, seed) for seed in self._folder.sweep.seeds]
            diverged = next((why for run in runs if (why := self._study.diverged(run))), None)
            if diverged:
                self._study.prune(number, f"diverged: {diverged}")
            elif all(run.complete for run in runs):
                self._study.report(number, runs[0])
                self._study.tell(number, runs)
            elif runs[0].begun and self._study.report(number, runs[0]):
                self._study.prune(number)
        for training, number, _ in self._trainings.values():
            if not training.asked and not training.run.complete and not self._study.is_active(number):
                training.end()

    def _start(self):
        """Begins trainings while a worker is free; whether there are runs that others do."""
        while len(self._trainings) < self._workers:
            found, others = self._free_run()
            if found is None:
                if self._study.another() is None:
                    return others
                self._follow()  # its runs may have ended before
                continue
            worker = next(place for place in range(self._workers) if place not in self._trainings)
            self._begin(worker, *found)
        return True

    def _free_run(self):
        """The first run that nobody does: (number, configuration, seed, name) or None; and whether others do some."""
        others = False
        for number, configuration in self._study.active().items():
            for seed in self._folder.sweep.seeds:
                name, run = self._folder.name_of(configuration, seed), self._folder.run(configuration, seed)
                if run.complete or name in self._skipped:
                    continue
                if self._claims.take(name, run):
                    return (number, configuration, seed, name), others
                others = True
        return None, others

    def _begin(self, worker, number, configuration, seed, name):
        run = self._folder.run(configuration, seed)
        if run.begun:
            recipe = self._folder.sweep.recipe_of(configuration, seed)
            run.expect_recipe(recipe)
            moved = [] if run.recipe.data == recipe.data else [f"data={recipe.data}"]  # as they lie on this machine
            arguments = ["--resume", str(run.path), *moved]
        else:
            changed = overrides_of(configuration, seed)
            arguments = [self._recipe, *self._overrides, *changed, "--out", str(run.path)]
        if self._progress_every is not None:
            arguments += ["--progress", str(self._progress_every)]
        self._shown.begins(configuration, seed)
        output = self._folder.output(name) if self._workers > 1 else None
        self._trainings[worker] = Training(run, arguments, self._circumstances[worker], output), number, name

    def _end_of(self, worker):
        """Takes note of how the training of a worker ended, if it has."""
        training, number, name = self._trainings[worker]
        code = training.code()
        if code is None:
            return
        del self._trainings[worker]
        training.close()
        mine = self._claims.holds(name)
        self._claims.give_back(name)
        if training.run.complete:
            self._failures, self._succeeded = 0, True
        elif mine and not training.asked and not (training.run.diverged and self._study.goes_on):
            self._failed(training.run, number, name, code)
        self._shown.ended(training.run)

    def _failed(self, run, number, name, code):
        died = code < 0 or code in (130, 143)
        if died and interrupts.number is None:
            epochs = run.last.exists and run.last.read().record["epochs"]
            count = self._deaths.get(name, (0, None))
            self._deaths[name] = (count[0] + 1 if count[1] == epochs else 1), epochs
            if self._deaths[name][0] < _MOST_DEATHS:
                warn(f"the training of '{run.path}' was ended from outside (exit code {code}): it goes on")
                return
        self._failures += 1
        why = f"the training of '{run.path}' ended with exit code {code}"
        output = self._folder.output(name)
        if self._workers > 1:
            why += f", see '{output}'"
        self._skipped[name] = why
        if not self._succeeded or self._failures == _MOST_FAILURES or not self._study.goes_on:
            raise InputError(f"{why}; {self._study.left}")
        with self._claims.turn():
            self._study.fail(number, why)
        warn(why)


class Listed:
    """In the place of a study, where seeds are all that is varied: one configuration, of which nobody is told.

    Attributes:
        goes_on, follows, left: see `Study`.
    """

    goes_on, follows = False, False
    left = "the seeds behind it were not begun"

    def __init__(self, configuration):
        self._active = {0: configuration}

    def begin(self):
        pass

    def close(self):
        pass

    def active(self):
        return dict(self._active)

    def another(self):
        return None

    def diverged(self, run):
        return ""

    def report(self, number, run):
        return False

    def tell(self, number, runs):
        self._active.pop(number, None)

    def prune(self, number, why):
        pass

    def is_active(self, number):
        return True
