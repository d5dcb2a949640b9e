"""Parts that a recipe names as `package.module:Name`: imported, recorded in the run folder, compared at a resume."""

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import shutil
import sys
import sysconfig
import traceback
from pathlib import Path

import keras

import kcifar
from kcifar import reading, recipe
from kcifar.checksum import sha256
from kcifar.errors import InputError, nearest, one_line
from kcifar.runs.files import replacing, write_json
from kcifar.runs.folder import OWN_PARTS

_PYTHONS_OWN = {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")}
_KCIFAR = Path(kcifar.__file__).resolve().parent


def find(name, kind, importing=True):
    """What `package.module:Name` names: a class or a function. Layers of its module can be opened in saved models.

    Args:
        name: of the part.
        kind: what it is to be, as the error names it: "model".
        importing: whether the module may be imported; else it has to be imported already.

    Raises:
        InputError: no such module, it fails on import or is in a run folder, has no such name, or one of no factory.
    """
    place, _, attribute = name.partition(":")
    if not importing and place not in sys.modules:
        raise InputError(f"{kind} is {name}, code that is not kcifar's; if you trust it, give --import {place}")
    module = import_module(place, kind)
    found = getattr(module, attribute, None)
    if found is None:
        public = [other for other in vars(module) if not other.startswith("_")]
        raise InputError(f"{kind} is {name}, but '{place}' has no '{attribute}'; {nearest(attribute, public)}")
    if not callable(found):
        raise InputError(f"{kind} is {name}, a {type(found).__name__}; expected a class or a function that makes it")
    return found


def import_module(name, what="--import"):
    """The module of this name, whose layers Keras then finds in saved models. Raises InputError where there is none."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer version
    try:
        _expect_outside_of_runs(importlib.util.find_spec(name.partition(".")[0]), what)
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{what}: there is no module '{error.name}'; expected one beside the recipe, in the working directory "
                "or installed"
            ) from None
        raise InputError(f"{what}: the module '{name}' does not import ({where(error)}): {one_line(error)}") from None
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{what}: the module '{name}' does not import ({where(error)}): {text}") from None
    _expect_first_on_path(name, what)
    _register_layers(module)
    return module


def _expect_first_on_path(name, what):
    """Raises InputError where a module was imported earlier, of the same name but from another place."""
    package = name.partition(".")[0]
    first = importlib.machinery.PathFinder.find_spec(package)
    file = getattr(sys.modules[package], "__file__", None)
    if first and first.has_location and file and not os.path.samefile(first.origin, file):
        raise InputError(
            f"{what}: the '{package}' that is imported already is '{file}', not '{first.origin}': rename one, or start "
            "anew"
        )


def _expect_outside_of_runs(spec, what):
    """Raises InputError where a module that is not imported yet would come from a run folder."""
    path = Path(spec.origin) if spec and spec.has_location else None
    if path and any((folder / "recipe.json").exists() for folder in path.parents[:3]):
        raise InputError(f"{what}: '{path}' is in a run folder, and what is there is never imported: copy it out")


def where(error):
    """The innermost place of an error, for people to read: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '').name}, line {error.lineno}"
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def _register_layers(module):
    """Keras opens saved models with classes that are not its own where they are in this dictionary."""
    for name, found in vars(module).items():
        if inspect.isclass(found) and issubclass(found, keras.Layer) and not found.__module__.startswith("keras"):
            keras.saving.get_custom_objects().setdefault(name, found)


def modules_of(wanted):
    """The files of all modules from outside of what is installed that a recipe's parts are made by: paths by name."""
    named = {c.name.partition(":")[0] for c in wanted.components() if c.is_own}
    return _files([sys.modules[name] for name in sorted(named) if name in sys.modules])


def _files(modules):
    """Of these modules, and of those that they import, the files that are neither installed nor Python's own."""
    waiting, found = list(modules), {}
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        path = Path(file).resolve() if file else None
        if path is None or module.__name__ in found or path.suffix != ".py" or _is_installed(path):
            continue
        found[module.__name__] = path
        waiting += [sys.modules[name] for name in _imported_names(module, path) if name in sys.modules]
    return dict(sorted(found.items()))


def _is_installed(path):
    names = {folder.name for folder in path.parents}
    return bool({"site-packages", "dist-packages"} & names or ({*_PYTHONS_OWN, _KCIFAR} & set(path.parents)))


def _imported_names(module, path):
    """Names that may be modules, of a file's import statements; packages of a module among them."""
    parts = module.__name__.split(".")
    names = {".".join(parts[:length]) for length in range(1, len(parts))}
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def record(run, wanted, imported_from):
    """Copies the modules of a recipe's own parts to `RUN/own_parts/`, with a list of their checksums, for the record.

    Args:
        run: a `kcifar.runs.folder.RunFolder`.
        wanted: the recipe.
        imported_from: the folder from which its modules are imported: that of its file.
    """
    files = modules_of(wanted)
    if not files:
        return
    folder = run.path / OWN_PARTS
    folder.mkdir(exist_ok=True)
    for name, path in files.items():
        with replacing(folder / f"{name}.py") as temporary:
            shutil.copyfile(path, temporary)
    listed = {name: {"path": str(path), "sha256": sha256(path)} for name, path in files.items()}
    write_json(_list_of(run), {"folder": str(Path(imported_from).resolve()), "modules": listed})


def go_on(run):
    """Puts the folder of a run's own parts on the import path, if it has any, and gives its path; None without."""
    written = _recorded(run)
    if not written:
        return None
    recipe.put_on_import_path(written["folder"])
    return written["folder"]


def expect_recorded(run, wanted):
    """Raises InputError where a run was killed before it was known where its own parts are."""
    if any(component.is_own for component in wanted.components()) and not _list_of(run).exists():
        raise InputError(f"'{run.path}' was killed as it was made: give the same command again that made it")


def expect_unchanged(run, wanted):
    """Raises InputError where a module of the recipe's own parts is another than the run was made with."""
    written = _recorded(run)
    if not written:
        return
    files = modules_of(wanted)
    for name, known in written["modules"].items():
        path = files.get(name)
        if path is None or sha256(path) != known["sha256"]:
            now = f"'{path}' is another now" if path else f"'{known['path']}' is not imported any more"
            kept = run.path / OWN_PARTS / f"{name}.py"
            raise InputError(
                f"'{run.path}' was made with the module '{name}', and {now}: put back what is in {kept}, or start a "
                "new run"
            )


def _recorded(run):
    path = _list_of(run)
    if not path.exists():
        return None
    try:
        written = reading.parsed_json(reading.text(path))
        modules = written["modules"]
        is_path = b"\0" not in os.fsencode(written["folder"])
        if is_path and all(isinstance(m["sha256"] + m["path"], str) for m in modules.values()):
            return written
        error = "it holds something else"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as found:
        error = one_line(found)
    raise InputError(f"'{path}' is damaged ({error}): start a new run with --out")


def _list_of(run):
    return run.path / OWN_PARTS / "modules.json"
