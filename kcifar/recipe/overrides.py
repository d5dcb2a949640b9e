"""Overrides, strings `key=value`: read, typed by the field that they change, and put in its place."""

import ast
import re
import types

from kcifar.errors import SYNONYMS, InputError, nearest
from kcifar.recipe.component import OWN_NAME, Component
from kcifar.recipe.types import typed, written

_SPELLED = {"true": "True", "false": "False", "none": "None"}
_CONSTANTS = (*_SPELLED, *_SPELLED.values())
_MOST_SIGNS = 2**20  # of an override, as of a recipe
LISTS = ("fixed_transforms", "transforms", "callbacks")

_QUOTED_OR_OWN = re.compile(
    r"""(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?<![\w.])(?!True:|False:|None:)""" + OWN_NAME
)


def apply_overrides(fields, annotations, overrides):
    """Changes fields (values by name) as the overrides say; annotations are the fields' types."""
    for override in overrides:
        if len(override) > _MOST_SIGNS:
            found = f"override '{override:.40}…' has {len(override):,} characters"
            raise InputError(f"{found}; expected {_MOST_SIGNS:,} at most")
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"override '{override}' has no '='; expected key=value, for example epochs=30")
        _override(fields, annotations, key.strip(), text.strip())


def _override(fields, annotations, key, text):
    field, dot, rest = key.partition(".")
    current = fields.get(field)
    if field in fields and not dot:
        fields[field] = _typed_text(key, text, annotations[field])
        return
    if field in LISTS:
        # A name may have dots itself: transforms.nets:Blur.radius, transforms.keras.layers:RandomBrightness.factor.
        name, _, argument = rest.rpartition(".")
        if argument.isidentifier() and name in [component.name for component in current]:
            fields[field] = tuple(_with_argument(c, key, argument, text) if c.name == name else c for c in current)
            return
    elif isinstance(current, Component) and rest.isidentifier():
        fields[field] = _with_argument(current, key, rest, text)
        return
    raise InputError(_unknown(key, _keys(fields)))


def value_at(fields, key):
    """What an override of this key changes, in fields that have it; None for an argument that is not given."""
    field, _, rest = key.partition(".")
    current = fields[field]
    if not rest:
        return current
    if field not in LISTS:
        return current.arguments.get(rest)
    name, _, argument = rest.rpartition(".")
    return next(component for component in current if component.name == name).arguments.get(argument)


def _unknown(key, known):
    """The message for a key that there is not: with the nearest, by its last part first."""
    field, dot, _ = key.partition(".")
    inside = [name for name in known if name.startswith(f"{field}.")]
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == SYNONYMS.get(last, last)]
    hint = nearest(key, same, cutoff=0.0) if same else _of_the_optimizer(last) or nearest(key, known)
    if dot and inside:
        others = f"in {field}: {', '.join(inside)}"
        hint = others if hint.startswith("known: ") else f"{hint} ({others})"
    return f"unknown key '{key:.200}'; {hint}"


def _of_the_optimizer(last):
    """What PyTorch's users call by another name, where the recipe does not name it."""
    return f"did you mean 'optimizer.{SYNONYMS[last]}'?" if last in SYNONYMS else ""


def _with_argument(component, key, argument, text):
    """The component with an argument from `text`: typed by the value it replaces, else as it is written. Whether there
    is such an argument is told when the component is made."""
    current = component.arguments.get(argument)
    if current is None and text.isidentifier() and text not in _CONSTANTS:
        value = text
    else:
        annotation = {tuple: tuple[object, ...], types.NoneType: object}.get(type(current), type(current))
        value = _typed_text(key, text, annotation)
    return Component(component.name, **{**component.arguments, argument: value})


def _keys(fields):
    """Every key that is named in the recipe, and so may be overridden without a look at what a component takes."""
    keys = list(fields)
    for field, value in fields.items():
        if isinstance(value, Component):
            keys += [f"{field}.{argument}" for argument in value.arguments]
        elif field in LISTS:
            keys += [f"{field}.{part.name}.{argument}" for part in value for argument in part.arguments]
    return keys


def _typed_text(key, text, annotation):
    if annotation is str or (annotation == str | None and text not in ("none", "None")):
        return text
    if annotation == tuple[str, ...]:
        return _names(text)
    try:
        return typed(key, parse(key, text), annotation)
    except InputError:
        raise InputError(f"'{key}' cannot be '{text:.200}'; expected {written(annotation)}") from None


def _names(text):
    """Of `stem,layer1`, also with the brackets and quotes of Python; none of `none` and `()`."""
    names = [name.strip(" '\"") for name in text.strip("()[] ").split(",")]
    return tuple(name for name in names if name not in ("", "none", "None"))


def parse(key, text):
    """The value of an override's text: a literal, a component, or a list of these."""
    own = {}

    def by_a_plain_name(found):
        if found["quoted"]:
            return found[0]
        own[f"own_part_{len(own)}"] = found[0]
        return f"own_part_{len(own) - 1}"

    text = _SPELLED.get(text, text)
    try:
        return _value(ast.parse(_QUOTED_OR_OWN.sub(by_a_plain_name, text), mode="eval").body, own)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"'{key}' is '{text:.200}', neither a literal nor a component") from None


def _value(node, own):
    if isinstance(node, ast.Name):
        return Component(own.get(node.id, node.id))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        names = [word.arg for word in node.keywords]
        if None in names or len(set(names)) < len(names):
            raise ValueError("arguments that are unpacked or given twice")
        name = own.get(node.func.id, node.func.id)
        return Component(name, **{word.arg: _argument(word.value, own) for word in node.keywords})
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_value(item, own) for item in node.elts)
    return ast.literal_eval(node)


def _argument(node, own):
    """A value in the brackets of a component, where a plain word is text."""
    return node.id if isinstance(node, ast.Name) and node.id not in own else _value(node, own)
