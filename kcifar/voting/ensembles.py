"""Several models as one."""

import keras
import numpy as np
from keras import layers, ops

from kcifar.errors import InputError
from kcifar.evaluation.models import expect_classifier, gives_probabilities, of_both_classes
from kcifar.voting.layer import Voting, expect_mode, member_weights


def ensemble(models, mode="soft", weights=None, image_shape=None):
    """One model of several, whose output is their vote.

    Each member keeps what is in it (normalisation, resizing); images of another size than it takes are scaled to that
    first (bilinear; with antialiasing where they shrink). A soft vote is made of Keras's own layers, so the saved file
    opens in plain Keras; that of a hard vote needs `from kcifar.voting import Voting` first.

    Args:
        models: functional or sequential Keras models, each from one image to (batch, classes) logits, or to
            probabilities, which is tried on two images of noise; one sigmoid is the second of two classes.
        mode, weights: see `kcifar.voting.Voting`.
        image_shape: (height, width, channels) of the images that the ensemble takes; None for what all its members
            take, and (32, 32, 3) where they differ.

    Returns:
        A `keras.Model`: raw images (batch, *image_shape) -> float32 (batch, classes) probabilities. It shares the
        members' layers.

    Raises:
        InputError: fewer than two members, one that is no such model, or of another number of classes.
    """
    models = [of_both_classes(model) for model in models]
    expect_mode(mode)
    if len(models) < 2:
        found = "no members" if not models else "one member"
        raise InputError(f"an ensemble of {found}; expected at least two models")
    for place, model in enumerate(models):
        expect_classifier(model, f"member {place + 1}", image_shape and (None, None, image_shape[-1]))
    image_shape = image_shape or _common_shape(models)
    classes = [model.outputs[0].shape[-1] for model in models]
    if len(set(classes)) > 1:
        raise InputError(f"members have {', '.join(map(str, classes))} classes; expected the same number of all")
    image = keras.Input(image_shape, dtype="float32", name="image")
    probabilities = [_probabilities(model, place, image) for place, model in enumerate(models)]
    return keras.Model(image, _vote(probabilities, mode, weights), name="ensemble")


def _common_shape(models):
    """What all models take; (32, 32, channels) where they take different sizes."""
    shapes = {(*model.inputs[0].shape[1:3], model.inputs[0].shape[3] or 3) for model in models}
    channels = {shape[-1] for shape in shapes}
    if len(channels) > 1:
        raise InputError(
            f"members take images of {' and '.join(map(str, sorted(channels)))} channels; expected the same"
        )
    (shape,) = shapes if len(shapes) == 1 else [(32, 32, *channels)]
    return shape if None not in shape else (32, 32, *channels)


def _vote(probabilities, mode, weights):
    if mode == "hard":
        return Voting(mode, weights, name="voting")(ops.stack(probabilities))
    if weights is None:
        return layers.Average(dtype="float32", name="voting")(probabilities)
    given = member_weights(weights, len(probabilities))
    shares = (given / given.sum()).tolist()
    weighted = [
        layers.Rescaling(share, dtype="float32", name=f"weight{place}")(of_member)
        for place, (share, of_member) in enumerate(zip(shares, probabilities, strict=True), start=1)
    ]
    return layers.Add(dtype="float32", name="voting")(weighted)


def _probabilities(model, place, image):
    name = f"member{place + 1}_{model.name}"
    member = keras.Model(model.inputs[0], model.outputs[0], name=name)
    outputs = member(_scaled(image, model.inputs[0].shape[1:3], f"{name}_resize"))
    if _gives_probabilities(member):
        return outputs
    return layers.Softmax(dtype="float32", name=f"{name}_softmax")(outputs)


def _scaled(image, sides, name):
    if None in sides or tuple(sides) == tuple(image.shape[1:3]):
        return image
    shrinks = min(sides) < min(image.shape[1:3])
    resizing = layers.Resizing(
        *sides, "bilinear", antialias=shrinks, data_format="channels_last", dtype="float32", name=name
    )
    return resizing(image, training=False)  # its own default is True, and would hold for all layers behind it


def _gives_probabilities(model):
    sides = [side or 32 for side in model.inputs[0].shape[1:3]]
    noise = np.random.default_rng(0).uniform(0, 255, (2, *sides, model.inputs[0].shape[-1])).astype("float32")
    return gives_probabilities(model, ops.convert_to_numpy(ops.cast(model(noise, training=False), "float32")))
