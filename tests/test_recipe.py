"""Recipes: loading, overrides, JSON, and what each of them refuses, in one line."""

import ast
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kcifar import InputError
from kcifar.errors import nearest
from kcifar.recipe import Component, Recipe, find, load, packaged

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "recipes").glob("*.py"))
VERSIONS = ROOT / "tests" / "versions"
FIELDS = [
    "data",
    "validation",
    "validation_seed",
    "model",
    "pretrained",
    "freeze",
    "unfreeze_epoch",
    "mean",
    "std",
    "resize",
    "center_crop",
    "whitening",
    "fixed_transforms",
    "transforms",
    "image_size",
    "batch_size",
    "accumulate",
    "drop_last",
    "loss",
    "optimizer",
    "sharpness_aware",
    "schedule",
    "weight_ema",
    "epochs",
    "evaluate_every",
    "evaluate_train",
    "early_stopping",
    "callbacks",
    "select_on",
    "select_by",
    "select_from_epoch",
    "tta",
    "precision",
    "deterministic",
    "tensorboard",
    "seed",
]


def arguments(**changes):
    return {
        "data": "auto",
        "validation": 0.1,
        "validation_seed": 0,
        "model": Component("elu_cnn", dropout=0.5),
        "pretrained": None,
        "freeze": (),
        "unfreeze_epoch": None,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "resize": None,
        "center_crop": None,
        "transforms": (Component("RandomCrop", size=32, padding=4), Component("MixUp", alpha=0.4, probability=1.0)),
        "batch_size": 32,
        "drop_last": True,
        "loss": Component("CategoricalCrossentropy", label_smoothing=0.0),
        "optimizer": Component("Adam", learning_rate=2e-3, l2=1e-3),
        "sharpness_aware": Component("SharpnessAware", rho=0.05),
        "schedule": Component("CyclicLR", base=1e-3, maximum=4e-3, step_size_up=10, mode="triangular2", unit="epoch"),
        "weight_ema": None,
        "epochs": 200,
        "early_stopping": None,
        "select_on": "validation",
        "select_from_epoch": 10,
        "precision": "float32",
        "deterministic": True,
        "tensorboard": False,
        "seed": 42,
    } | changes


@pytest.fixture
def recipe():
    return Recipe(**arguments())


def changed(recipe, *overrides):
    """The fields that overrides change, with their new values."""
    new = recipe.override(overrides)
    assert type(new) is Recipe
    return {name: getattr(new, name) for name in FIELDS if getattr(new, name) != getattr(recipe, name)}


def assert_refused(action, *words):
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# Components


def test_a_component_prints_as_it_is_written():
    assert str(Component("Adam", learning_rate=0.001, l2=0.0)) == "Adam(learning_rate=0.001, l2=0.0)"
    assert str(Component("CyclicLR", mode="triangular")) == "CyclicLR(mode='triangular')"
    assert str(Component("RandomFlip")) == "RandomFlip()"


def test_components_are_equal_where_name_and_arguments_are():
    assert Component("MixUp", alpha=0.4) == Component("MixUp", alpha=0.4)
    assert Component("MixUp", alpha=0.4) != Component("MixUp", alpha=0.2)
    assert Component("MixUp", alpha=0.4) != Component("Mixup", alpha=0.4)
    assert Component("MixUp") != "MixUp"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Component("SGD", learning_rate=0.1, momentum=0.9), Component("SGD", momentum=0.9, learning_rate=0.1)),
        (Component("MixUp", alpha=1), Component("MixUp", alpha=1.0)),
    ],
)
def test_equal_components_have_one_hash(one, other):
    assert one == other
    assert hash(one) == hash(other)


