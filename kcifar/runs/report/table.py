"""Runs as a table for other programs: CSV and LaTeX. A row a run, then one for those that differ in the seed alone."""

import csv
import io
import json
import re

from kcifar.output import printable
from kcifar.recipe import differences
from kcifar.runs.report.comparison import short_names
from kcifar.runs.report.spread import ranges, spread

_FIGURES = {
    "test_accuracy": lambda reported: reported.test.accuracy,
    "test_accuracy_with_views": lambda reported: reported.metrics.get("test_accuracy_with_views"),
    "test_loss": lambda reported: reported.test.loss,
    "test_brier_score": lambda reported: reported.test.brier,
    "test_calibration_error": lambda reported: reported.test.calibration_error,
    "validation_accuracy": lambda reported: reported.validation and reported.validation.accuracy,
    "training_flops": lambda reported: reported.metrics.get("training_flops"),
    "train_seconds": lambda reported: reported.metrics.get("train_seconds"),
    "images_per_second": lambda reported: reported.metrics.get("images_per_second"),
}
_OF_A_RUN = {
    "backend": lambda reported: reported.environment.get("backend"),
    "selected_on": lambda reported: reported.selected_on,
    "best_epoch": lambda reported: reported.metrics.get("best_epoch"),
    "epochs": lambda reported: reported.epochs,
    "parameters": lambda reported: reported.metrics.get("parameters"),
}
_TEXTS = ["rows", "run", "recipe", "differences", "seed", "n"]
_OF_ACCURACY = ["test_accuracy", "test_accuracy_std", "interval", "low", "high"]
_OTHERS = [f"{name}{ending}" for name in _FIGURES for ending in ("", "_std") if name != "test_accuracy"]
COLUMNS = [*_TEXTS, *_OF_ACCURACY, *_OTHERS, *_OF_A_RUN]
"""Of the CSV file."""
# By which a spreadsheet tells a formula, which it would compute.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_UNKNOWN = "--"
_LATEX = {sign: rf"\{sign}" for sign in "_&%$#{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # In the first cell of a row, it would be how far the row is from the one before.
    "[": "{[}",
    "]": "{]}",
}


def rows(runs):
    """The rows of the table, dicts with some of COLUMNS: text, numbers, or None where something is not known.

    Runs that have not ended have rows of their own alone, and of a seed that there is twice the run that began last
    counts.

    Args:
        runs: `Reported` of each, on the same test images.
    """
    known = [reported.recipe for reported in runs if reported.recipe]
    differing = differences(known, but=("seed", "data")) if known else {}
    found = [_of_run(reported, name) for reported, name in zip(runs, short_names([r.run for r in runs]), strict=True)]
    of_known = [place for place, reported in enumerate(runs) if reported.recipe]
    for at, place in enumerate(of_known):
        found[place]["differences"] = " ".join(f"{key}={values[at]}" for key, values in differing.items())
    groups = {}
    for place in sorted(of_known, key=lambda place: str(runs[place].environment.get("started", ""))):
        if runs[place].run.ended:
            groups.setdefault(_but_the_seed(runs[place]), {})[runs[place].recipe.seed] = place
    several = [[group[seed] for seed in sorted(group)] for group in groups.values() if len(group) > 1]
    return found + [_of_seeds([runs[place] for place in places], found[places[0]]) for places in several]


def _but_the_seed(reported):
    """What is the same of runs that differ in the seed alone; their data by checksum, wherever they lie."""
    fields = json.loads(reported.recipe.to_json())
    fields = {name: value for name, value in fields.items() if name not in ("seed", "data")}
    environment = [reported.environment.get(name) for name in ("data_sha256", "backend", "device")]
    return json.dumps([reported.name, fields, environment], sort_keys=True)


def _of_run(reported, name):
    low, high = reported.test.accuracy_interval()
    return {
        "rows": "run",
        "run": name,
        "recipe": reported.name,
        "seed": reported.recipe and reported.recipe.seed,
        "n": 1,
        "interval": "Wilson, images",
        "low": low,
        "high": high,
        **{name: figure(reported) for name, figure in (_FIGURES | _OF_A_RUN).items()},
    }


def _of_seeds(runs, first):
    """The row of several runs; `first` is that of the first of them."""
    found = {name: first.get(name) for name in ("recipe", "differences", "backend", "selected_on", "parameters")}
    for name, figure in _FIGURES.items():
        figures = [figure(reported) for reported in runs]
        if None not in figures:
            of_all = spread(figures)
            found |= {name: of_all.mean, f"{name}_std": of_all.deviation}
            if name == "test_accuracy":
                found["low"], found["high"] = of_all.interval
    seeds = [reported.recipe.seed for reported in runs]
    return {"rows": "seeds", "seed": " ".join(map(str, seeds)), "n": len(runs), "interval": "Student, seeds"} | found


def csv_text(found):
    """The rows as CSV: figures in full, fractions from 0 to 1. Text that a spreadsheet would compute has a ' before."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in found)
    return text.getvalue()


def _plain(value):
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def latex_text(found, source):
    """The rows as a tabular of LaTeX's package booktabs.

    Args:
        source: where the test images are from, for people to read.
    """
    of_runs = [row for row in found if row["rows"] == "run"]
    of_seeds = [row for row in found if row["rows"] == "seeds"]
    columns = {
        "Run": lambda row: escaped(row.get("run") or row["recipe"]) + r"$^{*}$" * (row["selected_on"] == "test"),
        "Different": lambda row: escaped(row.get("differences") or ""),
        "Seed": _seeds,
        r"Accuracy, \%": lambda row: _percent(row, "test_accuracy"),
        r"95\,\% interval": lambda row: f"{100 * row['low']:.2f}--{100 * row['high']:.2f}",
        r"Validation, \%": lambda row: _percent(row, "validation_accuracy"),
        "Loss": lambda row: _number(row, "test_loss", 1, 3),
        r"ECE, \%": lambda row: _percent(row, "test_calibration_error"),
    }
    for title, name in (("Different", "differences"), (r"Validation, \%", "validation_accuracy")):
        if not any(row.get(name) for row in found):
            del columns[title]
    lines = [
        rf"% Needs \usepackage{{booktabs}}. Test images: {printable(source)}",
        "% Intervals: of one run Wilson's, over the test images; of several seeds Student's t, over the seeds.",
        rf"\begin{{tabular}}{{{''.join('l' if title in ('Run', 'Different') else 'r' for title in columns)}}}",
        r"\toprule",
        _line(columns),
    ]
    for block in filter(None, (of_runs, of_seeds)):
        lines += [r"\midrule", *(_line(cell(row) for cell in columns.values()) for row in block)]
    lines.append(r"\bottomrule")
    if any(row["selected_on"] == "test" for row in found):
        note = "epoch chosen on the test set itself: not an honest estimate"
        lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{$^{{*}}$ {note}}} \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def escaped(text):
    """Text in which no sign means something to LaTeX."""
    text = "".join(_LATEX.get(sign, sign) for sign in printable(text))
    return re.sub(r"([-'`,])(?=\1)", r"\1{}", text)  # of two of these it makes another sign


def _line(cells):
    return " & ".join(cells) + r" \\"


def _seeds(row):
    if row["rows"] == "run":
        return _UNKNOWN if row["seed"] is None else str(row["seed"])
    seeds = ranges(map(int, row["seed"].split())).replace("–", "--")
    return f"{seeds} ($n = {row['n']}$)"


def _percent(row, name):
    return _number(row, name, 100, 2)


def _number(row, name, scale, digits):
    """A figure and, of several runs, its standard deviation."""
    if row.get(name) is None:
        return _UNKNOWN
    text = f"{scale * row[name]:.{digits}f}"
    return text if row["rows"] == "run" else rf"${text} \pm {scale * row[f'{name}_std']:.{digits}f}$"
