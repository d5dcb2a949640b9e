"""A model for images of other sizes, of the same layers."""

import re

import keras

from kcifar.errors import InputError


def image_for(model, shape):
    """An input for images of a (height, width, channels), in the place of the model's own."""
    return keras.Input(shape, dtype=model.input.dtype, name=model.input.name)


def _called(layer, *args, **kwargs):
    return layer(*args, **kwargs)


def through(model, image, call=_called):
    """What a functional model's own layers give of another input, each of them called by `call(layer, …)`."""
    uncompiled = keras.Model(model.input, model.output)  # else Keras would make its loss and optimizer again
    return keras.models.clone_model(uncompiled, image, clone_function=lambda layer: layer, call_function=call).output


def of_shapes(model, shapes):
    """The model for images of several shapes, of the same layers.

    Args:
        model: a functional `keras.Model` of one image.
        shapes: (height, width, channels) of each.

    Returns:
        A model of images of any size.

    Raises:
        InputError: it cannot take one of them.
    """
    for shape in shapes:
        try:
            through(model, image_for(model, shape))
        except (ValueError, TypeError) as error:  # Keras's own
            sides = f"{shape[0]}×{shape[1]}"
            raise InputError(f"'{model.name}' cannot take images of {sides} pixels: {why_not(error)}") from None
    image = image_for(model, (None, None, shapes[0][-1]))
    return keras.Model(image, through(model, image), name=model.name)


def why_not(error):
    """What Keras says of images that a model cannot take, in one line."""
    told = first_sentences(error)
    if "size would be zero or negative" in told:
        return "they are too small for it; scale them up, as by resize=32, or take a smaller network"
    return told


def first_sentences(error):
    """What Keras says in one line, without its colours and the list of what a layer was called with."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(plain.partition("Arguments received by")[0].split())
