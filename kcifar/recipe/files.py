"""Recipes as files: found in the working directory or among kcifar's own, and run."""

import ast
import runpy
import sys
from pathlib import Path

import kcifar
from kcifar.errors import InputError, nearest
from kcifar.recipe.component import Component
from kcifar.recipe.recipe import Recipe

_MOST_BYTES = 2**20  # of a recipe
_PACKAGE = Path(kcifar.__file__).parent


def packaged():
    """The recipes that kcifar comes with, paths by name ("recipes/mixup.py"): of the package, or of its checkout."""
    folders = _PACKAGE / "recipes", _PACKAGE.parent / "recipes"
    folder = next((folder for folder in folders if (folder / "mixup.py").is_file()), None)
    return {f"recipes/{path.name}": path for path in sorted(folder.glob("*.py"))} if folder else {}


def find(path):
    """The file of a recipe: the one at `path`, else the one of that name ("recipes/mixup.py") that kcifar comes with.

    Raises:
        InputError: there is none.
    """
    path, known = Path(path), packaged()
    if path.exists():
        if not (path.is_file() and path.suffix == ".py"):
            what = ", but a folder" if path.is_dir() else ""
            raise InputError(f"'{path}' is no recipe{what}; expected a Python file, as recipes/mixup.py")
        return path
    if path.as_posix() in known:
        return known[path.as_posix()]
    beside = sorted(map(str, path.parent.glob("*.py"))) if path.parent.is_dir() else []
    raise InputError(f"no recipe at '{path}'; {nearest(str(path), [*beside, *known])}")


def load(path):
    """The recipe that a Python file defines under the name `recipe`.

    The file's folder is on the import path from then on, as that of a program is: the recipe may name parts that are
    in modules beside it.

    Args:
        path: of the file, see `find`.

    Raises:
        InputError: no such file, it does not parse or run, it defines no `recipe`, or a field is wrong.
    """
    path = find(path)
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"'{path}' has {path.stat().st_size:,} bytes; expected a recipe, of at most {_MOST_BYTES:,}")
    put_on_import_path(path.parent)
    if b"\0" in path.read_bytes():
        raise InputError(f"{path}: does not parse: it holds null bytes, as UTF-16 does; save it as UTF-8")
    try:
        names = runpy.run_path(str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else path
        raise InputError(f"{where}: does not parse: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: does not run: {type(error).__name__}: {error}".replace("\n", " ")) from None
    recipe = names.get("recipe")
    if not isinstance(recipe, Recipe):
        found = "nothing" if recipe is None else f"a {type(recipe).__name__}"
        raise InputError(f"{path}: defines {found} as 'recipe'; expected recipe = Recipe(…) from kcifar.recipe")
    return recipe


def put_on_import_path(folder):
    """Modules are looked for in the folder first, unless it is that of a run: what is in runs is never imported."""
    folder = Path(folder).resolve()
    if not (folder / "recipe.json").exists() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def literal(source):
    """The recipe that a source defines, read without running it: what is in runs is never run.

    Args:
        source: bytes of a recipe's file.

    Returns:
        The `Recipe`; None where the source is not just that, or not one of this version.
    """
    try:
        found = [
            node.value
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and [getattr(to, "id", None) for to in node.targets] == ["recipe"]
        ]
        recipe = _read(found[-1]) if found else None
    except (SyntaxError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError):
        return None  # InputError is a ValueError
    return recipe if isinstance(recipe, Recipe) else None


def _read(node):
    if isinstance(node, ast.Call):
        makers = {"Recipe": Recipe, "Component": Component}
        arguments = {word.arg: _read(word.value) for word in node.keywords}
        return makers[node.func.id](*map(_read, node.args), **arguments)
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(map(_read, node.elts))
    return ast.literal_eval(node)
