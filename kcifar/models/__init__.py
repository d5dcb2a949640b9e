"""Models: stock Keras, functional, logits out. One family a file."""

import contextlib
import inspect

import keras
import numpy as np
from keras import layers

from kcifar import geometry
from kcifar.errors import InputError, nearest
from kcifar.models.airbench import airbench94
from kcifar.models.densenet import densenet121, densenet169
from kcifar.models.elu_cnn import elu_cnn
from kcifar.models.freezing import freeze, unfreeze
from kcifar.models.initial import draw_initial_values
from kcifar.models.pretrained import load_pretrained
from kcifar.models.resnet import resnet18, resnet20, resnet34, resnet50, resnet56, resnet152
from kcifar.models.sizes import first_sentences, why_not
from kcifar.models.tutorial_net import tutorial_net
from kcifar.models.vgg import vgg16
from kcifar.models.whitening import whiten
from kcifar.models.wide_resnet import wrn28_2, wrn28_10

__all__ = ["FAMILIES", "around", "build", "freeze", "load_pretrained", "unfreeze", "whiten"]

FAMILIES = {
    family.__name__: family
    for family in (
        tutorial_net,
        elu_cnn,
        vgg16,
        resnet18,
        resnet34,
        resnet50,
        resnet152,
        densenet121,
        densenet169,
        resnet20,
        resnet56,
        wrn28_2,
        wrn28_10,
        airbench94,
    )
}
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(
    name,
    classes=10,
    input_shape=(32, 32, 3),
    mean=None,
    std=None,
    seed=0,
    precision=None,
    resize=None,
    center_crop=None,
    **options,
):
    """A model by name: a functional `keras.Model` of stock layers that gives logits.

    Args:
        name: `tutorial_net`, `elu_cnn`, `vgg16`; `resnet18`, `resnet34`, `resnet50`, `resnet152`, `densenet121`,
            `densenet169`; `resnet20`, `resnet56`, `wrn28_2`, `wrn28_10`; `airbench94`.
        classes: number of logits.
        input_shape: (height, width, channels) of an image.
        mean, std: of each channel on the 0–1 scale: a normalisation comes first and the model takes 0–255.
            None leaves it out, and the model takes what the caller has normalised.
        seed: of the initial values, which are drawn on the host (the same on every backend), and of dropout.
        precision: of the layers' arithmetic, `float32` or `bfloat16` (Keras's policy `mixed_bfloat16`: the variables,
            BatchNorm's statistics, the normalisation and the logits stay float32). None for Keras's current policy.
        resize: pixels that the shorter side of an image is scaled to first; None leaves it as it is. So is
            `kcifar.augment.Resize`, but in the model, which takes the images as they come.
        center_crop: then, sides of the middle that is cut out of it, see `kcifar.augment.CenterCrop`; None for all.
        options: of the family, see its function.

    Returns:
        The model: (batch, *input_shape) of any real dtype -> (batch, classes) logits.

    Raises:
        InputError: an unknown name, option or precision, or an image too small for the network or the crop.
    """
    if name not in FAMILIES:
        raise InputError(f"unknown model '{name}'; {nearest(name, FAMILIES)}")
    family = FAMILIES[name]
    known = list(inspect.signature(family).parameters)[3:]
    for option in options:
        if option not in known:
            raise InputError(
                f"unknown option '{option}' of {name}; {nearest(option, known) if known else 'it has none'}"
            )
    with _conventions(precision):
        image, x = _front(input_shape, resize, center_crop, mean, std)
        try:
            model = keras.Model(image, family(x, classes, seed, **options), name=name)
        except (TypeError, ValueError) as error:  # Keras's own, of too small an image or an option out of range
            asked = f"{name}(classes={classes}, {options}) for images {x.shape[1:]}"
            raise InputError(f"{asked} cannot be built: {why_not(error)}") from None
    draw_initial_values(model, seed)
    return model