# Overrides


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("epochs=30", "epochs", 30),
        ("data=demo", "data", "demo"),
        ("data=/tmp/some=dir", "data", "/tmp/some=dir"),
        ("data=3", "data", "3"),
        ("drop_last=false", "drop_last", False),
        ("drop_last=False", "drop_last", False),
        ("validation=0.25", "validation", 0.25),
        ("mean=(0.1, 0.2, 0.3)", "mean", (0.1, 0.2, 0.3)),
        ("mean=[0.1,0.2,0.3]", "mean", (0.1, 0.2, 0.3)),
        ("mean=(1, 0, 0)", "mean", (1.0, 0.0, 0.0)),
        ("schedule=none", "schedule", None),
        ("schedule=None", "schedule", None),
        (
            "optimizer=SGD(learning_rate=0.1, momentum=0.9)",
            "optimizer",
            Component("SGD", learning_rate=0.1, momentum=0.9),
        ),
        ("optimizer=SGD(learning_rate=1)", "optimizer", Component("SGD", learning_rate=1)),
        ("model=tutorial_net()", "model", Component("tutorial_net")),
        ("model=tutorial_net", "model", Component("tutorial_net")),
        ("early_stopping=EarlyStopping(patience=5)", "early_stopping", Component("EarlyStopping", patience=5)),
        ("transforms=()", "transforms", ()),
        (
            "transforms=[RandomFlip(), MixUp(alpha=0.2)]",
            "transforms",
            (Component("RandomFlip"), Component("MixUp", alpha=0.2)),
        ),
        ("select_on=last", "select_on", "last"),
        ("seed=18446744073709551615", "seed", 2**64 - 1),
    ],
)
def test_an_override_changes_its_field_alone(recipe, override, field, value):
    assert changed(recipe, override) == {field: value}


@pytest.mark.parametrize(
    ("override", "field", "component"),
    [
        ("optimizer.learning_rate=1e-4", "optimizer", Component("Adam", learning_rate=1e-4, l2=1e-3)),
        ("model.dropout=0.1", "model", Component("elu_cnn", dropout=0.1)),
        (
            "schedule.mode=triangular",
            "schedule",
            Component("CyclicLR", base=1e-3, maximum=4e-3, step_size_up=10, mode="triangular", unit="epoch"),
        ),
    ],
)
def test_a_dotted_override_changes_its_argument_alone(recipe, override, field, component):
    assert changed(recipe, override) == {field: component}


def test_a_transform_is_found_by_its_name(recipe):
    crop = Component("RandomCrop", size=32, padding=4)
    expected = {"transforms": (crop, Component("MixUp", alpha=0.2, probability=1.0))}
    assert changed(recipe, "transforms.MixUp.alpha=0.2") == expected


def test_an_int_becomes_a_float_where_one_is_expected(recipe):
    assert type(recipe.override(["optimizer.learning_rate=1"]).optimizer.arguments["learning_rate"]) is float
    assert type(recipe.override(["select_on=last", "validation=0"]).validation) is float
    assert type(recipe.override(["mean=(1, 2, 3)"]).mean[0]) is float


def test_an_argument_that_the_recipe_leaves_at_its_default_is_taken_as_it_is_written(recipe):
    """Whether the component has it is told when it is made."""
    adam = {"learning_rate": 2e-3, "l2": 1e-3}
    expected = {"optimizer": Component("Adam", **adam, global_clipnorm=1)}
    assert changed(recipe, "optimizer.global_clipnorm=1") == expected
    assert changed(recipe, "model.initial=pytorch") == {"model": Component("elu_cnn", dropout=0.5, initial="pytorch")}
    assert changed(recipe, "model.initial=none") == {"model": Component("elu_cnn", dropout=0.5, initial=None)}


# Parts of anybody's


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("model=nets:small(width=64)", "model", Component("nets:small", width=64)),
        ("model=nets:small", "model", Component("nets:small")),
        ("model=my.nets:Small(kind=wide)", "model", Component("my.nets:Small", kind="wide")),
        ("optimizer=keras.optimizers:AdamW()", "optimizer", Component("keras.optimizers:AdamW")),
        (
            "transforms=[RandomFlip(), a.b:Blur(name='c:d', also=(e:F(g=1),))]",
            "transforms",
            (Component("RandomFlip"), Component("a.b:Blur", name="c:d", also=(Component("e:F", g=1),))),
        ),
        ("callbacks=[a:B(), a:C(x=True)]", "callbacks", (Component("a:B"), Component("a:C", x=True))),
    ],
)
def test_anybodys_parts_are_named_by_their_module(recipe, override, field, value):
    assert changed(recipe, override) == {field: value}
    again = recipe.override([override])
    assert Recipe.from_json(again.to_json()) == again
    assert again.override([f"{field}={value}"]) == again


