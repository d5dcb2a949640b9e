"""What a recipe is, how it is loaded from a file, and how overrides change it. Standard library only."""

import ast
import dataclasses
import json
import runpy
import types
import typing
from pathlib import Path

from kcifar.errors import InputError, nearest


class Component:
    """A part of a recipe by name, with the arguments it is built with: `Component("Adam", learning_rate=1e-3)`.

    The name is that of a model, transform, loss, optimizer, schedule or callback; every argument is a literal.
    Prints as it is written in an override: `Adam(learning_rate=0.001)`.
    """

    def __init__(self, name, /, **arguments):
        if not isinstance(name, str):
            raise InputError(f"a component's name is {name!r}; expected a string, as Component('MixUp', alpha=0.2)")
        self.name = name
        self.arguments = arguments

    def __repr__(self):
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"

    def __eq__(self, other):
        return isinstance(other, Component) and (self.name, self.arguments) == (other.name, other.arguments)

    def __hash__(self):
        return hash((self.name, frozenset(self.arguments)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment. Every field is given, so that the `diff` of two recipes is the difference of two experiments.

    Raises:
        InputError: a field has the wrong type or a value outside its range.
    """

    data: str  # what `kcifar.data.load` takes
    validation: float  # fraction of the training images held out, 0 for none; not used where the data have their own
    validation_seed: int  # of the choice which: the same for runs that are to be compared or to vote
    model: Component
    pretrained: str | None  # weights to start from: a file, or a name as "torchvision/resnet18"; None for new ones
    freeze: tuple[str, ...]  # groups of layers that are not trained, of "stem", "layer1" … "layer4" and "head"
    unfreeze_epoch: int | None  # after so many epochs they are trained too; None for never
    mean: tuple[float, ...] | None  # of each channel on the 0–1 scale: the model's first layer; None leaves it out
    std: tuple[float, ...] | None
    resize: int | None  # pixels of the shorter side that the model scales images to first; None leaves them as they are
    center_crop: int | None  # sides of the middle that it then takes; None for all
    transforms: tuple[Component, ...]
    batch_size: int
    drop_last: bool
    loss: Component
    optimizer: Component
    sharpness_aware: Component | None  # SAM or ASAM around the optimizer
    schedule: Component | None  # of the learning rate; None for a constant one
    weight_ema: Component | None  # average of the weights that is evaluated and saved
    epochs: int
    early_stopping: Component | None
    select_on: str  # where the best epoch is chosen: "validation", "test", or "last" for the last epoch, unchosen
    select_from_epoch: int  # the first epoch, counted from 1, that may be chosen
    precision: str  # of the layers' arithmetic: "float32" or "bfloat16"; variables, BatchNorm and loss are float32
    deterministic: bool  # deterministic algorithms on every device
    tensorboard: bool  # write the log for TensorBoard too
    seed: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), field.type))
        for name in ("batch_size", "epochs", "select_from_epoch"):
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("unfreeze_epoch", "resize", "center_crop"):
            _expect(getattr(self, name) is None or getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.unfreeze_epoch is not None and not self.freeze:
            raise InputError(f"unfreeze_epoch is {self.unfreeze_epoch} but freeze is empty: freeze=stem,layer1")
        if self.unfreeze_epoch is not None and self.unfreeze_epoch >= self.epochs:
            raise InputError(
                f"unfreeze_epoch is {self.unfreeze_epoch} of {self.epochs} epochs, so nothing would be unfrozen: "
                "expected fewer than epochs, or none"
            )
        _expect(0 <= self.validation < 1, "validation", self.validation, "a fraction from 0 to below 1")
        for name in ("validation_seed", "seed"):
            _expect(0 <= getattr(self, name) < 2**64, name, getattr(self, name), "an integer from 0 to 2**64 - 1")
        _expect((self.mean is None) == (self.std is None), "std", self.std, "both mean and std, or None for both")
        _expect(self.precision in ("float32", "bfloat16"), "precision", self.precision, "'float32' or 'bfloat16'")
        choices = ("validation", "test", "last")
        _expect(self.select_on in choices, "select_on", self.select_on, "'validation', 'test' or 'last'")

    def override(self, overrides):
        """A new recipe with `overrides` (strings `key=value`) applied, each typed by the field it changes.

        A key is a field (`epochs=30`) or an argument of a component (`optimizer.learning_rate=1e-3`,
        `transforms.MixUp.alpha=0.2`). A component is written as it prints (`optimizer=SGD(learning_rate=0.1)`).
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise InputError(f"override '{override}' has no '='; expected key=value, for example epochs=30")
            _override(fields, key.strip(), text.strip())
        return Recipe(**fields)

    def to_json(self):
        """The recipe as JSON text, components as {"name": …, "arguments": …}."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=vars) + "\n"

    @classmethod
    def from_json(cls, text):
        """The recipe that `to_json` wrote. Raises InputError where the text is no recipe."""
        try:
            fields = json.loads(text, object_hook=_component_from_json)
        except ValueError as error:
            raise InputError(f"recipe.json is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InputError(f"recipe.json holds {fields!r:.40}; expected an object with the recipe's fields")
        return _make(fields, "recipe.json")


def load(path):
    """The recipe that the Python file at `path` defines under the name `recipe`.

    Raises:
        InputError: no such file, it does not parse or run, it defines no `recipe`, or a field is wrong.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = nearest(str(path), map(str, beside)) if beside else "give the path of a recipe, as recipes/mixup.py"
        raise InputError(f"no recipe at '{path}'; {hint}")
    if path.suffix != ".py":
        raise InputError(f"'{path}' is no recipe; expected a Python file, as recipes/mixup.py")
    try:
        names = runpy.run_path(str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: does not parse: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: does not run: {type(error).__name__}: {error}".replace("\n", " ")) from None
    recipe = names.get("recipe")
    if not isinstance(recipe, Recipe):
        found = "nothing" if recipe is None else f"a {type(recipe).__name__}"
        raise InputError(f"{path}: defines {found} as 'recipe'; expected recipe = Recipe(…) from kcifar.recipe")
    return recipe


def _make(fields, where):
    known = [field.name for field in dataclasses.fields(Recipe)]
    unknown = [name for name in fields if name not in known]
    missing = [name for name in known if name not in fields]
    if unknown or missing:
        found = f"unknown fields {unknown}" if unknown else f"fields {missing} are missing"
        raise InputError(f"{where}: {found}; it was written by another version or edited: start a new run")
    return Recipe(**fields)


def _component_from_json(value):
    if set(value) == {"name", "arguments"}:
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in value["arguments"].items()}
        return Component(value["name"], **arguments)
    return value


def _expect(holds, name, value, expected):
    if not holds:
        raise InputError(f"recipe field '{name}' is {value!r}; expected {expected}")


def _typed(name, value, annotation):
    """`value` as the annotation's type, where that loses nothing (3 for 3.0, a list for a tuple); else InputError."""
    for kind in typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,):
        if kind is types.NoneType:
            if value is None:
                return None
        elif typing.get_origin(kind) is tuple:
            if isinstance(value, (list, tuple)):
                return tuple(_typed(name, item, typing.get_args(kind)[0]) for item in value)
        elif kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise InputError(f"recipe field '{name}' is {value!r}, a {type(value).__name__}; expected {_written(annotation)}")


def _override(fields, key, text):
    """Changes one of the fields (values by name)."""
    known = _keys(fields)
    field, _, rest = key.partition(".")
    if key not in known:
        inside = [name for name in known if name.startswith(f"{field}.")]
        others = f" (in {field}: {', '.join(inside)})" if rest and inside else ""
        raise InputError(f"unknown key '{key}'; {nearest(key, known)}{others}")
    current = fields[field]
    if not rest:
        annotation = next(f.type for f in dataclasses.fields(Recipe) if f.name == field)
        fields[field] = _typed_text(key, text, annotation)
    elif isinstance(current, tuple):
        name, _, argument = rest.partition(".")
        fields[field] = tuple(_with_argument(c, key, argument, text) if c.name == name else c for c in current)
    else:
        fields[field] = _with_argument(current, key, rest, text)


def _with_argument(component, key, argument, text):
    """The component with one argument replaced by `text`, typed by the value it replaces."""
    current = component.arguments[argument]
    annotation = {tuple: tuple[object, ...], types.NoneType: object}.get(type(current), type(current))
    return Component(component.name, **{**component.arguments, argument: _typed_text(key, text, annotation)})


def _keys(fields):
    """Every key that an override may name."""
    keys = list(fields)
    for field, value in fields.items():
        if isinstance(value, Component):
            keys += [f"{field}.{argument}" for argument in value.arguments]
        elif field == "transforms":
            keys += [f"{field}.{part.name}.{argument}" for part in value for argument in part.arguments]
    return keys


def _parse(key, text):
    """The value of an override's text: a literal, a component, or a list of these."""
    try:
        return _value(ast.parse({"true": "True", "false": "False", "none": "None"}.get(text, text), mode="eval").body)
    except (SyntaxError, ValueError):
        raise InputError(f"'{key}' is '{text}', neither a literal nor a component") from None


def _typed_text(key, text, annotation):
    if annotation is str or (annotation == str | None and text not in ("none", "None")):
        return text
    if annotation == tuple[str, ...]:
        return _names(text)
    try:
        return _typed(key, _parse(key, text), annotation)
    except InputError:
        raise InputError(f"'{key}' cannot be '{text}'; expected {_written(annotation)}") from None


def _names(text):
    """Of `stem,layer1`, also with the brackets and quotes of Python; none of `none` and `()`."""
    names = [name.strip(" '\"") for name in text.strip("()[] ").split(",")]
    return tuple(name for name in names if name not in ("", "none", "None"))


def _written(annotation):
    """A type as a user would write it."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("kcifar.recipe.", "").replace(" | None", " or none")


def _value(node):
    if isinstance(node, ast.Name):
        return Component(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        names = [word.arg for word in node.keywords]
        if None in names or len(set(names)) < len(names):
            raise ValueError("arguments that are unpacked or given twice")
        return Component(node.func.id, **{word.arg: _value(word.value) for word in node.keywords})
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_value(item) for item in node.elts)
    return ast.literal_eval(node)
