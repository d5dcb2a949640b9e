"""What tells recipes apart, written as overrides."""

import dataclasses

from kcifar.errors import InputError
from kcifar.recipe.component import Component


def differences(recipes, but=()):
    """The keys whose values are not the same in all recipes, with the value of each recipe as an override writes it.

    A key is an argument, as "optimizer.learning_rate", where the recipes name the same component there with the same
    arguments; else it is a field.

    Args:
        recipes: at least one.
        but: fields that do not count.

    Returns:
        A dict of lists of strings.
    """
    found = {}
    for field in dataclasses.fields(recipes[0]):
        values = [getattr(recipe, field.name) for recipe in recipes]
        if field.name not in but and any(value != values[0] for value in values):
            found |= _parts(field.name, values)
    return {key: list(map(written, values)) for key, values in found.items()}


def overrides_between(recipe, other):
    """The overrides that make `other` of `recipe`: as few as there are fields and arguments that differ."""
    found = []
    for field in dataclasses.fields(recipe):
        value = getattr(other, field.name)
        if value != getattr(recipe, field.name):
            parts = _parts(field.name, [getattr(recipe, field.name), value])
            by_argument = [f"{key}={written(values[1])}" for key, values in parts.items()]
            fits = _gives(recipe, by_argument, field.name, value)
            found += by_argument if fits else [f"{field.name}={written(value)}"]
    return found


def written(value):
    """A value as an override writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parts(key, values):
    """The values by field, or by argument where that says enough."""
    if all(isinstance(value, tuple) for value in values):
        named = [[part.name for part in value if isinstance(part, Component)] for value in values]
        alike = all(names == named[0] and len(names) == len(value) for names, value in zip(named, values, strict=True))
        if alike and len(set(named[0])) == len(named[0]):
            places = [_parts(f"{key}.{name}", [v[place] for v in values]) for place, name in enumerate(named[0])]
            if not any(f"{key}.{name}" in part for name, part in zip(named[0], places, strict=True)):
                return {name: found for part in places for name, found in part.items()}
    elif all(isinstance(value, Component) for value in values) and _alike(values):
        arguments = [value.arguments for value in values]
        return {
            f"{key}.{name}": [each[name] for each in arguments]
            for name in arguments[0]
            if any(each[name] != arguments[0][name] for each in arguments)
        }
    return {key: values}


def _alike(components):
    """Whether they are of one name and take the same arguments."""
    first = components[0]
    return all(part.name == first.name and set(part.arguments) == set(first.arguments) for part in components)


def _gives(recipe, overrides, name, value):
    """Whether overrides give a field that value: an argument takes the type of the one that it replaces."""
    try:
        return getattr(recipe.override(overrides), name) == value
    except InputError:
        return False