def test_arguments_of_anybodys_parts_are_changed_by_key(recipe):
    overrides = ["transforms=[a.b:Blur(radius=1.0)]", "transforms.a.b:Blur.radius=2", "model=nets:small()"]
    new = recipe.override([*overrides, "model.width=3"])
    assert new.transforms == (Component("a.b:Blur", radius=2.0),)
    assert new.model == Component("nets:small", width=3)


@pytest.mark.parametrize("name", ["nets:", ":small", "nets:small()", "my nets:small", "a:b:c", "a/b:c"])
def test_a_name_with_a_colon_is_a_module_and_a_name(name):
    assert_refused(lambda: Component(name), name, "package.module:Name")


def test_components_within_components_are_found(recipe):
    new = recipe.override(["transforms=[a:B(inner=(c:D(),))]"])
    assert [c.name for c in new.components() if c.is_own] == ["a:B", "c:D"]


def test_later_overrides_win_and_see_earlier_ones(recipe):
    assert changed(recipe, "epochs=3", "epochs=4") == {"epochs": 4}
    new = recipe.override(["optimizer=SGD(learning_rate=0.1)", "optimizer.learning_rate=0.2"])
    assert new.optimizer == Component("SGD", learning_rate=0.2)


def test_no_overrides_change_nothing_and_the_recipe_stays(recipe):
    assert changed(recipe) == {}
    recipe.override(["optimizer.learning_rate=1.0", "transforms.MixUp.alpha=1.0", "epochs=1"])
    assert recipe == Recipe(**arguments())


def test_overrides_that_are_right_together_are_taken_together(recipe):
    """No order of these passes by way of a recipe that is right at every step."""
    assert changed(recipe, "mean=none", "std=none") == {"mean": None, "std": None}
    assert changed(recipe, "std=none", "mean=none") == {"mean": None, "std": None}


@pytest.mark.parametrize(
    "overrides", [("select_on=validation", "validation=0.2"), ("validation=0.2", "select_on=validation")]
)
def test_the_order_of_overrides_of_different_fields_is_free(overrides):
    recipe = Recipe(**arguments(validation=0.0, select_on="last"))
    assert changed(recipe, *overrides) == {"validation": 0.2, "select_on": "validation"}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("stem", ("stem",)),
        ("stem,layer1", ("stem", "layer1")),
        ("[stem, layer1]", ("stem", "layer1")),
        ("('stem', \"layer1\",)", ("stem", "layer1")),
    ],
)
def test_groups_of_layers_are_written_with_commas(recipe, text, groups):
    assert changed(recipe, f"freeze={text}") == {"freeze": groups}
    frozen = Recipe(**arguments(freeze=("head",)))
    assert changed(frozen, f"freeze={text}") == {"freeze": groups}
    assert changed(frozen, "freeze=none") == changed(frozen, "freeze=()") == {"freeze": ()}


def test_what_it_starts_from_is_text_or_none(recipe):
    source = "timm/resnet18.fb_swsl_ig1b_ft_in1k"
    assert changed(recipe, f"pretrained={source}") == {"pretrained": source}
    assert changed(Recipe(**arguments(pretrained=source)), "pretrained=none") == {"pretrained": None}


def test_numbers_that_may_be_none(recipe):
    assert changed(recipe, "resize=224", "center_crop=200") == {"resize": 224, "center_crop": 200}
    assert changed(Recipe(**arguments(resize=224)), "resize=none") == {"resize": None}
    assert changed(recipe, "freeze=stem", "unfreeze_epoch=5") == {"freeze": ("stem",), "unfreeze_epoch": 5}


