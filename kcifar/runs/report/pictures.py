"""Figures and images inside an HTML page: SVG and PNG as data URIs."""

import base64
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from kcifar.output import cells
from kcifar.runs import figures
from kcifar.runs.fonts import fitting
from kcifar.runs.rows import series

# Okabe & Ito's colours, without yellow and black: told apart with any colour vision, legible on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("-", "--", ":", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (6, 3)))
# Below this share of the images a bin's accuracy is chance: it is not drawn.
_FEWEST = 0.001

# What is drawn in this colour takes that of the page's text, light or dark.
_INK = "#010203"
_STYLE = (
    "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d7dbe0}}"
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif!important}</style>"
)
_DRAWING = {
    **figures.FILES,
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": "#8b949e",
    "grid.linewidth": 0.6,
}
ACCURACIES = {"validation_accuracy": "validation", "test_accuracy": "test", "train_accuracy": "training"}
"""The columns of log.csv in which runs are compared, and the images that each is of."""


def png(image):
    """A data URI of an image, uint8 (height, width, channels)."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def drawn(draw, *arguments):
    """A data URI of the figure that `draw(*arguments)` makes: equal bytes for equal figures."""
    file = io.BytesIO()
    with matplotlib.rc_context(_DRAWING):
        figure = draw(*arguments)
        with fitting(figure):
            figure.savefig(file, format="svg", transparent=True, metadata=figures.UNDATED["svg"])
    text = file.getvalue().decode()
    svg = text[text.index("<svg ") :].replace(_INK, "currentColor")
    return _uri("image/svg+xml", svg.replace(">", f">{_STYLE}", 1).encode())


def save(path, draw, *arguments):
    """Writes the figure that `draw(*arguments)` makes, in black: see `kcifar.runs.figures.save`."""
    with matplotlib.rc_context(_DRAWING | {name: "black" for name, value in _DRAWING.items() if value == _INK}):
        figures.save(draw(*arguments), path)


def curve(rows, quantity, selected_on):
    """Accuracy or loss, by `quantity`, by epoch on each split that was evaluated. `rows`: those of log.csv."""
    figure, axes = _axes()
    figures.draw_curves(axes, rows, quantity, selected_on)
    return figure


def learning_rate(rows):
    """The learning rate at the end of each epoch. `rows`: those of log.csv."""
    figure, axes = _axes()
    style = {"color": COLOURS[0], "marker": "." if len(rows) < 60 else None}
    axes.plot([row["epoch"] for row in rows], [row["learning_rate"] for row in rows], **style)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def confusion(matrix, class_names):
    """Those of many classes, see `kcifar.runs.figures.confusion`; the title is in the page."""
    figure = figures.confusion(matrix, class_names)
    figure.axes[0].set_title("")
    return figure


def reliability(scores, tempered, temperature):
    """Accuracy against confidence in 15 bins, as trained and with a temperature; below, the bins' shares of images."""
    figure = Figure((4.8, 4.2), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":", label="calibrated")
    drawn = [(scores, "as trained", COLOURS[1], "o")]
    if tempered:
        drawn.append((tempered, f"temperature {temperature:.2f}", COLOURS[0], "s"))
    for place, (of, label, colour, marker) in enumerate(drawn):
        images, confidence, accuracy = of.reliability()
        there = images >= max(1, _FEWEST * images.sum())
        axes.plot(
            100 * confidence[there], 100 * accuracy[there], color=colour, marker=marker, markersize=4, label=label
        )
        width = 100 / len(images) / len(drawn)
        left = np.arange(len(images)) * 100 / len(images) + place * width
        below.bar(left, 100 * images / images.sum(), 0.85 * width, align="edge", color=colour)
    axes.set(ylabel="accuracy in %", xlim=(0, 100), ylim=(0, 102))
    below.set(xlabel="confidence in %", ylabel="images, %")
    figure.legend(loc="outside upper center", ncols=3)  # off the curves
    for each in (axes, below):
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
    return figure


def comparison(runs, column):
    """A column of log.csv, an accuracy, by epoch, for several runs. `runs`: (name, rows of log.csv) of each."""
    runs = [(figures.plain(name), rows) for name, rows in runs]
    columns = max(1, min(3, 66 // (6 + max(cells(name) for name, _ in runs))))  # what the figure's width has room for
    lines = -(-len(runs) // columns)
    figure, axes = _axes(3.2 + 0.22 * lines)
    epochs = []
    for place, (name, rows) in enumerate(runs):
        style = {"color": COLOURS[place % 6], "linestyle": _DASHES[place // 6 % len(_DASHES)], "label": name}
        of_run, values = series(rows, column)
        if of_run:
            marker = "." if len(of_run) == 1 else None  # which is no line
            axes.plot(of_run, [100 * value for value in values], marker=marker, **style)
            epochs += of_run[0], of_run[-1]
    axes.set(xlabel="epoch", ylabel="accuracy in %", xlim=(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2 if len(runs) <= 24 else 4)
    return figure


def _axes(height=3.2):
    figure = Figure((4.8, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
