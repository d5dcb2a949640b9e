"""The structure that the design promises: backend code in one room, imports one way, quick help."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kcifar"
pytestmark = pytest.mark.once

# From the bottom to the top; a room imports from those before it and from itself.
LAYERS = [
    ["errors", "chance", "checksum", "geometry", "gpus", "interrupts", "output", "reading"],
    ["backend"],
    ["recipe", "data", "augment", "models", "training"],
    ["runs"],
    ["evaluation", "callbacks"],
    ["experiment", "voting"],
    ["commands"],
    ["train", "evaluate", "vote", "sweep", "predict", "report"],
    ["__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Rooms of these levels may not see each other.
APART = [set(LAYERS[2]), set(LAYERS[4]), set(LAYERS[5]), set(LAYERS[-2])]


def imports(path):
    """Every module that a file imports, anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_backend_knows_torch_and_jax(path):
    if room_of(path) == "backend":
        return
    assert not [name for name in imports(path) if name.split(".")[0] in ("torch", "jax", "jaxlib")]
    assert "keras.backend.backend" not in path.read_text(encoding="utf-8")
    assert "keras.config.backend" not in path.read_text(encoding="utf-8")


def test_one_file_imports_the_inside_of_keras():
    inside = PACKAGE / "backend" / "keras_internals.py"
    assert [path for path in FILES if "keras.src" in path.read_text(encoding="utf-8")] == [inside]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} is not one of the rooms"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "kcifar" or len(parts) == 1:
            continue
        imported = parts[1]
        if imported not in LEVEL:
            assert imported in ("__version__", "InputError"), name
        elif imported != room:
            assert LEVEL[imported] <= LEVEL[room], f"{room} imports {name}"
            assert not any({imported, room} <= rooms for rooms in APART), f"{room} imports {name}"


def run_python(*arguments, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env=variables | environment
    )


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "vote", "predict", "report"])
def test_help_imports_nothing_heavy(command):
    result = run_python("-X", "importtime", "-m", f"kcifar.{command}", "--help")
    assert "examples:" in result.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "argparse" in imported
    heavy = {"torch", "jax", "keras", "matplotlib", "numpy", "tensorflow", "rich", "PIL", "scipy", "jinja2", "optuna"}
    assert not imported & heavy


CHOICE = "import json, os, sys; {first}; import kcifar, keras; print(json.dumps([keras.backend.backend()]))"


def test_torch_is_the_default_backend(tmp_path):
    """Of kcifar: Keras's own is TensorFlow, and what its file of settings in the home says comes after the variable."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "tensorflow"}')
    program = CHOICE.format(first="pass")
    assert json.loads(run_python("-c", program, KERAS_HOME=str(tmp_path / ".keras")).stdout) == ["torch"]


def test_the_variable_decides_the_backend():
    assert json.loads(run_python("-c", CHOICE.format(first="pass"), KERAS_BACKEND="jax").stdout) == ["jax"]


def test_a_keras_that_is_imported_already_decides_the_backend():
    first = "os.environ['KERAS_BACKEND'] = 'jax'; import keras; del os.environ['KERAS_BACKEND']"
    assert json.loads(run_python("-c", CHOICE.format(first=first)).stdout) == ["jax"]


def test_another_backend_is_refused_in_one_line():
    program = "import sys; sys.modules['tensorflow'] = None; import kcifar.backend"
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_python("-c", program, KERAS_BACKEND="numpy")
    assert "kcifar runs on 'torch' and 'jax'" in error.value.stderr.splitlines()[-1]


def test_tensorflow_is_no_requirement():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [
        r for r in project["dependencies"] if r.replace("_", "-").split(">")[0] in ("tensorflow", "tensorflow-cpu")
    ]


def test_every_folder_is_a_package_of_the_wheel_and_the_recipes_are_in_it():
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(tool["packages"]) == folders | {"kcifar.recipes"}
    assert tool["package-dir"]["kcifar.recipes"] == "recipes"