def test_nothing_is_unfrozen_where_nothing_is_frozen():
    assert_refused(lambda: Recipe(**arguments(unfreeze_epoch=3)), "unfreeze_epoch")


@pytest.mark.parametrize("epoch", [4, 5])
def test_nothing_is_unfrozen_behind_the_last_epoch(epoch):
    assert_refused(lambda: Recipe(**arguments(freeze=("stem",), unfreeze_epoch=epoch, epochs=4)), "unfreeze_epoch")


def test_a_component_written_by_str_is_read_back(recipe):
    for field in ("model", "loss", "optimizer", "schedule"):
        component = getattr(recipe, field)
        other = Recipe(**arguments(**{field: Component("other", a=1)}))
        assert getattr(other.override([f"{field}={component}"]), field) == component


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("epoch=3", "epochs"),
        ("optimizer.learning_rate.x=1", "optimizer.learning_rate"),
        ("learning_rate=1", "optimizer.learning_rate"),
        ("lr=1", "optimizer.learning_rate"),
        ("weight_decay=1", "optimizer.l2"),
        ("alpha=1", "transforms.MixUp.alpha"),
        ("transforms.Mixup.alpha=1", "transforms.MixUp.alpha"),
        ("optimiser.l2=1", "optimizer.l2"),
        ("batchsize=4", "batch_size"),
        ("Epochs=4", "epochs"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(recipe, override, nearest):
    message = assert_refused(lambda: recipe.override([override]), override.split("=")[0])
    assert f"'{nearest}'" in message


@pytest.mark.parametrize(
    "override",
    [
        "epochs=2.5",
        "epochs=3.0",
        "epochs=true",
        "epochs=thirty",
        "epochs=",
        "epochs=none",
        "epochs=1+1",
        "epochs=0",
        "batch_size=-4",
        "drop_last=1",
        "drop_last=yes",
        "validation=half",
        "validation=1",
        "validation=-0.1",
        "validation=nan",
        "mean=0.5",
        "mean=(0.5, x)",
        "mean=none",
        "select_on=train",
        "seed=-1",
        "seed=18446744073709551616",
        "transforms=none",
        "transforms=RandomFlip",
        "transforms=(1, 2)",
        "optimizer=none",
        "optimizer=3",
        "optimizer=SGD(0.1)",
        "optimizer=SGD(learning_rate=0.1",
        "optimizer=SGD(**{})",
        "optimizer=SGD(**{'learning_rate': 0.1})",
        "optimizer=SGD(learning_rate=0.1, learning_rate=0.2)",
        "optimizer=SGD(learning_rate=__import__('os').getpid())",
        "optimizer=__import__('os')",
        "optimizer=os.system(x=1)",
        "optimizer=nets:(x=1)",
        "optimizer=nets:one:two(x=1)",
        "optimizer=:one()",
        pytest.param("optimizer=" + 5000 * "(", id="deep"),
        pytest.param("optimizer=" + 5000 * "-" + "1", id="many-signs"),
        "select_by=f1",
        "callbacks=3",
        "resize=0",
        "resize=2.5",
        "center_crop=-1",
        "unfreeze_epoch=0",
        "optimizer.learning_rate=true",
        "optimizer.learning_rate=fast",
        "schedule.step_size_up=2.5",
    ],
)
def test_a_value_that_does_not_fit_is_refused(recipe, override):
    key = override.split("=")[0]
    assert_refused(lambda: recipe.override([override]), "std" if override == "mean=none" else key)


def test_names_of_megabytes_take_no_more_memory(recipe):
    """In which the nearest name is looked for, of an override and of a run's recipe.json."""
    name = "transfo" + 3_000_000 * "A"
    tracemalloc.start()
    assert_refused(lambda: recipe.override([f"{name}=1"]), "has 3,000,009 characters; expected 1,048,576 at most")
    assert_refused(lambda: recipe.override([f"{name[: 10**6]}=1"]), "unknown key 'transfoAAA")
    assert_refused(lambda: Recipe.from_json(json.dumps(json.loads(recipe.to_json()) | {name: 1})), "unknown fields")
    assert "did you mean" not in nearest(name, FIELDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25


def test_a_number_that_python_does_not_write_is_refused():
    vast = 10**5000
    for arguments in ({"rho": vast}, {"rho": (1, [-vast])}, {"rho": {1: vast}}):
        with pytest.raises(InputError, match="'rho' is a whole number of 16,610 bits; expected 128 at most"):
            Component("SharpnessAware", **arguments)


@pytest.mark.parametrize("value", [lambda: 3, b"bytes", {1, 2}, 1j, ..., np.int64(3), [1, {"a": (b"",)}], Component])
def test_an_argument_that_json_cannot_hold_is_refused(value):
    with pytest.raises(InputError, match=r"'rho' is .*; expected a number, text, None, True, False, a component"):
        Component("SharpnessAware", rho=value)


@pytest.mark.parametrize("override", ["epochs", "", "=3", "optimizer.=3", ".learning_rate=3", "a.b.c.d=1"])
def test_what_is_no_override_is_refused(recipe, override):
    assert_refused(lambda: recipe.override([override]))


def test_an_argument_of_none_is_refused(recipe):
    assert_refused(lambda: recipe.override(["schedule=none", "schedule.mode=triangular"]), "schedule.mode")


# JSON


def test_json_gives_the_recipe_back(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe
    bare = Recipe(**arguments(schedule=None, mean=None, std=None, transforms=(), seed=2**64 - 1))
    again = Recipe.from_json(bare.to_json())
    assert again == bare
    assert type(again.transforms) is tuple


def test_json_holds_each_field_in_order(recipe):
    fields = json.loads(recipe.to_json())
    assert list(fields) == FIELDS
    assert fields["model"] == {"name": "elu_cnn", "arguments": {"dropout": 0.5}}
    assert fields["epochs"] == 200


def edited(change):
    fields = json.loads(Recipe(**arguments()).to_json())
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epochs: 3",
        "null",
        "3",
        '"recipe"',
        "[]",
        "{}",
        edited(lambda fields: fields.pop("epochs")),
        edited(lambda fields: fields.update(epoch=3)),
        edited(lambda fields: fields.update(epochs="3")),
        edited(lambda fields: fields.update(model="elu_cnn")),
        edited(lambda fields: fields.update(model={"name": "elu_cnn"})),
        edited(lambda fields: fields.update(model={"name": 3, "arguments": {}})),
        edited(lambda fields: fields.update(transforms=None)),
    ],
)
def test_json_of_no_recipe_is_refused(text):
    assert_refused(lambda: Recipe.from_json(text))


# Fields


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": "30"},
        {"epochs": 2.5},
        {"epochs": True},
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"accumulate": 33},
        {"accumulate": 1.5},
        {"select_from_epoch": 0},
        {"validation": 1.0},
        {"validation": "0.1"},
        {"validation": float("nan")},
        {"validation": 10**400},
        {"model": "elu_cnn"},
        {"model": None},
        {"optimizer": None},
        {"transforms": Component("RandomFlip")},
        {"transforms": (Component("RandomFlip"), "MixUp")},
        {"mean": ("a", "b", "c")},
        {"mean": None},
        {"std": None},
        {"pretrained": 3},
        {"pretrained": "a\0b"},
        {"freeze": "stem"},
        {"freeze": (1,)},
        {"unfreeze_epoch": 1.5},
        {"resize": "224"},
        {"center_crop": True},
        {"drop_last": 1},
        {"select_on": "train"},
        {"seed": -1},
        {"seed": 2**64},
        {"data": None},
        {"schedule": "CyclicLR"},
    ],
    ids=str,
)
def test_a_field_of_another_type_or_range_is_refused(changes):
    name = "std" if changes == {"mean": None} else next(iter(changes))
    assert_refused(lambda: Recipe(**arguments(**changes)), name)


