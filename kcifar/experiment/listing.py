"""What there is to name in a recipe."""

import ast
import inspect

from kcifar import recipe
from kcifar.experiment.components import KINDS

_OWN = {
    "models": "keras.applications:MobileNetV2(weights=None, classifier_activation=None), nets:small(width=64)",
    "transforms": "keras.layers:RandomBrightness(factor=0.2), albumentations:HorizontalFlip(p=0.5)",
    "losses": "keras.losses:CategoricalFocalCrossentropy()",
    "optimizers": "keras.optimizers:AdamW(learning_rate=0.001)",
    "schedules": "keras.optimizers.schedules:CosineDecay()",
    "callbacks": "keras.callbacks:ReduceLROnPlateau(monitor='validation_loss')",
}
_KINDS = {"models": "model", "transforms": "transform", "losses": "loss", "optimizers": "optimizer"} | {
    "schedules": "schedule",
    "callbacks": "callback",
}
# What comes from other fields and the data.
_GIVEN = ("image", "classes", "seed", "monitor", "model", "name")


def listing(kind):
    """What there is of a kind ("recipes", "models", …) as text: names with arguments and defaults, and a line each."""
    if kind == "recipes":
        return "\n".join(f"{name}\n    {_first_line(_docstring(path))}" for name, path in recipe.packaged().items())
    lines = [f"{_call(name, maker)}\n    {_first_line(maker.__doc__)}" for name, maker in KINDS[_KINDS[kind]].items()]
    return "\n".join([*lines, f"and anybody's, by package.module:Name, as {_OWN[kind]}"])


def _call(name, maker):
    parameters = inspect.signature(maker).parameters.values()
    shown = [str(p.replace(annotation=p.empty)) for p in parameters if p.name not in _GIVEN]
    return f"{name}({', '.join(shown)})"


def _first_line(text):
    return (text or "").strip().partition("\n")[0]


def _docstring(path):
    return ast.get_docstring(ast.parse(path.read_bytes()))
