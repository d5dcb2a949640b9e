"""What the report says of a sweep: its configurations, compared."""

import dataclasses
import math
import statistics

from kcifar.runs.report import pictures, sweep_pictures
from kcifar.runs.report.page import template
from kcifar.runs.report.spread import spread
from kcifar.runs.report.words import UNKNOWN, number, percent

_MOST_CURVES = 12


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A configuration of a sweep and how its runs did.

    Attributes:
        values: by key.
        wanted: how many runs it is to have.
        figures: that by which configurations are compared, of each run that has ended.
        tests: their accuracies on the test images.
        losses: of each run that was begun, the training losses of its epochs.
        note: what is to be said of it, as that a run diverged.
    """

    values: dict
    wanted: int
    figures: list
    tests: list
    losses: list
    note: str = ""

    @property
    def mean(self):
        return statistics.fmean(self.figures) if self.figures else None

    @property
    def is_whole(self):
        """Whether all its runs have ended, each with a figure."""
        return len(self.figures) == self.wanted


@dataclasses.dataclass(frozen=True)
class Results:
    """A sweep and how its configurations did.

    Attributes:
        name: of the recipe.
        path: of the folder.
        names: a short name for each key.
        log: the keys whose values are drawn on an axis of logarithms.
        column: the figure by which configurations are compared, as log.csv has it.
        sampled: whether they were drawn.
        runs: how many there are to be.
        configurations: `Configuration`s, those that were begun.
        importances: of the keys, which sum to 1; {} where they cannot be told.
        no_importances: why there are none.
    """

    name: str
    path: str
    names: dict
    log: set
    column: str
    sampled: bool
    runs: int
    configurations: list
    importances: dict
    no_importances: str = ""

    @property
    def is_accuracy(self):
        return self.column.endswith("accuracy")

    @property
    def title(self):
        """Of the figure."""
        return self.column.replace("_", " ").capitalize()

    def ranked(self):
        """The configurations, the best first; those last of which a run has diverged or has not ended."""
        sign = -1 if self.is_accuracy else 1
        by_mean = sorted(self.configurations, key=lambda each: math.inf if each.mean is None else sign * each.mean)
        return sorted(by_mean, key=lambda each: not each.is_whole)

    def name_of(self, configuration):
        """Its values in a line."""
        return ", ".join(f"{self.names[key]} {_value(value)}" for key, value in configuration.values.items()) or "all"


def render_sweep(results):
    """The report of a sweep as HTML that needs nothing else: equal bytes for equal runs."""
    ranked, importances = results.ranked(), _importances(results)
    ended = sum(len(each.figures) for each in ranked)
    seeds = max((each.wanted for each in ranked), default=1)
    how = "drawn" if results.sampled else "of a grid"
    of_seeds = f" with {seeds} seeds each" if seeds > 1 else ""
    on_test = results.column.startswith("test")
    return template("sweep.html.j2").render(
        title=f"Sweep of {results.name}",
        summary=f"{len(ranked)} configurations {how}{of_seeds}; {ended} of {results.runs} runs have ended. The best "
        f"first, by the mean {results.title.lower()}.",
        path=results.path,
        caption="Mean ± standard deviation over the seeds, and Student's 95 % interval of the mean. A title sorts by "
        "its column.",
        columns=_columns(results, on_test),
        rows=[_row(results, each, on_test) for each in ranked],
        notes=_notes(results, on_test),
        figure=results.title,
        by_key=[_shown(figure) for figure in _by_key(results)],
        lines=not results.sampled,
        losses=_losses(results, ranked),
        importances=importances and _shown(importances),
        no_importances=results.no_importances,
    )


def _columns(results, on_test):
    keys = [(name, "number" if _is_numeric(results, key) else "text") for key, name in results.names.items()]
    figures = [(results.title, "number"), ("95 % interval", "number"), ("Test accuracy", "number")]
    return [*keys, ("Runs", "number"), *(figures[:2] if on_test and results.is_accuracy else figures), ("Note", "text")]


def _row(results, each, on_test):
    keys = [_cell(value, _value(value)) for value in each.values.values()]
    of_figure, of_tests = (spread(of) if of else None for of in (each.figures, each.tests))
    low, high = (of_figure and of_figure.interval) or (None, None)
    bounds = UNKNOWN if low is None else f"{_plain(results, low)}–{_written(results, high)}"
    figures = [
        _cell(of_figure and of_figure.mean, _mean_and_spread(results.is_accuracy, of_figure)),
        _cell(None if low is None else high - low, bounds),
        _cell(of_tests and of_tests.mean, _mean_and_spread(True, of_tests)),
    ]
    shown = figures[:2] if on_test and results.is_accuracy else figures
    count = f"{len(each.figures)} of {each.wanted}" if len(each.figures) < each.wanted else str(each.wanted)
    return [*keys, _cell(len(each.figures), count), *shown, _cell(each.note, each.note)]


def _cell(value, text):
    return {"value": "" if value is None else value, "text": text, "note": ""}


def _mean_and_spread(is_accuracy, found):
    if found is None:
        return UNKNOWN
    mean, scale, digits = (percent(found.mean), 100, 2) if is_accuracy else (number(found.mean, ".4f"), 1, 4)
    return mean if found.deviation is None else f"{mean} ± {scale * found.deviation:.{digits}f}"


def _written(results, figure):
    return percent(figure, 1) if results.is_accuracy else number(figure, ".4f")


def _plain(results, figure):
    return f"{100 * figure:.1f}" if results.is_accuracy else number(figure, ".4f")


def _notes(results, on_test):
    found = []
    if on_test:
        found.append("Compared on the test set itself, so what is best here is not an honest estimate.")
    else:
        found.append(
            "The best validation figure of many configurations is a little too good by chance; the test accuracy "
            "beside it was not used to choose."
        )
    if results.configurations and max(each.wanted for each in results.configurations) == 1:
        found.append("One run each: no spread is known, so small differences mean nothing.")
    return found


def drawings(results):
    """The figures, by the names that their files have: of each the function that draws it, and its arguments."""
    by_key = {f"by-{name}": drawing for name, _, drawing in _by_key(results)}
    curves, importances = _curves(results, results.ranked()), _importances(results)
    rest = {"losses": curves[2]} if curves else {}
    return by_key | rest | ({"importances": importances[2]} if importances else {})


def _shown(figure):
    """A figure as the page has it: with a data URI in the place of what draws it."""
    title, alt, drawing = figure
    return title, alt, pictures.drawn(*drawing)


def _by_key(results):
    """A figure for each key: title, text for those who cannot see it, what draws it."""
    ended = [each for each in results.configurations if each.figures]
    found = []
    for key, name in results.names.items() if ended else ():
        points = [(each.values[key], each.figures, _others(results, each, key)) for each in ended]
        alt = f"{results.title} by {name}; best {results.name_of(results.ranked()[0])}"
        arguments = points, name, results.title, key in results.log, results.is_accuracy, not results.sampled
        found.append((name, alt, (sweep_pictures.by_key, *arguments)))
    return found


def _others(results, each, key):
    return ", ".join(f"{results.names[other]} {_value(value)}" for other, value in each.values.items() if other != key)


def _losses(results, ranked):
    """The training loss by epoch: picture, and the numbers of the best configurations."""
    figure = _curves(results, ranked)
    if not figure:
        return None
    _, shown, rest = figure[2]
    epochs = range(max(len(curve) for _, curve in shown))
    return {
        "note": f" The {_MOST_CURVES} best have names, the others are grey." if rest else "",
        "picture": _shown(figure),
        "names": [name for name, _ in shown],
        "rows": [
            (epoch + 1, [number(curve[epoch], ".3f") if epoch < len(curve) else UNKNOWN for _, curve in shown])
            for epoch in epochs
        ],
    }


def _curves(results, ranked):
    """The figure of the training losses; None where no epoch has ended."""
    curves = [(results.name_of(each), _mean_curve(each.losses)) for each in ranked if any(each.losses)]
    if not curves:
        return None
    shown = curves[:_MOST_CURVES]
    rest = [curve for _, curve in curves[_MOST_CURVES:]]
    ends = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in shown)
    return "training loss", f"Training loss by epoch, at the end {ends}", (sweep_pictures.losses, shown, rest)


def _mean_curve(losses):
    """The mean of several runs' losses, of the epochs that all of those that were begun have."""
    begun = [each for each in losses if each]
    return [statistics.fmean(of_epoch) for of_epoch in zip(*begun, strict=False)]


def _importances(results):
    if not results.importances:
        return None
    shares = {results.names[key]: share for key, share in results.importances.items()}
    alt = "Importance: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return "share", alt, (sweep_pictures.importances, shares)


def _is_numeric(results, key):
    values = [each.values[key] for each in results.configurations]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _value(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)
