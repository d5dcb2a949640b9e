"""Keep what runs found as small JSON files, and write tables of mean, deviation and interval over seeds from them."""

import datetime
import hashlib
import json
import re
import shlex
import sys
from pathlib import Path

import evidence_tables as tables

from kcifar import recipe
from kcifar.commands import Parser, run_command, start
from kcifar.errors import InputError
from kcifar.output import note, printable, say
from kcifar.runs.files import write_text
from kcifar.runs.folder import RunFolder
from kcifar.runs.report import records
from kcifar.runs.saved import by_value

ROOT = Path(__file__).parents[1]
_TABLES = ("README.md", "docs/*.md", "recipes/*.md")
_EXAMPLES = """\
Of each run that has ended, benchmarks/results/RECIPE/DATE-COMMIT/seedN-ID.json says what was changed of the recipe's
file, its data's checksum, device, versions, commit, the command that does it again, times, and the figures of
metrics.json and of each epoch. The same run gives the same file again. What is in run folders is read, never run.

A table stands in a text between two lines, <!-- evidence: recipe=NAME --> and <!-- end -->; `recipe=a,b` are those of
two recipes, `data=NAME` behind it only those of data so called. It has a row for each recipe, overrides, data, backend
and device, over the seeds that there are; of a seed that there is twice, the run begun last counts.

examples:
  python benchmarks/evidence.py runs/mixup-seeds0-4     # a run, or a folder with runs in it, however deep
  python benchmarks/evidence.py --tables                # in README.md, docs/ and recipes/
  python benchmarks/evidence.py --tables --check        # whether they are as the results say
  python benchmarks/evidence.py --tables docs/mine.md
"""
_ENVIRONMENT = ("commit", "uncommitted_changes", "backend", "device", "threads", "cores", "platform")
_VERSIONS = ("kcifar", "python", "keras", "numpy", "torch", "jax")
_DIGITS = 6  # of figures by epoch


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _work, arguments)


def _parser():
    parser = Parser("evidence", __doc__, _EXAMPLES)
    parser.prog = "evidence.py"
    parser.add_argument("paths", nargs="*", metavar="RUN", help="a run's folder or one above it; with --tables a text")
    parser.add_argument("--results", metavar="FOLDER", default=str(tables.RESULTS), help="default: benchmarks/results")
    parser.add_argument("--tables", action="store_true", help="write the tables in texts")
    parser.add_argument("--check", action="store_true", help="with --tables: write nothing, fail where one is another")
    return parser


def _work(options):
    if options.check and not options.tables:
        raise InputError("--check is of tables: give --tables too")
    if options.tables:
        texts = options.paths or [path for pattern in _TABLES for path in sorted(ROOT.glob(pattern))]
        tables.write(map(Path, texts), Path(options.results), options.check)
        return
    if not options.paths:
        raise InputError("no run is given; expected a folder that kcifar.train wrote, or one above such, or --tables")
    keep(map(Path, options.paths), Path(options.results))


def keep(paths, results):
    """Writes a JSON file for each run at or below the paths, and says which. Raises InputError where there is none."""
    kept = 0
    for run in [run for path in paths for run in _runs(path)]:
        if not run.ended:
            note(f"evidence: left out: '{run.path}' has not ended")
            continue
        found = evidence(run)
        path = place(found, results)
        text = as_text(found)
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        say(printable(path))
        kept += 1
    if not kept:
        raise InputError("none of the runs has ended, so nothing was kept: go on with them by kcifar.train --resume")


def _runs(path):
    found = sorted((file.parent for file in path.rglob("recipe.json")), key=by_value) if path.is_dir() else []
    if not found:
        there = "has no run in it" if path.is_dir() else "is a file" if path.exists() else "is not there"
        raise InputError(f"'{path}' {there}; expected a folder that kcifar.train wrote, or one above such")
    return [RunFolder(path) for path in found]


