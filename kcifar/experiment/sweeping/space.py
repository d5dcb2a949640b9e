"""What a sweep varies: overrides with several values or a range, read and checked against the recipe."""

import dataclasses
import hashlib
import itertools
import math
import re

from kcifar.errors import InputError
from kcifar.recipe import Component

MOST = 1000
"""So many seeds, and without --yes so many runs, are not taken for a slip."""

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_LONGEST = 100  # characters of a run's folder


@dataclasses.dataclass(frozen=True)
class Choices:
    """The values that are listed for a key.

    Attributes:
        values: plain ones, as Optuna and JSON take them: of what is none, as a component, the text of its override.
    """

    key: str
    values: tuple

    def __str__(self):
        return f"{self.key}={','.join(map(text_of, self.values))}"

    @property
    def size(self):
        """How many there are."""
        return len(self.values)

    def every(self):
        """Each of them."""
        return self.values

    def has(self, value):
        """Whether a value is one of these."""
        return value in self.values


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; whole ones where both are.

    Attributes:
        log: whether their logarithms are drawn evenly.
    """

    key: str
    low: int | float
    high: int | float
    log: bool

    def __str__(self):
        return f"{self.key}={'log:' * self.log}{self.low!r}..{self.high!r}"

    @property
    def whole(self):
        return isinstance(self.low, int)

    @property
    def size(self):
        """How many numbers there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    def every(self):
        """Each of them, where they are whole."""
        return range(self.low, self.high + 1)

    def has(self, value):
        """Whether a value is one of these."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and (isinstance(value, int) or not self.whole)


@dataclasses.dataclass(frozen=True)
class Space:
    """What is varied.

    Attributes:
        dimensions: `Choices` and `Range`s, in the order given.
        seeds: of each configuration; None where the recipe's own is the only one.
    """

    dimensions: tuple
    seeds: tuple | None

    def __str__(self):
        seeds = [] if self.seeds is None else [f"seed={','.join(map(str, self.seeds))}"]
        return " ".join([*map(str, self.dimensions), *seeds])

    @property
    def sampled(self):
        """Whether there is no end of configurations, so that some are drawn."""
        return any(isinstance(dimension, Range) for dimension in self.dimensions)

    @property
    def names(self):
        """A short name for each key: its last word, where no other has the same."""
        keys = [dimension.key for dimension in self.dimensions]
        last = [key.rpartition(".")[2] for key in keys]
        taken = [*last, "seed"]
        return {key: word if taken.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}

    @property
    def runs(self):
        """How many runs a grid has."""
        return math.prod(len(dimension.values) for dimension in self.dimensions) * len(self.seeds or (None,))

    def has(self, configuration):
        """Whether a configuration is one of these."""
        return all(dimension.has(configuration[dimension.key]) for dimension in self.dimensions)

    @property
    def size(self):
        """How many configurations there are: infinity where a range has fractions."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def configurations(self):
        """Each configuration, a dict of values by key; the last key changes first. None has fractions of a range."""
        keys = [dimension.key for dimension in self.dimensions]
        for values in itertools.product(*(dimension.every() for dimension in self.dimensions)):
            yield dict(zip(keys, values, strict=True))

    def run_name(self, configuration, seed):
        """The name of a run's folder: what it changes, as every file system takes it."""
        names = self.names
        parts = [f"{names[key]}={text_of(value)}" for key, value in configuration.items()]
        parts += [] if seed is None else [f"seed={seed}"]
        name = ",".join(parts)
        safe = re.sub(r"[^\w.+=,-]+", "_", name, flags=re.ASCII).strip("_")
        if safe == name and len(safe) <= _LONGEST:
            return name
        return f"{safe[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def to_json(self):
        """As a dict of plain values."""
        shown = [{"key": each.key, **dataclasses.asdict(each)} for each in self.dimensions]
        return [each | {"values": list(each["values"])} if "values" in each else each for each in shown]


def space_of(recipe, overrides):
    """What overrides vary, and the others.

    Args:
        recipe: as its file says.
        overrides: strings; `key=a,b` lists values (a comma in brackets or quotes is none), `key=LOW..HIGH` and
            `key=log:LOW..HIGH` are ranges of numbers, `seed=0..4` is a list of seeds; all else is the same in all runs.

    Returns:
        A `Space`, the recipe with the other overrides, and these overrides.

    Raises:
        InputError: an unknown key, a value that it cannot be, an empty or reversed range, a value that is listed twice.
    """
    fixed, varied, seeds = [], {}, None
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        pieces = _pieces(text)
        if key == "seed" and (len(pieces) > 1 or ".." in text):
            if seeds is not None:
                raise InputError("the seed is given twice; expected once")
            seeds = tuple(_listed_seeds(pieces) if len(pieces) > 1 else seeds_in(text))
        elif equals and (len(pieces) > 1 or _is_range(recipe, fixed, key, text)):
            if key in varied:
                raise InputError(f"'{key}' is given twice; expected all its values in one list, or one range")
            varied[key] = pieces
        else:
            fixed.append(override)
    fixed += [] if seeds is None else [f"seed={seeds[0]}"]
    base = recipe.override(fixed)
    dimensions = [_choices(base, key, of) if len(of) > 1 else _range(base, key, of[0]) for key, of in varied.items()]
    return Space(tuple(dimensions), seeds), base, fixed[: len(fixed) - (seeds is not None)]


