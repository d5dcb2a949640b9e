"""A recipe: the fields of an experiment, checked."""

import dataclasses
import json

from kcifar.errors import InputError, nearest
from kcifar.recipe.component import Component
from kcifar.recipe.overrides import apply_overrides, value_at
from kcifar.recipe.types import typed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment. A recipe names what it uses, in this order; a field that has a default is off with it.

    So the `diff` of two recipes is the difference of two experiments, and a recipe of today means the same when there
    are more fields.

    Raises:
        InputError: a field has the wrong type or a value outside its range.
    """

    data: str  # what `kcifar.data.load` takes
    validation: float = 0.0  # fraction of the training images held out, where the data have no validation images
    validation_seed: int = 0  # of the choice which: the same for runs that are to be compared or to vote
    model: Component
    pretrained: str | None = None  # weights to start from: a file, or a name as "torchvision/resnet18"
    freeze: tuple[str, ...] = ()  # groups of layers that are not trained, of "stem", "layer1" … "layer4" and "head"
    unfreeze_epoch: int | None = None  # after so many epochs they are trained too; None for never
    mean: tuple[float, ...] | None = None  # of each channel on the 0–1 scale: the model's first layer; None: no such
    std: tuple[float, ...] | None = None
    resize: int | None = None  # pixels of the shorter side that the model scales images to first
    center_crop: int | None = None  # sides of the middle that it then takes; None for all
    whitening: Component | None = None  # of image patches, by the first convolution; None: filters that are trained
    fixed_transforms: tuple[Component, ...] = ()  # drawn once for each image, before the first epoch
    transforms: tuple[Component, ...] = ()  # drawn anew for each batch, behind the fixed ones
    image_size: Component | None = None  # that images are scaled to behind them, by epoch; None: as they are
    batch_size: int
    accumulate: int = 1  # parts that a batch passes through the model in, one after another, on less memory
    drop_last: bool = False
    loss: Component
    optimizer: Component
    sharpness_aware: Component | None = None  # SAM or ASAM around the optimizer
    schedule: Component | None = None  # of the learning rate; None for a constant one
    weight_ema: Component | None = None  # average of the weights that is evaluated and saved
    epochs: int
    evaluate_every: int | None = 1  # epochs after which the splits are evaluated, and after the last; None: that alone
    evaluate_train: bool = True  # the training split too; the validation split always, the test split where it selects
    early_stopping: Component | None = None
    callbacks: tuple[Component, ...] = ()  # further callbacks of `fit`
    select_on: str = "last"  # where the best epoch is chosen: "validation", "test", or "last" for the last, unchosen
    select_by: str = "accuracy"  # by what: "accuracy" or "loss"
    select_from_epoch: int = 1  # the first epoch, counted from 1, that may be chosen
    tta: str = (
        "none"  # views of each test image in the figures of the end, beside the image itself: "flip", "flip+shift"
    )
    precision: str = "float32"  # of the layers' arithmetic, or "bfloat16"; variables, BatchNorm and loss are float32
    deterministic: bool = False  # deterministic algorithms on every device
    tensorboard: bool = False  # write the log for TensorBoard too
    seed: int

    def __new__(cls, **fields):
        if fields:  # a copy gives none, and fills them in
            _expect_fields(cls, fields)
        return super().__new__(cls)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, typed(field.name, getattr(self, field.name), field.type))
        _expect(self.data != "", "data", self.data, "a source, as auto or a path")
        for name in ("batch_size", "accumulate", "epochs", "select_from_epoch"):
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.accumulate > self.batch_size:
            raise InputError(
                f"accumulate is {self.accumulate}, but a batch has {self.batch_size} images (batch_size): expected "
                "from 1 to that, as a part needs an image"
            )
        for name in ("unfreeze_epoch", "resize", "center_crop", "evaluate_every"):
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
        for name, choices in _CHOICES.items():
            expected = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
            _expect(getattr(self, name) in choices, name, getattr(self, name), expected)

    def override(self, overrides):
        """A new recipe with `overrides` (strings `key=value`) applied, each typed by the field it changes.

        A key is a field (`epochs=30`) or an argument of a component (`optimizer.learning_rate=1e-3`,
        `transforms.MixUp.alpha=0.2`). A component is written as it prints (`optimizer=SGD(learning_rate=0.1)`).
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        apply_overrides(fields, {field.name: field.type for field in dataclasses.fields(self)}, overrides)
        return Recipe(**fields)

    def value(self, key):
        """What an override with this key has put there, or would change."""
        return value_at({field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, key)

    def components(self):
        """Every component that it names, those in the arguments of others among them."""
        waiting, found = [getattr(self, field.name) for field in dataclasses.fields(self)], []
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, Component):
                found.append(value)
                waiting += value.arguments.values()
            elif isinstance(value, tuple):
                waiting += value
        return found

    def to_json(self):
        """The recipe as JSON text, components as {"name": …, "arguments": …}."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=Component.to_json) + "\n"

    @classmethod
    def from_json(cls, text):
        """The recipe that `to_json` wrote, in this version or an earlier one. Raises InputError where it is none."""
        try:
            fields = json.loads(text, object_hook=Component.from_json)
        except RecursionError:
            raise InputError("recipe.json is nested too deep") from None
        except ValueError as error:
            raise InputError(f"recipe.json is not JSON ({error}): start a new run with --out") from None
        if not isinstance(fields, dict):
            raise InputError(f"recipe.json holds {fields!r:.40}, no recipe: start a new run with --out")
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise InputError(
                f"recipe.json has unknown fields {unknown}; it was edited, or written by a newer version of kcifar: "
                "update kcifar, or start a new run"
            )
        missing = [n for n, field in known.items() if n not in fields and field.default is dataclasses.MISSING]
        if missing:
            raise InputError(f"recipe.json: fields {missing} are missing; it was edited: start a new run")
        return cls(**fields)


VIEWS = ("none", "flip", "flip+shift")
"""Names of what `kcifar.evaluation.test_time` shows of an image."""
_CHOICES = {
    "select_on": ("validation", "test", "last"),
    "select_by": ("accuracy", "loss"),
    "tta": VIEWS,
    "precision": ("float32", "bfloat16"),
}


def _expect_fields(cls, given):
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise InputError(f"there is no recipe field '{name}'; {nearest(name, fields)}")
    missing = [name for name, field in fields.items() if name not in given and field.default is dataclasses.MISSING]
    if missing:
        raise InputError(f"the recipe has no {', no '.join(missing)}: add what is missing")


def _expect(holds, name, value, expected):
    if not holds:
        raise InputError(f"recipe field '{name}' is {value!r}; expected {expected}")
