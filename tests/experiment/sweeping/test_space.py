"""What a sweep varies: read from overrides, typed by the recipe, named in folders."""

from pathlib import Path

import pytest

from kcifar import InputError, recipe
from kcifar.experiment.sweeping.space import Choices, Range, expect_size, overrides_of, seeds_in, space_of

pytestmark = pytest.mark.once

MIXUP = recipe.load(Path(__file__).parents[3] / "recipes" / "mixup.py")


def space(*overrides):
    return space_of(MIXUP, overrides)[0]


def test_lists_ranges_seeds_and_what_is_the_same():
    found, base, fixed = space_of(
        MIXUP, ["epochs=3", "optimizer.learning_rate=1e-2,0.001", "transforms.MixUp.alpha=0..1", "batch_size=16..64",
                "optimizer.l2=log:1e-5..1e-2", "seed=0..2"]
    )  # fmt: skip
    assert found.dimensions == (
        Choices("optimizer.learning_rate", (0.01, 0.001)),
        Range("transforms.MixUp.alpha", 0.0, 1.0, False),
        Range("batch_size", 16, 64, False),
        Range("optimizer.l2", 1e-5, 1e-2, True),
    )
    assert found.dimensions[2].whole
    assert not found.dimensions[1].whole  # the recipe's alpha is no whole number
    assert found.seeds == (0, 1, 2)
    assert found.sampled
    assert (base.epochs, fixed) == (3, ["epochs=3"])
    assert str(found).endswith("batch_size=16..64 optimizer.l2=log:1e-05..0.01 seed=0,1,2")


def test_a_comma_in_brackets_or_quotes_separates_nothing():
    found = space("freeze=[stem],[stem,layer1]", "optimizer=Adam(learning_rate=1e-3,l2=0.1),SGD(learning_rate=0.1)")
    assert found.dimensions[0].values == ("[stem]", "[stem,layer1]")
    assert found.dimensions[1].values == ("Adam(learning_rate=0.001, l2=0.1)", "SGD(learning_rate=0.1)")
    for configuration in found.configurations():
        made = MIXUP.override(overrides_of(configuration, 3))
        assert made.freeze == (("stem",) if configuration["freeze"] == "[stem]" else ("stem", "layer1"))
        assert made.seed == 3


def test_two_dots_in_a_path_are_no_range():
    assert space_of(MIXUP, ["data=../images", "epochs=1,2"])[0].dimensions == (Choices("epochs", (1, 2)),)


def test_the_configurations_of_a_grid_in_their_order():
    found = space("epochs=1,2", "precision=float32,bfloat16")
    assert [tuple(each.values()) for each in found.configurations()] == [
        (1, "float32"), (1, "bfloat16"), (2, "float32"), (2, "bfloat16"),
    ]  # fmt: skip
    assert found.runs == 4


def test_names_of_folders():
    found = space("optimizer.learning_rate=0.1,1e-5", "transforms.MixUp.alpha=0.1,0.2", "seed=0..1")
    configuration = {"optimizer.learning_rate": 1e-5, "transforms.MixUp.alpha": 0.2}
    assert found.run_name(configuration, 1) == "learning_rate=1e-05,alpha=0.2,seed=1"
    same = space("transforms.RandomCrop.size=32,30", "model.size=1,2")
    assert list(same.names.values()) == ["transforms.RandomCrop.size", "model.size"]
    long = space(
        "callbacks=[],[nets:Noise(text='/a b/ä" + "x" * 200 + "')],[nets:Noise(text='/a b/ö" + "x" * 200 + "')]"
    )
    names = [long.run_name(each, None) for each in long.configurations()]
    assert names[0] == "callbacks=-" + names[0][-8:]
    assert len(set(names)) == 3
    assert all(len(name) <= 100 and name.isascii() and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=1,2", "unknown key 'epoch'; did you mean 'epochs'"),
        ("epoch=1..2", "unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs=1,two", "'epochs' cannot be 'two'; expected a whole number"),
        ("epochs=1,,2", "empty value in its list"),
        ("epochs=1,2,1", "'epochs' has the value 1 twice"),
        ("optimizer.learning_rate=0.1,1e-1", "has the value 0.1 twice"),
        ("epochs=1..2,5", r"has the range '1\.\.2' in a list"),
        ("optimizer.learning_rate=0.1..", "is '0.1..'; expected a range LOW..HIGH"),
        ("optimizer.learning_rate=..0.1", "expected a range LOW..HIGH"),
        ("optimizer.learning_rate=log:0.1", "cannot be 'log:0.1'|expected a range"),
        ("optimizer.learning_rate=0.2..0.1", "0.2..0.1, which is reversed"),
        ("optimizer.learning_rate=0.1..0.1", "which holds one value"),
        ("optimizer.learning_rate=log:0..0.1", "logarithms begin above 0"),
        ("optimizer.learning_rate=log:-1..0.1", "logarithms begin above 0"),
        ("optimizer.learning_rate=0..1e999", "expected finite numbers"),
        ("epochs=1..2.5", "'epochs' cannot be '2.5'; expected a whole number"),
        ("optimizer.momentum=0..1", "does not say whether it is a whole number: write 0.0..1.0 for fractions"),
        ("deterministic=0..1", "'deterministic' cannot be '0'; expected true or false"),
        ("seed=3..1", "seed is '3..1'; expected a number, or a range"),
        ("seed=0,x", "seed is '0,x'; expected numbers, each once"),
        ("seed=1,1", "seed is '1,1'; expected numbers, each once"),
        ("seed=0," + "9" * 5000, "seed is '0,9"),
    ],
)
def test_what_is_refused(override, message):
    with pytest.raises(InputError, match=message) as error:
        space(override)
    assert "\n" not in str(error.value)


def test_what_is_given_twice():
    with pytest.raises(InputError, match="'epochs' is given twice"):
        space("epochs=1,2", "epochs=3..4")
    with pytest.raises(InputError, match="the seed is given twice"):
        space("seed=0..1", "seed=0,1")


def test_sizes():
    grid, drawn = space("epochs=1,2"), space("epochs=1..9", "seed=0..9")
    expect_size(grid, None, False)
    expect_size(drawn, 9, False)
    expect_size(space("epochs=1,2", "seed=0..999"), None, True)
    for found, trials, message in [
        (grid, 3, "no range to draw from"),
        (drawn, None, "'epochs' is a range, of which values are drawn: say how many by --trials"),
        (space("epochs=1..900", "seed=0..9"), 101, "1,010 runs: add --yes"),
        (space("epochs=1..3", "precision=float32,bfloat16"), 7, "--trials is 7, but there are 6 configurations"),
        (space("epochs=1,2", "seed=0..999"), None, "2,000 runs: add --yes"),
        (space("epochs=3"), None, "nothing is varied"),
    ]:
        with pytest.raises(InputError, match=message):
            expect_size(found, trials, False)


def test_ranges_of_seeds():
    assert list(seeds_in("0..4")) == [0, 1, 2, 3, 4]
    assert list(seeds_in("7..7")) == [7]
    assert list(seeds_in("9..11")) == [9, 10, 11]
    with pytest.raises(InputError, match=r"3\.\.1"):
        seeds_in("3..1")
    with pytest.raises(InputError, match="seed is '0"):
        seeds_in("0.." + "9" * 5000)