def seeds_in(text):
    """The seeds that `0..4` names, both ends included.

    Raises:
        InputError: it is no such range, or an empty one.
    """
    found = re.fullmatch(r"(\d{1,20})\.\.(\d{1,20})", text)
    if not found or not 0 <= int(found[2]) - int(found[1]) < MOST:
        raise InputError(
            f"seed is '{text}'; expected a number, or a range from the smaller to the greater, of at most {MOST}, "
            "as 0..4"
        )
    return range(int(found[1]), int(found[2]) + 1)


def _listed_seeds(pieces):
    if not all(re.fullmatch(r"\d{1,20}", piece) for piece in pieces) or len(set(map(int, pieces))) < len(pieces):
        raise InputError(
            f"seed is '{','.join(pieces):.80}'; expected numbers, each once, as 0,1,2, or a range, as 0..4"
        )
    return map(int, pieces)


def overrides_of(configuration, seed=None):
    """The overrides that make a configuration, with a seed of its own where there is one."""
    given = [f"{key}={text_of(value)}" for key, value in configuration.items()]
    return given if seed is None else [*given, f"seed={seed}"]


def text_of(value):
    """A plain value as an override has it."""
    return value if isinstance(value, str) else repr(value)


def plain(value):
    """A recipe's value as Optuna and JSON take it: of what is no plain one, the text of its override."""
    if isinstance(value, tuple):
        return f"[{','.join(text_of(plain(each)) for each in value)}]"
    return repr(value) if isinstance(value, Component) else value


def _pieces(text):
    """The text cut at its commas, but those in brackets and quotes."""
    found, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0 and not quote:
            found.append("")
        else:
            found[-1] += sign
    return [piece.strip() for piece in found]


def _is_range(recipe, fixed, key, text):
    """Whether a text is meant as a range: of what cannot be text, as a path with two dots is."""
    if ".." not in text:
        return False
    if text.startswith("log:") or re.fullmatch(rf"{_NUMBER}\.\.{_NUMBER}", text):
        return True
    try:
        return not isinstance(recipe.override([*fixed, f"{key}={text}"]).value(key), str)
    except InputError:
        return True


def _choices(base, key, pieces):
    values = []
    for piece in pieces:
        if piece == "":
            raise InputError(f"'{key}' has an empty value in its list '{','.join(pieces)}'; expected values, as a,b,c")
        if ".." in piece and re.fullmatch(rf"(?:log:)?{_NUMBER}\.\.{_NUMBER}", piece):
            raise InputError(f"'{key}' has the range '{piece}' in a list; expected a list, or one range")
        value = plain(base.override([f"{key}={piece}"]).value(key))
        if value in values:
            raise InputError(f"'{key}' has the value {text_of(value)} twice; expected each once")
        values.append(value)
    return Choices(key, tuple(values))


def _range(base, key, text):
    found = re.fullmatch(rf"(log:)?({_NUMBER})\.\.({_NUMBER})", text)
    if not found:
        base.override([f"{key}=0"])  # which tells of an unknown key first
        raise InputError(
            f"'{key}' is '{text:.80}'; expected a range LOW..HIGH or log:LOW..HIGH of numbers, as 0.1..0.5"
        )
    low, high = (base.override([f"{key}={end}"]).value(key) for end in found.groups()[1:])
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)):
        raise InputError(f"'{key}' is the range {text}, but takes no numbers; expected its values in a list, as a,b")
    if not all(map(math.isfinite, (low, high))):
        raise InputError(f"'{key}' is the range {text}; expected finite numbers")
    if isinstance(low, int) and isinstance(high, int) and "." in key and base.value(key) is None:
        raise InputError(
            f"'{key}' is the range {text}, and the recipe does not say whether it is a whole number: write "
            f"{found[1] or ''}{low}.0..{high}.0 for fractions, or {key}=… in the recipe"
        )
    if isinstance(low, float) or isinstance(high, float):
        low, high = float(low), float(high)
    if low >= high:
        kind = "holds one value" if low == high else "is reversed"
        raise InputError(f"'{key}' is the range {text}, which {kind}; expected LOW..HIGH, the smaller number first")
    if found[1] and low <= 0:
        raise InputError(f"'{key}' is {text}, but logarithms begin above 0; expected LOW above 0, as log:1e-4..1e-1")
    return Range(key, low, high, bool(found[1]))


def expect_size(space, trials, sure):
    """Raises InputError where nothing is varied, `trials` does not fit, or a grid is larger than what people mean."""
    if not space.dimensions and space.seeds is None:
        raise InputError("nothing is varied: give a key several values or a range, as optimizer.learning_rate=0.1,0.01")
    if space.sampled and trials is None:
        ranges = [each.key for each in space.dimensions if isinstance(each, Range)]
        raise InputError(
            f"'{ranges[0]}' is a range, of which values are drawn: say how many by --trials N, or list them"
        )
    if trials is not None and not space.sampled:
        raise InputError(
            "--trials is given, but there is no range to draw from: leave it out, or give one, as log:1e-4..1e-1"
        )
    if trials is not None and trials > space.size:
        raise InputError(
            f"--trials is {trials}, but there are {space.size} configurations: expected as many at most, or lists of "
            "all their values"
        )
    runs = trials * len(space.seeds or (None,)) if space.sampled else space.runs
    if runs > MOST and not sure:
        raise InputError(f"this sweep has {runs:,} runs: add --yes if that is what you want, or fewer values or trials")
