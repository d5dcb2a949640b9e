"""From a recipe's components to the objects they name."""

import functools
import inspect

import keras
import numpy as np
from keras import ops

from kcifar import augment, callbacks, models
from kcifar.errors import SYNONYMS, InputError, nearest, one_line
from kcifar.experiment import own_parts
from kcifar.recipe import Component
from kcifar.training import optimizers, schedules
from kcifar.training.losses import AsymmetricLoss
from kcifar.training.muon import Muon
from kcifar.training.sharpness_aware import SharpnessAware


def _categorical_crossentropy(label_smoothing=0.0):
    """Cross-entropy of the softmax of the logits, of labels that may be smoothed."""
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


def _asymmetric(gamma_pos=0.0, gamma_neg=4.0, label_smoothing=0.1):
    """The single-label asymmetric loss, which counts easy wrong classes less."""
    return AsymmetricLoss(gamma_pos, gamma_neg, label_smoothing)


# Schedules have their lengths in epochs here; each maker gives a function of the optimizer's learning rate, the number
# of epochs, and the steps in one.


@functools.wraps(callbacks.CyclicLR)
def _cyclic(**arguments):
    cycle = callbacks.CyclicLR(**arguments)
    return lambda rate, epochs, steps: cycle.schedule(steps)


def _warmup_cosine(warmup_epochs=0.0, final=0.0):
    """From 0 up to the learning rate, then half a cosine down to `final` times it at the end of the run."""
    return lambda rate, epochs, steps: schedules.WarmupCosine(rate, epochs * steps, round(warmup_epochs * steps), final)


def _warmup_linear(warmup_epochs=0.0, start_factor=0.0, end_factor=0.0):
    """Linear from `start_factor` times the learning rate up to it, then down to `end_factor` times it at the end."""
    return lambda rate, epochs, steps: schedules.WarmupLinear(
        rate, epochs * steps, round(warmup_epochs * steps), start_factor, end_factor
    )


def _step_decay(decay_epochs, gamma=0.1):
    """Times `gamma` every `decay_epochs`."""
    return lambda rate, epochs, steps: schedules.StepDecay(rate, round(decay_epochs * steps), gamma)


def _piecewise(boundary_epochs, factors):
    """The learning rate times one of `factors`, the next from each of `boundary_epochs` on."""
    return lambda rate, epochs, steps: schedules.PiecewiseConstant(
        rate, [round(epoch * steps) for epoch in boundary_epochs], factors
    )


def _one_cycle(up_epochs, start_divisor=25.0, final_divisor=1e4, shape="cosine"):
    """Up to the learning rate in `up_epochs`, and down to the end of the run."""
    return lambda rate, epochs, steps: schedules.OneCycle(
        rate, epochs * steps, round(up_epochs * steps), start_divisor, final_divisor, shape
    )


def _whitening(images=5000, epsilon=5e-4, bias_epochs=None):
    """The first convolution whitens patches of so many training images; its bias is trained for some epochs, or all."""
    if not (isinstance(images, int) and images >= 1):
        raise InputError(f"Whitening(images={images!r}): expected a whole number of training images, at least 1")
    if not (bias_epochs is None or (isinstance(bias_epochs, int) and bias_epochs >= 0)):
        raise InputError(f"Whitening(bias_epochs={bias_epochs!r}): expected a whole number of epochs, or None for all")

    def whiten(model, train):
        conv = models.whiten(model, train.images[:images], epsilon)
        if bias_epochs == 0:
            conv.trainable = False
        return callbacks.Freeze(bias_epochs, conv.name) if bias_epochs else None

    return whiten


KINDS = {
    "model": models.FAMILIES,
    "whitening": {"Whitening": _whitening},
    "transform": {name: getattr(augment, name) for name in augment.TRANSFORMS},
    "image_size": {"ImageSizes": augment.ImageSizes},
    "loss": {"CategoricalCrossentropy": _categorical_crossentropy, "AsymmetricLoss": _asymmetric},
    "optimizer": {"Adam": optimizers.Adam, "SGD": optimizers.SGD, "Muon": Muon},
    "sharpness_aware": {"SharpnessAware": SharpnessAware},
    "schedule": {
        "CyclicLR": _cyclic,
        "WarmupCosine": _warmup_cosine,
        "WarmupLinear": _warmup_linear,
        "StepDecay": _step_decay,
        "PiecewiseConstant": _piecewise,
        "OneCycle": _one_cycle,
    },
    "weight_ema": {"WeightEMA": callbacks.WeightEMA},
    "early_stopping": {"EarlyStopping": callbacks.EarlyStopping},
    "callback": {},
    "part": {},
}
"""What each kind of component may be, makers by name; besides these, anybody's `package.module:Name`."""


# What `models.build` takes from the recipe's other fields and the data.
_DERIVED = ("classes", "input_shape", "mean", "std", "seed", "precision", "resize", "center_crop")


def model(component, **given):
    """The model that the component names, see `kcifar.models.build`, of kcifar's or of anybody's maker.

    A maker of one's own gets `classes` and `input_shape` (behind the resizing) where it takes them, and gives a
    `keras.Model` from images to logits.

    Args:
        given: `classes`, `input_shape`, `mean`, `std`, `seed`, `precision`, `resize`, `center_crop`.
    """
    for name in _DERIVED:
        if name in component.arguments:
            raise InputError(f"model is {component}: '{name}' follows from the recipe and the data, not from the model")
    if not component.is_own:
        return models.build(component.name, **given, **component.arguments)
    del given["seed"]  # its layers draw by Keras's generators, which `plan` has seeded

    def make(input_shape):
        return _make("model", component, classes=given["classes"], input_shape=input_shape)

    return models.around(make, str(component), **given)


def transform(component):
    """The transform that the component names: of `kcifar.augment`, a layer of Keras, one of Albumentations, or own."""
    made = _make("transform", component)
    try:
        return augment.adapted(made)
    except InputError as error:
        raise InputError(f"transform is {component}: {error}") from None


def whitening(component):
    """A function of a model and the training split that whitens the model's first convolution (`kcifar.models.whiten`).

    It gives the callback that ends the training of its bias; None where that is not trained, or always.
    """
    return _make("whitening", component)


def image_size(component):
    """What gives an epoch's `Resize`, see `kcifar.augment.ImageSizes`."""
    made = _make("image_size", component)
    if not callable(made):
        raise InputError(
            f"image_size is {component}, which makes a {type(made).__name__}; expected a function from an epoch to a "
            "transform"
        )
    return made


def optimizer(component):
    """The optimizer that the component names."""
    return _expect("optimizer", component, _make("optimizer", component), keras.optimizers.Optimizer)


def loss(component, importing=True):
    """The loss that the component names, on logits and one-hot labels; a maker of one's own gets `from_logits=True`.

    Args:
        importing: whether a module that is not kcifar's may be imported for it.
    """
    made = _make("loss", component, importing, **({"from_logits": True} if component.is_own else {}))
    smoothing = getattr(made, "label_smoothing", 0)
    # What Keras takes here, and the first step would not.
    if not (isinstance(smoothing, (int, float)) and 0 <= smoothing <= 1):
        raise InputError(f"loss is {component}, with label_smoothing={smoothing}; expected from 0 to 1")
    if not component.is_own:
        return made
    if getattr(made, "from_logits", True) is False:
        raise InputError(f"loss is {component}, of probabilities; the model gives logits: leave from_logits out")
    _expect("loss", component, made, keras.losses.Loss)
    try:
        value = float(made(ops.convert_to_tensor(np.eye(3, dtype="float32")), ops.zeros((3, 3))))
    except Exception as error:  # whatever the backend raises on shapes that it does not take
        raise InputError(f"loss is {component}, which fails on one-hot labels and logits: {one_line(error)}") from None
    if not np.isfinite(value):
        raise InputError(f"loss is {component}, which is {value} on logits of 0; expected a finite number")
    return made


