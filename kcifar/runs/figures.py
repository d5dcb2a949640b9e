"""The pictures of a run: functions that draw one as a Figure, and one that saves it."""

import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from kcifar.output import cells, cut, printable
from kcifar.runs.files import replacing
from kcifar.runs.fonts import fitting
from kcifar.runs.rows import series

# Okabe & Ito's colours, told apart with any colour vision.
_COLOURS = {"train": "#0072b2", "validation": "#d55e00", "test": "#009e73"}
_MOST_POINTS = 20_000
MOST_NUMBERED = 20
"""So many classes have numbers in the cells of their confusion."""
_MOST_INCHES, _FEWEST_POINTS = 13, 7.5  # of a side of a confusion; for a name beside it

FILES = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kcifar",  # equal figures get equal names inside, and so equal bytes
    "pdf.fonttype": 42,  # text stays text, by TrueType fonts inside: journals refuse the usual Type 3
}
"""How matplotlib writes text into files that hold it, and names."""
# Without a version and date in them, equal figures give equal files.
UNDATED = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""By format, what is not written into files."""


def learning_rate(learning_rates, epochs, steps_per_epoch):
    """The learning rate of every optimizer step against the epoch. `learning_rates`: steps -> array."""
    steps = epochs * steps_per_epoch
    steps = np.unique(np.linspace(0, steps - 1, min(steps, _MOST_POINTS)).astype(int))
    figure, axes = _axes("epoch", "learning rate")
    axes.plot(steps / steps_per_epoch, learning_rates(steps), color="#0072b2", linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_title("Learning rate")
    return figure


def range_test(found):
    """The loss of each batch and its mean by the learning rate. `found`: a `kcifar.experiment.range_test.RangeTest`."""
    figure, axes = _axes("learning rate", "loss")
    axes.plot(found.rates, found.losses, ".", color="#aaaaaa", markersize=3, label="of each batch")
    axes.plot(found.rates, found.means, color="#0072b2", linewidth=1.6, label="exponential mean (0.98)")
    if found.steepest:
        mean = np.interp(found.steepest, found.rates, found.means)
        label = f"falls steepest at {found.steepest:.2g}"
        axes.plot([found.steepest], [mean], "o", color="#d55e00", label=label)
    high = np.median(found.means[: max(len(found.means) // 2, 1)])  # of the rates at which nothing is learnt
    low = min(found.means.min(), np.percentile(found.losses, 1))
    axes.set_ylim(max(low - 0.1 * (high - low) - 0.02, 0), high + 0.5 * (high - low) + 0.05)  # it explodes beyond
    axes.set_xscale("log")
    axes.set_title("Learning-rate range test")
    axes.legend(loc="best", frameon=False)
    return figure


def curves(rows, selected_on):
    """Accuracy and loss by epoch on each split that was evaluated. `rows`: those of log.csv."""
    figure = Figure((10, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        draw_curves(axes, rows, quantity, selected_on)
    return figure


def draw_curves(axes, rows, quantity, selected_on):
    """Draws "accuracy" or "loss" by epoch on each split that was evaluated; without one also the running accuracy.

    Args:
        rows: those of log.csv.
    """
    epochs = [row["epoch"] for row in rows]
    scale = 100 if quantity == "accuracy" else 1
    evaluated = False
    for name, colour in _COLOURS.items():
        of_split, values = series(rows, f"{name}_{quantity}")
        if of_split:
            evaluated = True
            label = f"{name} (selects the best epoch)" if name == selected_on else name
            style = {"color": colour, "label": label, "marker": "." if len(of_split) < 60 else None}
            axes.plot(of_split, [scale * value for value in values], **style)
    if quantity == "loss" or not evaluated:
        running = {"color": "#888888", "linestyle": "--", "marker": ".", "label": "training batches"}
        of_batches, values = series(rows, quantity)
        axes.plot(of_batches, [scale * value for value in values], **running)
    limits = epochs[0] - 0.5, epochs[-1] + 0.5  # the first one is not 1 where it goes on from another run
    axes.set(xlabel="epoch", ylabel="accuracy in %" if quantity == "accuracy" else "loss", xlim=limits)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.ticklabel_format(axis="y", useOffset=False)  # near 100 % it would be read as near 0
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # off the curves


def confusion(matrix, class_names):
    """How often each class (row) was taken for each (column), in % of the row. `matrix`: int (classes, classes).

    Of more than 20 classes no numbers are written: right ones are blue, mistakes orange, the deeper the more often.
    """
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(class_names) > MOST_NUMBERED:
        return _coloured(share, class_names)
    more = max(0, len(class_names) - 10)
    figure, axes = _axes("prediction", "label", (7 + 0.35 * more, 6 + 0.35 * more))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    places, names = range(len(class_names)), list(map(plain, class_names))
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.grid(visible=False)
    for row in places:
        for column in places:
            if share[row, column] >= 0.5:
                colour = "white" if share[row, column] > 50 else "black"
                axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    for place in np.flatnonzero(matrix.sum(axis=1) == 0):  # no image of it
        axes.text(place, place, "–", ha="center", va="center", fontsize=8)
    axes.set_title("Confusion on the test set, % of each label")
    return figure


def _coloured(share, class_names):
    """The confusion of many classes, in colours that show on white and on black."""
    classes = len(class_names)
    side = min(max(0.125 * classes, 5), _MOST_INCHES)
    figure, axes = _axes("prediction", "label", (side + 1.5, side + 1.5))
    right = np.eye(classes, dtype=bool)
    pixels = np.where(right[..., None], to_rgba(_COLOURS["train"]), to_rgba(_COLOURS["validation"]))
    pixels[..., 3] = share / np.where(right, 100, max(share[~right].max(), 1e-9))
    axes.imshow(pixels, interpolation="nearest")
    points = 72 * side / classes  # that each name has
    step = max(1, math.ceil(_FEWEST_POINTS / points))
    places, size = range(0, classes, step), min(10, max(0.75 * points, 0.8 * _FEWEST_POINTS))
    names = [plain(class_names[place]) for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.tick_params(length=2, pad=2)
    axes.grid(visible=True, linewidth=0.4, alpha=0.2)
    axes.set_axisbelow(True)
    axes.set_title(
        "Confusion on the test set\nright ones blue, mistakes orange, the deeper the more often", fontsize=11
    )
    return figure


def predictions(split, probabilities, class_names, count=16):
    """The first test images with label, prediction and its probability; wrong ones in orange."""
    figure = Figure((10, 4), layout="constrained")
    figure.suptitle("label → prediction and its probability, the first test images", fontsize=10)
    count, confidence = min(count, len(split)), probabilities.max(axis=1)
    for place in range(count):
        axes = figure.add_subplot(2, -(-count // 2), place + 1)
        _show(axes, split.images[place])
        axes.axis("off")
        label, predicted = split.labels[place], probabilities[place].argmax()
        axes.set_title(
            f"{plain(class_names[label], 18)}\n→ {plain(class_names[predicted], 12)} {confidence[place]:.0%}",
            fontsize=8,
            color="black" if label == predicted else "#d55e00",
        )
    return figure


def classes(split, class_names, count=10):
    """The first images of each class, a row a class; of many classes in three blocks beside one another."""
    height, width, channels = split.images.shape[1:]
    high, wide, gap = height + height // 8, width + width // 8, width * 3
    rows = len(class_names) if len(class_names) <= 20 else -(-len(class_names) // 3)
    blocks = -(-len(class_names) // rows)
    sheet = np.full((rows * high, blocks * (gap + count * wide), channels), 255, np.uint8)
    figure = Figure((sheet.shape[1] / 65 * 32 / width, sheet.shape[0] / 65 * 32 / height), layout="constrained")
    axes = figure.subplots()
    for label, name in enumerate(class_names):
        block, row = divmod(label, rows)
        left, top = block * (gap + count * wide) + gap, row * high
        for column, place in enumerate(np.flatnonzero(split.labels == label)[:count]):
            sheet[top : top + height, left + column * wide :][:, :width] = split.images[place]
        beside = {"ha": "right", "va": "center", "fontsize": 8}
        axes.text(left - width // 4, top + height / 2, plain(name, 18), **beside)
    _show(axes, sheet)
    axes.axis("off")
    return figure


def transforms(split, draws, class_names):
    """Images of a split, a row each, and beside each what transforms made of it, with its label.

    Args:
        draws: (images, labels) for each column: values 0–255, and one-hot or mixed rows.
    """
    figure = Figure((1.3 * (len(draws) + 1), 1.6 * len(split)), layout="constrained")
    axes = figure.subplots(len(split), len(draws) + 1, squeeze=False)
    one_hot = np.eye(split.classes)[split.labels]
    for column, (images, labels) in enumerate([(split.images, one_hot), *draws]):
        axes[0, column].set_title("image" if column == 0 else f"draw {column}", fontsize=9)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            _show(axes[row, column], np.clip(np.round(image), 0, 255).astype("uint8"))
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].set_xlabel(_label(label, class_names), fontsize=7)
    return figure


def save(figure, path):
    """Writes the figure as a PNG, SVG or PDF file, by the ending of the path: equal bytes for equal figures."""
    kind = Path(path).suffix.removeprefix(".")
    with replacing(path) as temporary, fitting(figure), matplotlib.rc_context(FILES | {"font.size": 10}):
        figure.savefig(temporary, format=kind, dpi=120, metadata=UNDATED[kind])


def _label(shares, class_names):
    """The classes of a label and, where it is mixed, their shares."""
    places = [place for place in np.argsort(-shares, kind="stable") if shares[place] >= 0.005]
    if len(places) == 1:
        return plain(class_names[places[0]], 18)
    return "\n".join(f"{shares[place]:.0%} {plain(class_names[place], 14)}" for place in places[:2])


def plain(text, most=32):
    """Text that a user brought, as matplotlib shows it just so: no "$" begins a formula; what is long is cut."""
    text = printable(text)
    if cells(text) > most:
        text = f"{cut(text, most - 1)}…"
    return text.replace("$", r"\$")


def _show(axes, image):
    """Draws an image, uint8 (height, width, channels)."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _axes(xlabel, ylabel, size=(7, 4)):
    figure = Figure(size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes
