"""Figures of a sweep inside its report."""

import itertools
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kcifar.output import cells
from kcifar.runs import figures
from kcifar.runs.report.pictures import COLOURS

_DASHES = ("-", "--")
_MOST_LINES = 6  # of means, above which they only cross
_MOST_TICKS = 6  # one for each value that was listed


def by_key(points, name, title, log, is_accuracy, lines):
    """The figure of each run against a value that was varied.

    Args:
        points: (value, figures of its runs, the other keys' values in words) of each configuration.
        name: of the key.
        title: of the figure.
        log: whether values were drawn by their logarithms.
        is_accuracy: whether it is shown in %.
        lines: whether the means of configurations that differ in nothing else are joined.
    """
    figure = Figure((4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    scale = 100 if is_accuracy else 1
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value, _, _ in points)
    values = sorted({value for value, _, _ in points}, key=None if numeric else str)
    at = {value: value if numeric else place for place, value in enumerate(values)}
    several = any(len(of) > 1 for _, of, _ in points)
    for value, of, _ in points:
        style = {"color": COLOURS[0], "markersize": 4, "alpha": 0.45 if lines and several else 0.8}
        axes.plot([at[value]] * len(of), [scale * each for each in of], "o", markeredgewidth=0, **style)
    groups = itertools.groupby(sorted(points, key=lambda point: point[2]), key=lambda point: point[2])
    joined = {others: sorted((at[value], statistics.fmean(of)) for value, of, _ in group) for others, group in groups}
    if lines and len(values) > 1 and len(joined) <= _MOST_LINES:
        for place, (others, means) in enumerate(joined.items()):
            style = {"color": COLOURS[(place + 1) % len(COLOURS)], "linewidth": 1.2, "label": figures.plain(others, 60)}
            axes.plot([x for x, _ in means], [scale * y for _, y in means], marker="_", markersize=9, **style)
        if len(joined) > 1:
            figure.legend(loc="outside lower center", ncols=1 if max(map(cells, joined)) > 24 else 2)
    if log:
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(range(len(values)), [figures.plain(value, 18) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        if max(len(str(value)) for value in values) * len(values) > 40:
            axes.tick_params(axis="x", labelrotation=25)
    elif lines and len(values) <= _MOST_TICKS:
        axes.set_xticks(values, [f"{value:.4g}" for value in values])
        axes.minorticks_off()
    elif all(isinstance(value, int) for value in values) and not log:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel=figures.plain(name), ylabel=f"{title.lower()}{' in %' if is_accuracy else ''}")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(visible=True, alpha=0.3)
    return figure


def losses(named, others):
    """The training loss by epoch. `named`: (name, losses) of each; `others`: losses of those without a name."""
    names = [figures.plain(name, 60) for name, _ in named]
    columns = max(1, min(3, 66 // (6 + max(map(cells, names)))))
    figure = Figure((4.8, 3.2 + 0.22 * -(-len(names) // columns)), layout="constrained")
    axes = figure.subplots()
    longest = max(len(curve) for curve in [*others, *(curve for _, curve in named)])
    marker = "." if longest < 60 else None
    for curve in others:
        axes.plot(
            range(1, len(curve) + 1), curve, color="#9aa0a6", linewidth=0.8, alpha=0.5, marker=marker, markersize=3
        )
    for place, (name, (_, curve)) in enumerate(zip(names, named, strict=True)):
        style = {"color": COLOURS[place % 6], "linestyle": _DASHES[place // 6 % 2], "label": name, "marker": marker}
        axes.plot(range(1, len(curve) + 1), curve, **style)
    highest, lowest = sorted(max(curve) for _, curve in named), min(min(curve) for _, curve in named)
    top = 2 * highest[len(highest) // 2] - lowest
    if max(max(curve) for curve in [*others, *(curve for _, curve in named)]) > top > lowest:
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)  # one that explodes leaves no room for the others
    axes.set(xlabel="epoch", ylabel="training loss", xlim=(0.5, longest + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


def importances(shares):
    """The share of each key. `shares`: by name."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = Figure((4.8, 0.8 + 0.34 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [figures.plain(name) for name, _ in ordered],
        [100 * share for _, share in ordered],
        color=COLOURS[0],
        height=0.6,
    )
    axes.bar_label(bars, [f"{100 * share:.0f}" for _, share in ordered], padding=3)
    axes.set(xlabel="importance in %", xlim=(0, 110))
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure
