"""Tables of what benchmarks/evidence.py kept, between two lines of a text."""

import json
import re
from pathlib import Path

from kcifar import reading
from kcifar.errors import InputError, nearest, one_line
from kcifar.output import printable, say
from kcifar.recipe import Recipe
from kcifar.runs.files import write_text
from kcifar.runs.report.spread import ranges, spread
from kcifar.runs.report.words import UNKNOWN
from kcifar.runs.saved import by_value

RESULTS = Path(__file__).parent / "results"
_BEGIN, _END = "<!-- evidence:", "<!-- end -->"
_KEYS = ("recipe", "data")
_TYPES = {"recipe": str, "overrides": list, "seed": int, "data": str, "data_sha256": str, "started": str}
_TYPES |= {"commit": str | None, "metrics": dict}
_FIGURES = ("test_accuracy", "last_test_accuracy", "images_per_second")
_MOST_COMMITS = 3


def write(paths, results, check=False):
    """Writes the tables in texts anew, and says which files changed.

    Args:
        paths: of the texts, UTF-8.
        results: the folder of the JSON files.
        check: write nothing.

    Raises:
        InputError: a text or a result cannot be read, a table is of what there is not; with `check`, one is another.
    """
    for path in paths:
        old = _text(path)
        new = with_tables(old, results, path)
        if new == old:
            continue
        if check:
            raise InputError(
                f"'{path}', line {_first_difference(old, new)}: the table is not what {_short(results)} says; write "
                f"it anew: python benchmarks/evidence.py --tables {path}"
            )
        write_text(path, new)
        say(printable(path))


def with_tables(text, results, path="the text"):
    """The text with each of its tables made anew: between lines that are not indented, as an example of them is.

    Args:
        path: of the text, to be named where something is wrong in it.
    """
    lines, at = [], 0
    old = text.split("\n")
    while at < len(old):
        line = old[at]
        lines.append(line)
        at += 1
        if line.startswith(_BEGIN):
            here = f"'{path}', line {at}"
            end = next((place for place in range(at, len(old)) if old[place].rstrip() == _END), None)
            if end is None or any(each.startswith(_BEGIN) for each in old[at:end]):
                raise InputError(f"{here}: the table has no end; expected a line {_END} below it")
            lines += table(_wanted(line, here), results, here)
            at = end
    return "\n".join(lines)


def _wanted(line, here):
    """What a table is of: words by key."""
    found = {}
    for word in line.strip().removeprefix(_BEGIN).removesuffix("-->").split():
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS:
            raise InputError(f"{here}: '{word}' is no part of a table's line; {nearest(key, _KEYS)}, as recipe=mixup")
        found[key] = value
    if "recipe" not in found:
        raise InputError(f"{here}: it is not said which recipe the table is of; expected {_BEGIN} recipe=NAME -->")
    return found


def table(wanted, results, here="the table"):
    """The lines of a table in Markdown.

    Args:
        wanted: {"recipe": names joined by commas, perhaps "data": a name}.
        results: the folder of the JSON files.
        here: where it stands.
    """
    names = wanted["recipe"].split(",")
    rows = [row for name in names for row in _rows(_of_recipe(name, results, here), wanted.get("data"))]
    if not rows:
        raise InputError(f"{here}: of {wanted['recipe']} there are no results with data={wanted['data']}")
    columns = {
        "recipe": lambda row: _code(row[0]["recipe"]),
        "overrides": lambda row: " ".join(map(_code, row[0]["overrides"])) or "none",
        "data": lambda row: f"{_code(row[0]['data'])} {_code(row[0]['data_sha256'][:7])}",
        "test accuracy": lambda row: _accuracy(row, "test_accuracy"),
        "95 % interval": _interval,
        "after the last epoch": lambda row: _accuracy(row, "last_test_accuracy"),
        "n": lambda row: str(len(row)),
        "seeds": lambda row: ranges(found["seed"] for found in row),
        "epoch chosen on": lambda row: row[0]["metrics"]["selected_on"],
        "images/s": lambda row: _mean(row, "images_per_second"),
        "backend, device": lambda row: _code(f"{row[0]['backend']}, {row[0]['device']}"),
        "commit": _commits,
    }
    if len(names) == 1:
        del columns["recipe"]
    if not any("last_test_accuracy" in found["metrics"] for row in rows for found in row):
        del columns["after the last epoch"]
    lines = [_line(columns), _line("---" for _ in columns)]
    lines += [_line(cell(row) for cell in columns.values()) for row in rows]
    note = "Mean ± sample standard deviation over seeds, 95 % interval of the mean by Student's t."
    if any(row[0]["metrics"]["selected_on"] == "test" for row in rows):
        note += " Where the epoch was chosen on the test set itself, the accuracy is not an honest estimate."
    return ["", *lines, "", f"{note} Written by `benchmarks/evidence.py` from `benchmarks/results/`.", ""]


def _of_recipe(name, results, here):
    """All that was kept of a recipe."""
    known = sorted({path.parent.parent.name for path in results.glob("*/*/*.json")})
    if name not in known:
        hint = nearest(name, known) if known else f"there are none in {_short(results)}"
        raise InputError(f"{here}: of the recipe '{name}' there are no results; {hint}")
    return [read(path) for path in sorted(results.glob(f"{name}/*/*.json"))]


def read(path):
    """The evidence in a JSON file. Raises InputError where it is damaged."""
    try:
        found = reading.parsed_json(reading.text(path))
        for name, kind in _TYPES.items():
            if not isinstance(found[name], kind):
                raise ValueError(f"{name} is {found[name]!r:.40}")
        if not all(isinstance(override, str) for override in found["overrides"]):
            raise ValueError(f"overrides are {found['overrides']!r:.40}")
        metrics = found["metrics"]
        for name in _FIGURES:
            if name in metrics and not isinstance(metrics[name], (int, float)):
                raise ValueError(f"{name} is {metrics[name]!r:.40}")
        if not 0 <= metrics["test_accuracy"] <= 1:
            raise ValueError(f"test_accuracy is {metrics['test_accuracy']}")
        if metrics["selected_on"] not in ("validation", "test", "last"):
            raise ValueError(f"selected_on is {metrics['selected_on']!r:.40}")
        # As this version writes it: a field that has come since then has the value that it had by itself.
        found["resolved"] = json.loads(Recipe.from_json(json.dumps(found["resolved"])).to_json())
        return found
    except KeyError as error:
        reason = f"it has no {error}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = one_line(error)
    raise InputError(f"'{path}' is damaged ({reason}): keep its run again, or delete it")


def _rows(found, data):
    """Those that differ in the seed alone together: lists, sorted by seed, the run begun last of each."""
    rows = {}
    for each in sorted(found, key=lambda each: (each["started"], json.dumps(each["metrics"]))):
        if data in (None, each["data"]):
            rows.setdefault(_but_the_seed(each), {})[each["seed"]] = each
    ordered = sorted(rows, key=lambda key: (by_value(Path(" ".join(rows[key][min(rows[key])]["overrides"]))), key))
    return [[rows[key][seed] for seed in sorted(rows[key])] for key in ordered]


def _but_the_seed(found):
    fields = {name: value for name, value in found["resolved"].items() if name not in ("seed", "data")}
    return json.dumps([fields, found["data_sha256"], found.get("backend"), found.get("device")], sort_keys=True)


def _figures(row, name):
    return [found["metrics"][name] for found in row if found["metrics"].get(name) is not None]


def _accuracy(row, name):
    figures = _figures(row, name)
    if len(figures) < len(row):
        return UNKNOWN
    of_all = spread(figures)
    deviation = "" if of_all.deviation is None else f" ± {100 * of_all.deviation:.2f}"
    return f"{100 * of_all.mean:.2f}{deviation} %"


def _interval(row):
    interval = spread(_figures(row, "test_accuracy")).interval
    return UNKNOWN if interval is None else "{:.2f} to {:.2f} %".format(*(100 * bound for bound in interval))


def _mean(row, name):
    figures = _figures(row, name)
    return f"{spread(figures).mean:,.0f}" if figures else UNKNOWN


def _commits(row):
    """The commits of the runs, those with changes that were not committed with a +."""
    found = sorted({(each["commit"] or UNKNOWN)[:7] + "+" * bool(each.get("uncommitted_changes")) for each in row})
    return ", ".join(map(_code, found[:_MOST_COMMITS])) + ", …" * (len(found) > _MOST_COMMITS)


def _code(text):
    """Text that a user brought, as code in a cell: no sign in it is markup."""
    text = printable(text).replace("|", r"\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _text(path):
    try:
        return reading.text(path)
    except FileNotFoundError:
        raise InputError(f"there is no '{path}'; expected a text with a line {_BEGIN} recipe=NAME -->") from None
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({one_line(error)}); expected a text in UTF-8") from None


def _first_difference(old, new):
    pairs = zip(old.split("\n"), [*new.split("\n"), None], strict=False)
    return next((number for number, (one, other) in enumerate(pairs, start=1) if one != other), 1)


def _short(results):
    return "benchmarks/results" if results == RESULTS else f"'{results}'"
