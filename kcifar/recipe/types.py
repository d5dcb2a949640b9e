"""Values of a recipe's fields: of the type that the field has, or refused."""

import contextlib
import types
import typing

from kcifar.errors import InputError
from kcifar.recipe.component import expect_writable

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "values by name, as {'*/beta': 64.0}",
    object: "a literal",
    types.NoneType: "none",
}
_PLURALS = {float: "numbers", str: "words", object: "literals"}


def typed(name, value, annotation):
    """`value` as the annotation's type, where that loses nothing (3 for 3.0, a list for a tuple); else InputError."""
    expect_writable(name, value)
    for kind in typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,):
        if kind is types.NoneType:
            if value is None:
                return None
        elif typing.get_origin(kind) is tuple:
            if isinstance(value, (list, tuple)):
                return tuple(typed(name, item, typing.get_args(kind)[0]) for item in value)
        elif kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
                    return float(value)
        elif kind is str:
            if isinstance(value, str) and "\0" not in value:  # which no path can hold
                return value
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise InputError(f"recipe field '{name}' is {value!r}; expected {written(annotation)}")


def written(annotation):
    """A type in words."""
    if isinstance(annotation, types.UnionType):
        return " or ".join(map(written, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        return f"a list of {_PLURALS.get(typing.get_args(annotation)[0], 'components, as [Name(argument=value)]')}"
    return _WORDS.get(annotation, "a component, as Name(argument=value)")
