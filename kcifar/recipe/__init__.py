"""What a recipe is, how it is loaded from a file, and how overrides change it. Standard library only."""

from kcifar.recipe.component import Component
from kcifar.recipe.files import find, load, packaged, put_on_import_path
from kcifar.recipe.recipe import Recipe

__all__ = ["Component", "Recipe", "find", "load", "packaged", "put_on_import_path"]
