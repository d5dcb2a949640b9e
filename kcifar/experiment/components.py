"""From a recipe's components to the objects they name."""

import functools
import inspect

import keras

from kcifar import augment, callbacks
from kcifar.errors import InputError, nearest
from kcifar.training import optimizers, schedules
from kcifar.training.losses import AsymmetricLoss
from kcifar.training.sharpness_aware import SharpnessAware

_TRANSFORMS = {name: getattr(augment, name) for name in augment.__all__}
_OPTIMIZERS = {"Adam": optimizers.Adam, "SGD": optimizers.SGD}
_SHARPNESS_AWARE = {"SharpnessAware": SharpnessAware}
_WEIGHT_EMA = {"WeightEMA": callbacks.WeightEMA}
_EARLY_STOPPING = {"EarlyStopping": callbacks.EarlyStopping}


def _categorical_crossentropy(label_smoothing=0.0):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


def _asymmetric(gamma_pos=0.0, gamma_neg=4.0, label_smoothing=0.1):
    return AsymmetricLoss(gamma_pos, gamma_neg, label_smoothing)


_LOSSES = {"CategoricalCrossentropy": _categorical_crossentropy, "AsymmetricLoss": _asymmetric}


# Schedules have their lengths in epochs here; each maker gives a function of the optimizer's learning rate, the number
# of epochs, and the steps in one.


@functools.wraps(callbacks.CyclicLR)
def _cyclic(**arguments):
    cycle = callbacks.CyclicLR(**arguments)
    return lambda rate, epochs, steps: cycle.schedule(steps)


def _warmup_cosine(warmup_epochs=0.0, final=0.0):
    return lambda rate, epochs, steps: schedules.WarmupCosine(rate, epochs * steps, round(warmup_epochs * steps), final)


def _step_decay(decay_epochs, gamma=0.1):
    return lambda rate, epochs, steps: schedules.StepDecay(rate, round(decay_epochs * steps), gamma)


def _piecewise(boundary_epochs, factors):
    return lambda rate, epochs, steps: schedules.PiecewiseConstant(
        rate, [round(epoch * steps) for epoch in boundary_epochs], factors
    )


def _one_cycle(up_epochs, start_divisor=25.0, final_divisor=1e4, shape="cosine"):
    return lambda rate, epochs, steps: schedules.OneCycle(
        rate, epochs * steps, round(up_epochs * steps), start_divisor, final_divisor, shape
    )


_SCHEDULES = {
    "CyclicLR": _cyclic,
    "WarmupCosine": _warmup_cosine,
    "StepDecay": _step_decay,
    "PiecewiseConstant": _piecewise,
    "OneCycle": _one_cycle,
}


# What `models.build` takes from the recipe's other fields and the data.
_DERIVED = ("classes", "input_shape", "mean", "std", "seed", "precision", "resize", "center_crop")


def model_options(component):
    """The options of a model's family that the component gives."""
    for name in _DERIVED:
        if name in component.arguments:
            raise InputError(f"model is {component}: '{name}' follows from the recipe and the data, not from the model")
    return component.arguments


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
    """A function of (learning rate, epochs, steps in one) that gives the schedule that the component names."""
    schedule_of = _make("schedule", _SCHEDULES, component)

    def checked(*arguments):
        try:
            return schedule_of(*arguments)
        except (TypeError, OverflowError) as error:  # what rounding and comparing raise on values of other types
            raise InputError(f"schedule is {component}: {error}") from None

    return checked


def sharpness_aware(component, model):
    """The model in what the component names."""
    return _make("sharpness_aware", _SHARPNESS_AWARE, component, model=model)


def weight_ema(component):
    """The callback that the component names."""
    return _make("weight_ema", _WEIGHT_EMA, component)


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
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for argument in component.arguments:
        if argument not in names and not takes_any:
            raise InputError(f"{component.name} has no argument '{argument}'; {nearest(argument, names)}")
    for name in names:
        if name not in component.arguments and signature.parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{kind} is {component}; the argument '{name}' is missing")
    try:
        return maker(**component.arguments, **derived)
    except TypeError as error:
        raise InputError(f"{kind} is {component}: {error}") from None
