"""The average of models' weights."""

import itertools

import keras
import numpy as np
from keras import layers, ops

from kcifar.errors import InputError


def soup(models, batches):
    """One model whose weights are the mean of those of several (Wortsman et al. 2022, arXiv 2203.05482, uniform soup).

    BatchNorm's moving statistics of an average are not the average of the statistics, so they are found anew: the mean
    of each batch's statistics over all batches, one pass in training mode, as torch.optim.swa_utils.update_bn with a
    loader of equal batches (Izmailov et al. 2018, arXiv 1803.05407, section 3.3). Departure: Keras's variance of a
    batch is the biased one.

    Those of a BatchNorm that is frozen are found anew as well.

    Averages are worth something between models that share the beginning of their training; those of different initial
    weights lie in different basins.

    Args:
        models: of one architecture.
        batches: of training images as the models take them, (images, labels) each, for example `kcifar.data.Batches`.

    Returns:
        A new `keras.Model`.

    Raises:
        InputError: fewer than two models, or of different architectures.
    """
    models = list(models)
    if len(models) < 2:
        raise InputError(f"an average of {len(models)} models; expected at least two")
    for place, model in enumerate(models[1:], start=2):
        _expect_like(models[0], model, place)
    averaged = keras.models.clone_model(models[0])
    averaged.set_weights([_mean(values) for values in zip(*(model.get_weights() for model in models), strict=True)])
    _estimate_statistics(averaged, batches)
    return averaged


def _mean(values):
    # Sums in float64; what is no float (the state of a random generator) is the first one's.
    if not np.issubdtype(values[0].dtype, np.floating):
        return values[0]
    return np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)


def _estimate_statistics(model, batches):
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    if not norms:
        return
    before = [(norm.momentum, norm.trainable) for norm in norms]
    sums = [0.0] * len(norms)
    for norm in norms:
        norm.momentum, norm.trainable = 0.0, True  # the moving statistics then are those of the batch
    forward = keras.Model(model.inputs[0], model.outputs[0])
    for step in range(len(batches)):
        forward(batches[step][0], training=True)
        sums = [total + np.stack(_statistics(norm)) for total, norm in zip(sums, norms, strict=True)]
    for norm, total, settings in zip(norms, sums, before, strict=True):
        norm.momentum, norm.trainable = settings
        for variable, value in zip((norm.moving_mean, norm.moving_variance), total / len(batches), strict=True):
            variable.assign(value.astype("float32"))


def _statistics(norm):
    return [ops.convert_to_numpy(v).astype("float64") for v in (norm.moving_mean, norm.moving_variance)]


def _expect_like(first, model, place):
    pairs = itertools.zip_longest(_layers(first), _layers(model))
    different = next((f"{one} and {two}" for one, two in pairs if one != two), None)
    if different:
        raise InputError(
            f"models 1 and {place} are of different architectures ({different:.300}); expected the same layers"
        )


# What does not change what a layer of given weights computes in inference, but for its rounding.
_OF_NO_MATTER = ("name", "trainable", "seed", "dtype", "build_config")


def _layers(model):
    """Kind, arguments and shapes of each layer that is no model itself."""
    found = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    return [(type(layer).__name__, _arguments(layer), [tuple(w.shape) for w in layer.weights]) for layer in found]


def _arguments(layer):
    config = layer.get_config()
    return {k: v for k, v in config.items() if k not in _OF_NO_MATTER and not k.endswith("_initializer")}
