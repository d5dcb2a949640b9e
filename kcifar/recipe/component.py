"""A part of a recipe by name, with the arguments it is built with."""

import re

from kcifar.errors import InputError

_NAME = r"[A-Za-z_]\w*"
OWN_NAME = rf"{_NAME}(?:\.{_NAME})*:{_NAME}"
_MOST_BITS = 128


def expect_writable(name, value):
    """Raises InputError where a whole number in a value is so large that Python does not write it as text."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise InputError(f"'{name}' is a whole number of {value.bit_length():,} bits; expected {_MOST_BITS} at most")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for item in value if isinstance(value, (list, tuple, set)) else ():
        expect_writable(name, item)


def _expect_literal(name, value):
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            _expect_literal(name, item)
    elif not (value is None or isinstance(value, (bool, int, float, str, Component))):
        found = f"{value!r:.60}, a {type(value).__name__}"
        raise InputError(
            f"'{name}' is {found}; expected a number, text, None, True, False, a component, or a list of these"
        )


class Component:
    """A part of a recipe by name, with the arguments it is built with: `Component("Adam", learning_rate=1e-3)`.

    The name is that of one of kcifar's models, transforms, losses, optimizers, schedules or callbacks, or
    `package.module:Name` of anybody's, as `Component("nets:small", width=64)` or `Component("keras.optimizers:AdamW",
    learning_rate=1e-3)`. Every argument is a literal, or again a component.
    Prints as it is written in an override: `Adam(learning_rate=0.001)`.

    Raises:
        InputError: the name is no string, or has a colon and is no `package.module:Name`; an argument is no literal of
            those that JSON can hold, or a vast number.
    """

    def __init__(self, name, /, **arguments):
        if not isinstance(name, str):
            raise InputError(f"a component's name is {name!r}; expected a string, as Component('MixUp', alpha=0.2)")
        if ":" in name and not re.fullmatch(OWN_NAME, name):
            raise InputError(f"a component's name is '{name}'; expected one of kcifar's, or package.module:Name")
        for argument, value in arguments.items():
            expect_writable(argument, value)
            _expect_literal(argument, value)
        self.name = name
        self.arguments = arguments

    @property
    def is_own(self):
        """Whether it is a `package.module:Name`, not one of kcifar's."""
        return ":" in self.name

    def __repr__(self):
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"

    def __eq__(self, other):
        return isinstance(other, Component) and (self.name, self.arguments) == (other.name, other.arguments)

    def __hash__(self):
        return hash((self.name, frozenset(self.arguments)))

    def to_json(self):
        """As `from_json` reads it."""
        return {"name": self.name, "arguments": self.arguments}

    @classmethod
    def from_json(cls, value):
        """The component that an object of a JSON text stands for; the object, where it is none."""
        if set(value) == {"name", "arguments"}:
            arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in value["arguments"].items()}
            return cls(value["name"], **arguments)
        return value
