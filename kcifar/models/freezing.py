"""Groups of layers, and which of them are trained."""

import math

import keras

from kcifar.errors import InputError, nearest


def weighted_layers(model):
    """The layers that hold weights, in the model's order, those of models in it among them."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if layer.weights and not isinstance(layer, keras.Model)
    ]


def group_of(layer):
    """The group that a layer is of: its name up to the first underscore."""
    return layer.name.partition("_")[0]


def head_layers(model):
    """The layers with weights of the group that gives the logits."""
    weighted = weighted_layers(model)
    return [layer for layer in weighted if group_of(layer) == group_of(weighted[-1])]


def freeze(model, groups):
    """Layers of these groups are not trained any more: weights stay, and get no gradients.

    Where nothing in front of them is trained either, no backward pass goes through them.

    Their BatchNorm normalises by its moving statistics, also in training, and these stay. The groups of the networks
    for ImageNet are `stem`, `layer1` to `layer4` and `head`. A file that is saved then says which layers are frozen.

    Args:
        model: a built `keras.Model`, changed in place.
        groups: names, or one; a layer's whole name stands for that layer alone.

    Returns:
        (before, after): how many parameters are trained.

    Raises:
        InputError: an unknown group, or nothing would be left to train; nothing is changed then.
    """
    chosen = layers_of(model, groups)
    if not any(layer.trainable and layer.trainable_weights and layer not in chosen for layer in weighted_layers(model)):
        frozen = ", ".join(group_names(groups))
        raise InputError(f"freezing {frozen} of '{model.name}' leaves nothing to train: leave a group out")
    return _set_trainable(model, chosen, False)


def unfreeze(model, groups):
    """Layers of these groups are trained again.

    Args, Returns:
        As of `freeze`.

    Raises:
        InputError: an unknown group.
    """
    return _set_trainable(model, layers_of(model, groups), True)


def layers_of(model, groups):
    """The layers with weights of these groups, or of these names. Raises InputError where there is none of it."""
    weighted, names = weighted_layers(model), group_names(groups)
    known = list(dict.fromkeys(map(group_of, weighted)))
    for name in names:
        if name not in known and name not in [layer.name for layer in weighted]:
            raise InputError(f"'{model.name}' has no group of layers '{name}'; {nearest(name, known)}")
    return [layer for layer in weighted if group_of(layer) in names or layer.name in names]


def group_names(groups):
    """A tuple of names, of several or of one."""
    return (groups,) if isinstance(groups, str) else tuple(groups)


def _set_trainable(model, chosen, value):
    before = trained_parameters(model)
    for layer in chosen:
        layer.trainable = value
    model.train_function = None  # on JAX a compiled step is of the weights that were trained then
    return before, trained_parameters(model)


def trained_parameters(model):
    """How many parameters are trained."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