def test_a_recipe_does_not_change(recipe):
    with pytest.raises(AttributeError):
        recipe.epochs = 3


# Files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_loads_and_goes_through_json(path):
    recipe = load(path)
    assert isinstance(recipe, Recipe)
    assert Recipe.from_json(recipe.to_json()) == recipe


def written_fields(path):
    """The names in `recipe = Recipe(name=…, …)`, as the file has them."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "recipe":
            assert node.value.func.id == "Recipe"
            return [keyword.arg for keyword in node.value.keywords]
    raise AssertionError(f"{path} assigns no recipe")


NEEDED = {"data", "model", "batch_size", "loss", "optimizer", "epochs", "seed"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_names_what_it_uses_in_the_order_of_the_fields(path):
    written = written_fields(path)
    assert written == [name for name in FIELDS if name in written]
    assert set(written) >= NEEDED
    off = Recipe(**{name: value for name, value in arguments().items() if name in NEEDED})
    recipe = load(path)
    unused = [name for name in written if name not in NEEDED and getattr(recipe, name) == getattr(off, name)]
    assert set(unused) <= {"select_on"}


def test_a_field_that_is_not_named_is_off():
    off = Recipe(**{name: value for name, value in arguments().items() if name in NEEDED})
    assert (off.validation, off.select_on, off.precision, off.select_by) == (0.0, "last", "float32", "accuracy")
    assert (off.evaluate_every, off.evaluate_train, off.tta) == (1, True, "none")
    named = {"select_on", "precision", "select_by", "evaluate_every", "evaluate_train", "tta"}
    others = [name for name in FIELDS if name not in NEEDED | named]
    assert {getattr(off, name) in (None, False, 0, 1, ()) for name in others} == {True}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_is_literal_and_imports_kcifar_recipe_alone(path):
    """A docstring, one import, one assignment: no name, sum or loop to follow."""
    document, imported, assigned = ast.parse(path.read_text()).body
    assert ast.get_docstring(ast.Module([document], []))
    assert imported.module == "kcifar.recipe"
    names = {node.id for node in ast.walk(assigned) if isinstance(node, ast.Name)}
    assert names == {"recipe", "Recipe", "Component"}
    assert not any(isinstance(node, ast.BinOp | ast.comprehension) for node in ast.walk(assigned))


def test_mixup_is_report_b():
    recipe = load(ROOT / "recipes/mixup.py")
    assert (recipe.batch_size, recipe.drop_last, recipe.epochs, recipe.seed) == (32, True, 200, 42)
    assert (recipe.mean, recipe.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert recipe.model == Component("elu_cnn", dropout=0.5)
    assert recipe.optimizer == Component("Adam", learning_rate=2e-3, l2=1e-3)
    assert (recipe.sharpness_aware, recipe.weight_ema) == (None, None)
    assert recipe.transforms == (
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("MixUp", alpha=0.4),
    )
    cycle = recipe.schedule.arguments
    assert (recipe.schedule.name, cycle["mode"]) == ("CyclicLR", "triangular2")
    assert (cycle["base"], cycle["maximum"], cycle["step_size_up"]) == (1e-3, 4e-3, 10)
    assert (recipe.select_on, recipe.select_from_epoch) == ("test", 11)


def different(one, other):
    one, other = load(ROOT / "recipes" / one), load(ROOT / "recipes" / other)
    return {name: getattr(other, name) for name in FIELDS if getattr(one, name) != getattr(other, name)}


def test_elu_cnn_is_mixup_without_mixup_l2_and_cycle():
    assert different("mixup.py", "elu_cnn.py") == {
        "transforms": load(ROOT / "recipes/mixup.py").transforms[:2],
        "optimizer": Component("Adam", learning_rate=2e-3),
        "schedule": None,
    }


def test_mixup_as_run_has_a_constant_rate_and_transforms_drawn_once():
    mixup = load(ROOT / "recipes/mixup.py")
    assert different("mixup.py", "mixup_as_run.py") == {
        "fixed_transforms": mixup.transforms[:2],
        "transforms": mixup.transforms[2:],
        "optimizer": Component("Adam", learning_rate=1e-3, l2=1e-3),
        "schedule": None,
    }


@pytest.mark.parametrize("name", ["resnet50", "resnet152"])
def test_report_cs_larger_networks_see_images_of_32_with_two_hidden_layers(name):
    recipe = load(ROOT / f"recipes/transfer_{name}.py")
    assert recipe.model == Component(name, hidden=(4096, 1024), dropout=(0.5, 0.4))
    assert (recipe.resize, recipe.freeze) == (None, ("stem", "layer1", "layer2"))
    assert recipe.schedule.arguments == {"boundary_epochs": (80, 130), "factors": (1, 0.5, 0.1)}


def test_report_cs_densenet_is_trained_whole_and_its_resnet18_at_224():
    assert [getattr(load(ROOT / "recipes/transfer_densenet169.py"), n) for n in ("resize", "freeze")] == [None, ()]
    assert load(ROOT / "recipes/transfer_resnet18.py").resize == 224


def test_report_as_vgg_starts_from_pytorchs_defaults():
    assert load(ROOT / "recipes/vgg16.py").model.arguments["initial"] == "pytorch"
    assert list(different("vgg16.py", "vgg16_bn.py")) == ["model"]


def test_tutorial_net_is_report_as_baseline():
    recipe = load(ROOT / "recipes/tutorial_net.py")
    assert (recipe.batch_size, recipe.epochs, recipe.transforms, recipe.schedule) == (4, 10, (), None)
    assert (recipe.mean, recipe.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    optimizer = recipe.optimizer.arguments
    assert (recipe.optimizer.name, optimizer["learning_rate"], optimizer["momentum"]) == ("SGD", 0.001, 0.9)
    assert optimizer.get("l2", 0) == 0


def test_the_resnet20_recipes_differ_in_the_optimizer_alone():
    sgd, sam, asam = (load(ROOT / f"recipes/{name}_resnet20.py") for name in ("sgd", "sam", "asam"))
    for other in (sam, asam):
        assert [name for name in FIELDS if getattr(sgd, name) != getattr(other, name)] == ["sharpness_aware"]
    assert sgd.sharpness_aware is None
    assert sam.sharpness_aware == Component("SharpnessAware", rho=0.05)
    assert asam.sharpness_aware == Component("SharpnessAware", rho=0.5, adaptive=True, eta=0.01)


def test_the_files_of_the_resnet20_recipes_differ_in_one_line_and_what_is_said_of_it():
    sgd, sam, asam = (
        (ROOT / f"recipes/{name}_resnet20.py").read_text().split('"""')[2].splitlines()
        for name in ("sgd", "sam", "asam")
    )
    for other in (sam, asam):
        assert [line.split("=")[0].strip() for line in other if line not in sgd] == ["sharpness_aware"]
        assert not [line for line in sgd if line not in other]