def evidence(run):
    """What is kept of a run that has ended, as a dict of plain values.

    Raises:
        InputError: a file of it is damaged, or its recipe.py is more than a literal recipe.
    """
    environment, metrics, resolved = run.began_in(), records.metrics(run), run.recipe
    name = records.recipe_name(run)
    file = recipe.literal(run.recipe_source.read_bytes()) if run.recipe_source.is_file() else None
    if file is None:
        raise InputError(f"'{run.recipe_source}' is no literal recipe of this version: what was changed is not known")
    missing = {"test_accuracy", "train_seconds", "selected_on"} - set(metrics)
    missing |= {"data", "data_sha256"} - set(environment)
    if missing:
        raise InputError(f"'{run.path}' lacks {', '.join(sorted(missing))}: train it again")
    overrides = recipe.overrides_between(file, resolved)
    changed = [text for text in overrides if text.partition("=")[0] not in ("data", "seed")]
    data = _last_part(str(environment["data"]))
    return {
        "recipe": name,
        "overrides": changed,
        "seed": resolved.seed,
        "data": data,
        "data_sha256": str(environment["data_sha256"]),
        "command": _command(run, environment, resolved, changed, file.data),
        "started": _started(run, environment),
        **{name: environment.get(name) for name in _ENVIRONMENT},
        "versions": {name: environment[name] for name in _VERSIONS if name in environment},
        "resumed": len(environment.get("resumed", [])),
        "continues": environment.get("continues"),
        "seconds": metrics["train_seconds"],
        "images_per_second": metrics.get("images_per_second"),
        "metrics": metrics,
        "epochs": _by_epoch(records.log(run)),
        "resolved": json.loads(resolved.to_json()) | {"data": _last_part(resolved.data)},
    }


def _last_part(source):
    """The name of data without the folders that they lie in, which say nothing about them: their checksum does."""
    source = source.partition(" in /")[0]  # as of TensorFlow Datasets
    return Path(source).name if Path(source).is_absolute() else source


def _started(run, environment):
    """When the run began; of those of earlier versions, which did not write it, when they ended."""
    ended = datetime.datetime.fromtimestamp(run.metrics.stat().st_mtime, datetime.UTC)
    return str(environment.get("started") or ended.isoformat(timespec="seconds"))


def _command(run, environment, resolved, overrides, own_data):
    """The command line that does it again; of a run that went on from another, the one that was given."""
    arguments = records.training_arguments(run)
    if not environment.get("continues"):
        path = records.recipe_path(run) or Path(f"{run.path.resolve().name}.py")
        file = str(path) if not path.is_absolute() else f"recipes/{path.name}"
        data = [] if resolved.data == own_data else ["--data", _last_part(resolved.data)]
        arguments = [file, *overrides, f"seed={resolved.seed}", *data]
    variable = "KERAS_BACKEND=jax " if environment.get("backend") == "jax" else ""
    return f"{variable}python -m kcifar.train {shlex.join(arguments)}"


def _by_epoch(rows):
    """Columns of log.csv, to six significant digits."""
    return {name: [_shortened(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _shortened(figure):
    short = float(f"{figure:.{_DIGITS}g}")
    return int(short) if short.is_integer() else short


def place(found, results):
    """The path of a run's evidence: the same wherever the run's folder lies, and however it is called."""
    commit = str(found["commit"] or found["versions"].get("kcifar"))[:7]
    what = [found[name] for name in ("metrics", "resolved", "data_sha256", "backend", "device")]
    identity = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    names = found["recipe"], f"{found['started'][:10]}-{commit}", f"seed{found['seed']}-{identity}.json"
    return results.joinpath(*(re.sub(r"^\.|[^\w.+-]", "_", name) for name in names))


def as_text(found):
    """JSON with a field, a column or a figure in a line, and so with differences that can be read."""
    lines = []
    for name, value in found.items():
        inside = isinstance(value, dict) and name != "continues" and value
        if inside:
            fields = [f"  {json.dumps(key)}: {json.dumps(item, sort_keys=True)}" for key, item in value.items()]
            lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(fields) + "\n }")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.exit(start(main))
