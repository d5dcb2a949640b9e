"""Runs Keras's own tests, stock and accelerated, and compares how each of them ended.

The tests are those of a checkout of the Keras that is installed, which imports itself. pytest runs them twice; the
second time this file is its plug-in too, which has every model and layer accelerated once it is built: before it is
called, and before and behind the methods of a model that train, evaluate or compile. Some of the tests need
tensorflow-cpu, grain, orbax-checkpoint and pandas; without them these fail both times.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter
from pathlib import Path

from throughput import environment

FOLDERS = [f"keras/src/{name}" for name in ("layers", "trainers", "models", "callbacks", "saving")]
_EXAMPLES = """\
examples:
  git clone --branch v3.15.1 https://github.com/keras-team/keras
  python benchmarks/keras_tests.py keras
  python benchmarks/keras_tests.py keras --tests keras/src/layers/pooling --out pooling.json

exit code: 0; 1 where a test ended in another way when accelerated; 2 for wrong arguments
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="Keras's repository, at the version that is installed here")
    parser.add_argument("--tests", nargs="+", default=FOLDERS, help="folders or files in it; default: %(default)s")
    parser.add_argument("--out", type=Path, help="a JSON file for the counts and the tests that differ")
    arguments = parser.parse_args()
    if not (arguments.checkout / "keras" / "src").is_dir():
        parser.error(f"no keras/src in '{arguments.checkout}': it is to be a checkout of Keras's repository")
    with tempfile.TemporaryDirectory() as folder:
        stock, _ = run(arguments.checkout, arguments.tests, Path(folder, "stock"), [])
        fast, accelerated = run(arguments.checkout, arguments.tests, Path(folder, "fast"), ["-p", "keras_tests"])
    differing = {name: [stock.get(name), fast.get(name)] for name in stock | fast if stock.get(name) != fast.get(name)}
    found = {
        "command": " ".join(sys.argv),
        "checkout": (arguments.checkout / "keras/src/version.py").read_text().split('"')[1],
        **environment(gpu=False),
        "files": len({name.split("::")[0] for name in stock}),
        "stock": Counter(stock.values()),
        "accelerated": Counter(fast.values()),
        "made native": accelerated,
        "differing": differing,
    }
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if differing else 0)


def run(checkout, tests, out, options):
    """How each test ended, by its name, and how many models and layers were given native calls."""
    out.mkdir()
    path = [str(Path(__file__).parent.absolute()), str(Path(__file__).parents[1].absolute())]
    variables = os.environ | {
        "KERAS_BACKEND": "torch",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path),
        "KERAS_TESTS_OUT": str(out.absolute()),
    }
    report = out.absolute() / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-o", "junit_family=xunit1", "-o", "addopts=", *options, *tests]
    subprocess.run(command, cwd=checkout, env=variables)
    endings = {
        f"{case.get('file')}::{case.get('classname')}.{case.get('name')}": ending(case) for case in cases(report)
    }
    made = [json.loads(line) for file in out.glob("made-*") for line in file.read_text().splitlines()]
    return endings, dict(sum(map(Counter, made), Counter()))


def cases(report):
    return xml.parse(report).getroot().iter("testcase")


def ending(case):
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


# What follows is the plug-in.

_MADE = Counter()
_TRAINER = (
    *("_symbolic_build", "compile", "fit", "evaluate", "predict"),
    *("train_on_batch", "test_on_batch", "predict_on_batch"),
)


def pytest_sessionstart():
    if "KERAS_TESTS_OUT" not in os.environ:
        return
    import keras

    stock = keras.Layer.__call__

    def called(self, *args, **kwargs):
        make_native(self)
        return stock(self, *args, **kwargs)

    keras.Layer.__call__ = called
    for name in _TRAINER:  # in the classes that define them: Keras asks whether a model has others
        owner = next(kind for kind in keras.Model.__mro__ if name in vars(kind))
        setattr(owner, name, before_and_behind(getattr(owner, name)))


def before_and_behind(method):
    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        make_native(self)
        result = method(self, *args, **kwargs)
        make_native(self)
        return result

    return wrapped


def make_native(layer):
    """Accelerates a model or layer that is built, unless it is by now."""
    import keras

    import kcifar
    from kcifar.backend.torch.graph import native_calls

    if not layer.built or getattr(layer, "_made_native", False):
        return
    object.__setattr__(layer, "_made_native", True)
    if isinstance(layer, keras.Model):
        before = {id(inner): inner.call for inner in layer._flatten_layers()}
        kcifar.accelerate(layer)
        _MADE["models"] += 1
        _MADE["layers"] += sum(
            "call" in vars(inner) and before[id(inner)] != inner.call for inner in layer._flatten_layers()
        )
    else:
        for inner, call in native_calls(layer):
            inner.call = call
            _MADE["layers"] += 1


def pytest_sessionfinish():
    if "KERAS_TESTS_OUT" in os.environ and _MADE:
        Path(os.environ["KERAS_TESTS_OUT"], f"made-{os.getpid()}").write_text(json.dumps(_MADE))


if __name__ == "__main__":
    main()
