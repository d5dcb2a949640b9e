"""How far a sweep is: lines, and of several workers on a terminal a table that changes."""

import time

from kcifar.output import printable, say
from kcifar.runs.report import records
from kcifar.runs.report.words import UNKNOWN, duration, number, percent
from kcifar.runs.rows import series


def shown(folder, selection, workers):
    """What shows how far a sweep is: `Table` for several workers on a terminal, else `Lines`."""
    if workers > 1:
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        if console.is_terminal:
            return Table(folder, selection, console)
    return Lines(folder, selection, alone=workers == 1)


class Lines:
    """A line where a run begins, and where its training does not say so itself, one where it ends.

    Args:
        folder: a `SweepFolder`.
        selection: the `Selection` whose figure is shown.
        alone: whether there is one worker, whose training is shown.
    """

    def __init__(self, folder, selection, alone=True):
        self._folder, self._selection, self._alone = folder, selection, alone
        self._names = set()  # of the runs that were begun here

    def begins(self, configuration, seed):
        """A run is begun, or goes on."""
        run, sweep = self._folder.run(configuration, seed), self._folder.sweep
        gap = "\n" if self._alone and self._names else ""
        self._names.add(run.path.name)
        what = f"{printable(run.path)}{' goes on' if run.begun else ''}"
        if not (sweep.space.sampled and run.begun):
            kind = "run " if sweep.space.dimensions else f"seed {seed}, "
            what = f"{kind}{self._place(configuration, seed)} of {sweep.runs}: {what}"
        say(f"{gap}{what}")

    def _place(self, configuration, seed):
        """Of a grid by its order, of drawn ones by that in which they were begun."""
        space, seeds = self._folder.sweep.space, self._folder.sweep.seeds
        if not space.sampled:
            return list(space.configurations()).index(configuration) * len(seeds) + seeds.index(seed) + 1
        return len(self._names | {path.parent.name for path in self._folder.path.glob("*/environment.json")})

    def ended(self, run):
        """A training has ended, perhaps before its time."""
        if not self._alone:
            say(f"{printable(run.path)}: {_outcome(run, self._selection)}")

    def update(self, trainings):
        """Shows the trainings as they are now: each with its worker's number."""

    def close(self):
        """There will be no more."""


class Table(Lines):
    """The trainings that run, their epochs and figures, in a table that changes.

    Args:
        folder, selection: see `Lines`.
        console: a rich `Console`.
    """

    def __init__(self, folder, selection, console):
        super().__init__(folder, selection, alone=False)
        self._console, self._live = console, None

    def begins(self, configuration, seed):
        pass

    def ended(self, run):
        self._console.print(f"{printable(run.path.name)}: {_outcome(run, self._selection)}", soft_wrap=True)

    def update(self, trainings):
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._drawn(trainings), refresh=True)

    def close(self):
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _drawn(self, trainings):
        from rich.table import Table as RichTable

        total = self._folder.sweep.runs
        table = RichTable(
            title=f"{_done(self._folder)} of {total} runs done", title_justify="left", box=None, padding=(0, 2, 0, 0)
        )
        table.add_column("worker", justify="right")
        table.add_column("run", overflow="ellipsis", no_wrap=True)
        for title in ("epoch", self._selection.column.replace("_", " "), "time"):
            table.add_column(title, justify="right", no_wrap=True)
        for worker, training in sorted(trainings.items()):
            run = training.run
            rows = records.log(run) if run.begun else []
            figures = series(rows, self._selection.column)[1]
            figure = _written(figures[-1], self._selection) if figures else UNKNOWN
            epochs = f"{len(rows)} of {run.recipe.epochs}" if run.begun else "begins"
            table.add_row(
                str(worker + 1), printable(run.path.name), epochs, figure, duration(time.monotonic() - training.began)
            )
        return table


def _done(folder):
    return sum(1 for _ in folder.path.glob("*/metrics.json"))


def _outcome(run, selection):
    if run.complete:
        return f"{selection.column.replace('_', ' ')} {_written(selection.of(run), selection)}"
    return f"diverged, {run.diverged}" if run.diverged else "ended early"


def _written(figure, selection):
    return percent(figure) if selection.by == "accuracy" else number(figure, ".4f")
