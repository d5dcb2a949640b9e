"""What a recipe is, how it is loaded from a file, and how overrides change it. Standard library only."""

from kcifar.recipe.component import Component
from kcifar.recipe.differences import differences, overrides_between
from kcifar.recipe.files import find, literal, load, packaged, put_on_import_path
from kcifar.recipe.recipe import VIEWS, Recipe

__all__ = [
    "VIEWS",
    "Component",
    "Recipe",
    "differences",
    "find",
    "literal",
    "load",
    "overrides_between",
    "packaged",
    "put_on_import_path",
]
