"""What tells recipes apart: as overrides that make one of the other; and a recipe's source that is read, not run."""

import itertools
from pathlib import Path

import pytest

from kcifar import recipe

pytestmark = pytest.mark.once

RECIPES = {path.stem: recipe.load(path) for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.py"))}
MIXUP = RECIPES["mixup"]


def test_overrides_between_any_two_recipes_make_one_of_the_other():
    for one, other in itertools.permutations(RECIPES.values(), 2):
        assert one.override(recipe.overrides_between(one, other)) == other


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["epochs=30"],
        ["transforms.MixUp.alpha=0.2", "optimizer.learning_rate=0.5"],
        ["freeze=['stem', 'layer1']", "drop_last=false", "schedule=none"],
        ["transforms=[RandomFlip()]"],
        ["pretrained=a folder/w=1.pth"],
    ],
)
def test_they_are_those_that_were_given(overrides):
    assert sorted(recipe.overrides_between(MIXUP, MIXUP.override(overrides))) == sorted(overrides)


def test_an_argument_of_another_type_is_written_with_its_whole_component():
    """As an override of the argument it would be refused: it is typed by the one that it replaces."""
    whole = MIXUP.override(["optimizer=Adam(learning_rate=1)"])
    half = MIXUP.override(["optimizer=Adam(learning_rate=0.5)"])
    (override,) = recipe.overrides_between(whole, half)
    assert override == "optimizer=Adam(learning_rate=0.5)"
    assert whole.override([override]) == half


def test_differences_are_by_key_with_a_value_of_each():
    recipes = [MIXUP, MIXUP.override(["seed=3", "transforms.MixUp.alpha=1.0"]), MIXUP.override(["epochs=3"])]
    assert recipe.differences(recipes, but=("seed",)) == {
        "transforms.MixUp.alpha": ["0.4", "1.0", "0.4"],
        "epochs": ["200", "200", "3"],
    }
    assert recipe.differences([MIXUP]) == {}


def test_a_literal_recipe_is_read_as_it_runs():
    for path in (Path(__file__).parents[1] / "recipes").glob("*.py"):
        assert recipe.literal(path.read_bytes()) == RECIPES[path.stem], path


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"recipe = (",
        b"recipe = 3",
        b"recipe = Recipe(epochs=__import__('os').abort())",
        b"recipe = Recipe(data='demo')",
        b"recipe = Recipe(**{'data': 'demo'})",
        b"recipe = Component('Adam')",
        b"recipe = Component()",
        b"epochs = 3\nrecipe = Recipe(epochs=epochs)",
        b"recipe = " + b"(" * 5000,
        b"\0",
    ],
)
def test_what_is_no_literal_recipe_is_not_run(source):
    assert recipe.literal(source) is None