def around(make, name, classes, input_shape, mean=None, std=None, precision=None, resize=None, center_crop=None):
    """A model of anybody's behind the layers that `build` puts in front of kcifar's own.

    Args:
        make: a function of (height, width, channels), those behind the resizing, that makes a `keras.Model` from one
            such image to logits.
        name: what it is called in errors.
        others: see `build`.

    Returns:
        The model: (batch, *input_shape) of any real dtype -> (batch, classes) float32 logits.

    Raises:
        InputError: what is made is no such model, or cannot be called.
    """
    with _conventions(precision):
        image, x = _front(input_shape, resize, center_crop, mean, std)
        inner = make(tuple(x.shape[1:]))
        if not isinstance(inner, keras.Layer):
            raise InputError(f"model is {name}, which makes a {type(inner).__name__}; expected a keras Model")
        try:
            logits = inner(x)
        except Exception as error:  # whatever the layers of a model that is not kcifar's raise
            raise InputError(
                f"model is {name}, which fails on images {x.shape[1:]}: {first_sentences(error)}"
            ) from None
        shape = getattr(logits, "shape", None)
        if shape != (None, classes):
            found = f"{shape}" if shape else f"a {type(logits).__name__}"
            raise InputError(f"model is {name}, which gives {found}; expected logits (batch, {classes})")
        logits = layers.Activation("linear", dtype="float32", name="logits")(logits)
    return keras.Model(image, logits, name=inner.name)


def _front(input_shape, resize, center_crop, mean, std):
    """The image as it comes in, and as it is behind resizing, crop and normalisation."""
    image = keras.Input(input_shape, dtype="float32", name="image")
    return image, _normalised(_cropped(_resized(image, resize), center_crop), mean, std)


@contextlib.contextmanager
def _conventions(precision):
    """Layers made inside have Keras's dtype policy for this precision, and images with their channels last.

    So they do whatever a `keras.json` in the user's home says.
    """
    if precision not in (None, *_POLICIES):
        raise InputError(f"precision is '{precision}'; expected one of {', '.join(_POLICIES)}, or None")
    before = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy(_POLICIES.get(precision, before[0]))
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_image_data_format(before[1])


def _resized(image, size):
    if size is None:
        return image
    _expect_known_sides(image)
    geometry.expect_pixels("resize", size)
    shape = image.shape[1:3]
    wanted, shrinks = geometry.resized(shape, size), size < min(shape)
    resizing = layers.Resizing(*wanted, "bilinear", antialias=shrinks, dtype="float32", name="resize")
    return resizing(image, training=False)  # its own default is True, and would hold for all layers behind it


def _expect_known_sides(image):
    if None in image.shape[1:3]:
        raise InputError(f"input_shape is {image.shape[1:]}; expected known sides where images are resized or cropped")


def _cropped(image, size):
    if size is None:
        return image
    _expect_known_sides(image)
    geometry.expect_pixels("center_crop", size)
    margins = geometry.margins(image.shape[1:3], size)
    return layers.Cropping2D(margins, dtype="float32", name="center_crop")(image)


def _normalised(image, mean, std):
    """(image/255 − mean) / std as a stock layer, in float32 whatever the precision: 0–255 needs more than bfloat16."""
    if mean is None and std is None:
        return image
    if mean is None or std is None:
        raise InputError(f"mean is {mean} and std is {std}; expected both, or None for both")
    channels = image.shape[-1]
    if not (np.ndim(mean) == np.ndim(std) == 1 and len(mean) == len(std) == channels):
        kind = {1: "1 channel, grey", 3: "3 channels, RGB"}.get(channels, f"{channels} channels")
        example = f"({', '.join(['0.5'] * channels)}{',' * (channels == 1)})"
        raise InputError(
            f"mean is {mean} and std {std}, but the images have {kind}; expected a value for each channel, as"
            f' "mean={example}" "std={example}"'
        )
    if min(std) <= 0:
        raise InputError(f"std is {std}; expected positive values")
    mean = [255 * value for value in mean]
    variance = [(255 * value) ** 2 for value in std]
    return layers.Normalization(mean=mean, variance=variance, dtype="float32", name="normalization")(image)