def test_asam_resnet18_is_report_es_single_model():
    recipe = load(ROOT / "recipes/asam_resnet18.py")
    assert (recipe.model, recipe.resize) == (Component("resnet18"), 224)
    assert recipe.pretrained == "torchvision/resnet18"
    assert (recipe.batch_size, recipe.optimizer.arguments["learning_rate"]) == (16, 1e-4)
    assert (recipe.loss.name, recipe.schedule.name, recipe.weight_ema.name) == (
        "AsymmetricLoss",
        "WarmupCosine",
        "WeightEMA",
    )
    assert recipe.optimizer.name == "SGD"
    assert recipe.sharpness_aware.arguments["adaptive"]
    assert [t.name for t in recipe.transforms] == ["RandomCrop", "RandomFlip", "ColorJitter", "Cutout"]


MIXUP = (ROOT / "recipes/mixup.py").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe = Recipe(", ["line 1"]),
        ("x = 1\nrecipe = = 3", ["line 2"]),
        ("1 / 0", ["ZeroDivisionError"]),
        ("raise ValueError('two\\nlines')", ["two", "lines"]),
        ("import no_such_module", ["no_such_module"]),
        ("from kcifar import nothing_of_this_name", ["nothing_of_this_name"]),
        ("import sys; sys.exit(3)", []),
        ("", ["recipe"]),
        ("recipes = 3", ["recipe"]),
        ("recipe = 3", ["recipe"]),
        ("recipe = {'epochs': 3}", ["recipe"]),
        ("recipe = None", ["recipe"]),
        (MIXUP.replace("epochs=200", "epochs='200'"), ["epochs", "200"]),
        (MIXUP.replace("epochs=200", "epochs=0"), ["epochs"]),
        (MIXUP.replace("    epochs=200,\n", ""), ["epochs"]),
        (MIXUP.replace("epochs=200", "epoch=200"), ["epoch"]),
        (MIXUP.replace('optimizer=Component("Adam"', 'optimizer=dict(name="Adam"'), ["optimizer"]),
    ],
    ids=range(17),
)
def test_a_file_of_no_recipe_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert_refused(lambda: load(path), "mine.py", *words)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00recipe", b"recipe = 1\x00", b"\x80abc"])
def test_a_file_of_no_text_is_refused(tmp_path, content):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    assert_refused(lambda: load(path), "mine.py")