def schedule(component):
    """A function of (learning rate, epochs, steps in one) that gives the schedule that the component names.

    A maker of one's own gets, where it takes them, `learning_rate` or `initial_learning_rate`, `epochs`,
    `steps_per_epoch`, and `total_steps` or `decay_steps`, those of the run.
    """
    if component.is_own:
        return functools.partial(_own_schedule, component)
    schedule_of = _make("schedule", component)

    def checked(*arguments):
        try:
            return schedule_of(*arguments)
        except (TypeError, OverflowError) as error:  # what rounding and comparing raise on values of other types
            raise InputError(f"schedule is {component}: {error}") from None

    return checked


def _own_schedule(component, rate, epochs, steps):
    of_run = {
        **dict.fromkeys(("learning_rate", "initial_learning_rate"), rate),
        **dict.fromkeys(("total_steps", "decay_steps"), epochs * steps),
        "epochs": epochs,
        "steps_per_epoch": steps,
    }
    made = _make("schedule", component, **of_run)
    return _expect("schedule", component, made, keras.optimizers.schedules.LearningRateSchedule)


def sharpness_aware(component, model, accumulate):
    """The model in what the component names, whose batches pass through it in so many parts."""
    return _make("sharpness_aware", component, model=model, accumulate=accumulate)


def weight_ema(component):
    """The callback that the component names."""
    return _make("weight_ema", component)


def early_stopping(component, monitor, every):
    """The early-stopping callback that the component names, watching `monitor`, which there is after `every` epochs."""
    if monitor is None:
        raise InputError("early_stopping needs a figure to watch, but select_on is 'last'; select on 'validation'")
    return _make("early_stopping", component, monitor=monitor, every=every)


def callback(component):
    """The callback that the component names, kcifar's, Keras's or anybody's."""
    return _expect("callback", component, _make("callback", component), keras.callbacks.Callback)


def _expect(kind, component, made, wanted):
    if not isinstance(made, wanted):
        raise InputError(
            f"{kind} is {component}, which makes a {type(made).__name__}; expected a keras {wanted.__name__}"
        )
    return made


def _make(kind, component, importing=True, **derived):
    """What the component's maker makes of its arguments, and of those that are derived from the rest of the recipe."""
    maker = _maker(kind, component.name, importing)
    parameters = _parameters(maker)
    if component.is_own:
        derived = {n: v for n, v in derived.items() if n in (parameters or ()) and n not in component.arguments}
    if parameters is not None:
        _expect_arguments(kind, component, parameters, derived)
    arguments = {name: _built(value) for name, value in component.arguments.items()}
    if not component.is_own:
        try:
            return maker(**arguments, **derived)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{kind} is {component}: {one_line(error)}") from None
    try:
        return maker(**arguments, **derived)
    except Exception as error:  # whatever a part that is not kcifar's raises
        where, text = own_parts.where(error), f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{kind} is {component}, which fails ({where}): {text}") from None


def _maker(kind, name, importing):
    if ":" in name:
        return own_parts.find(name, kind, importing)
    if not KINDS[kind]:
        raise InputError(f"{kind} is '{name}'; expected package.module:Name, as keras.callbacks:TerminateOnNaN")
    if name not in KINDS[kind]:
        raise InputError(f"{kind} is '{name}', which is unknown; {nearest(name, KINDS[kind])}")
    return KINDS[kind][name]


def _parameters(maker):
    """The parameters of a maker by name; None where it does not tell."""
    try:
        return inspect.signature(maker).parameters
    except ValueError:
        return None


def _expect_arguments(kind, component, parameters, derived):
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [name for name, p in parameters.items() if p.kind not in several and name not in derived]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in component.arguments:
        if argument not in names and (not takes_any or SYNONYMS.get(argument) in names):
            hint = nearest(argument, names) if names else "it takes none"
            raise InputError(f"{component.name} has no argument '{argument}'; {hint}")
    for name in names:
        if name not in component.arguments and parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{kind} is {component}; the argument '{name}' is missing")


def _built(value):
    """An argument, with the components in it made: a transform of Albumentations has others in its Compose."""
    if isinstance(value, Component):
        return _make("part", value)
    return tuple(map(_built, value)) if isinstance(value, tuple) else value
