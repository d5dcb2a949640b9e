"""From a recipe's components to the objects they name."""

import inspect

import keras

from kcifar import augment, callbacks
from kcifar.errors import InputError, nearest
from kcifar.training import optimizers

_TRANSFORMS = {name: getattr(augment, name) for name in augment.__all__}
_OPTIMIZERS = {"Adam": optimizers.Adam, "SGD": optimizers.SGD}
_SCHEDULES = {"CyclicLR": callbacks.CyclicLR}
_EARLY_STOPPING = {"EarlyStopping": callbacks.EarlyStopping}


def _categorical_crossentropy(label_smoothing=0.0):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


_LOSSES = {"CategoricalCrossentropy": _categorical_crossentropy}


def transform(component):
    """The transform of `kcifar.augment` that the component names."""
    return _make("transform", _TRANSFORMS, component)


def optimizer(component):
    """The optimizer that the component names."""
    return _make("optimizer", _OPTIMIZERS, component)


def loss(component):
    """The loss that the component names, on logits and one-hot labels."""
    return _make("loss", _LOSSES, component)


def schedule(component):
    """The learning-rate callback that the component names."""
    return _make("schedule", _SCHEDULES, component)


def early_stopping(component, monitor):
    """The early-stopping callback that the component names, watching `monitor`."""
    if monitor is None:
        raise InputError("early_stopping needs a figure to watch, but select_on is 'last'; select on 'validation'")
    return _make("early_stopping", _EARLY_STOPPING, component, monitor=monitor)


def _make(kind, known, component, **derived):
    if component.name not in known:
        raise InputError(f"{kind} is '{component.name}', which is unknown; {nearest(component.name, known)}")
    maker = known[component.name]
    signature = inspect.signature(maker)
    names = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD and name not in derived]
    for argument in component.arguments:
        if argument not in names:
            raise InputError(f"{component.name} has no argument '{argument}'; {nearest(argument, names)}")
    for name in names:
        if name not in component.arguments and signature.parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{kind} is {component}; the argument '{name}' is missing")
    try:
        return maker(**component.arguments, **derived)
    except TypeError as error:
        raise InputError(f"{kind} is {component}: {error}") from None