def test_a_missing_file_is_refused_with_the_nearest(tmp_path):
    (tmp_path / "mixup.py").write_text(MIXUP)
    message = assert_refused(lambda: load(tmp_path / "mixupp.py"), "mixupp.py")
    assert str(tmp_path / "mixup.py") in message


@pytest.mark.parametrize("path", ["no/such/folder/mixup.py", "", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert_refused(lambda: load(path))


def test_a_path_may_be_a_string():
    assert load(str(SHIPPED[0])) == load(SHIPPED[0])


def test_kcifars_own_recipes_are_found_from_anywhere_behind_those_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("recipes/mixup.py") == ROOT / "recipes" / "mixup.py"
    assert load("recipes/mixup.py") == load(ROOT / "recipes/mixup.py")
    assert list(packaged()) == [f"recipes/{path.name}" for path in SHIPPED]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mixup.py").write_text(MIXUP.replace("epochs=200", "epochs=7"))
    assert load("recipes/mixup.py").epochs == 7
    assert "'recipes/elu_cnn.py'" in assert_refused(lambda: load("recipes/elucnn.py"))
    assert "'recipes/mixup.py'" in assert_refused(lambda: load("mixup.py"))


def test_a_recipes_folder_is_on_the_import_path_but_that_of_a_run_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("mine", "run"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "recipe.py").write_text(MIXUP)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    for folder in ("mine", "run", "mine"):
        load(tmp_path / folder / "recipe.py")
    assert sys.path.count(str(tmp_path / "mine")) == 1
    assert str(tmp_path / "run") not in sys.path


# Versions


@pytest.mark.parametrize("folder", sorted(VERSIONS.iterdir()), ids=lambda path: path.name)
def test_recipes_and_runs_of_earlier_versions_mean_the_same(folder):
    """Of each version the recipe of a file, and the recipe.json that its run had."""
    recipe = load(folder / "mixup.py")
    assert Recipe.from_json((folder / "recipe.json").read_text()) == recipe
    assert (recipe.model, recipe.batch_size, recipe.seed) == (Component("elu_cnn", dropout=0.5), 32, 42)
    assert recipe.schedule.name == "CyclicLR"
    assert [t.name for t in recipe.transforms] == ["RandomCrop", "RandomFlip", "MixUp"]
    assert (recipe.select_by, recipe.fixed_transforms, recipe.callbacks) == ("accuracy", (), ())


def test_recipe_json_of_a_newer_version_is_refused():
    text = edited(lambda fields: fields.update(flux_capacitor=3))
    assert_refused(lambda: Recipe.from_json(text), "flux_capacitor", "newer version")


def test_kcifar_recipe_needs_the_standard_library_alone():
    program = """
import sys
before = set(sys.modules)
import kcifar.recipe
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("kcifar.")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    packages, modules = done.stdout.splitlines()
    assert packages == "kcifar"
    assert all(name == "kcifar.errors" or name.startswith("kcifar.recipe") for name in modules.split())
