"""Weights that a model starts from."""

import dataclasses
import re
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from kcifar import backend
from kcifar.errors import InputError
from kcifar.models.freezing import head_layers, weighted_layers
from kcifar.models.pytorch_names import channel_orders, own_tensors, pytorch_names
from kcifar.models.weight_files import is_keras, read_keras
from kcifar.models.weights import locate, split
from kcifar.output import warn

_LISTED = 20  # names of each kind in an error


@dataclasses.dataclass(frozen=True)
class _Target:
    """Where an array of a file goes.

    Attributes:
        layer: its layer.
        variable: of the layer.
        shape: that the array has in the file.
        to_keras: gives the array the layout of the variable.
    """

    layer: keras.Layer
    variable: keras.Variable
    shape: tuple[int, ...]
    to_keras: Callable = np.asarray


def load_pretrained(model, source):
    """Gives a model the weights of a file or of a published name, BatchNorm's statistics among them.

    PyTorch's files are those of the programs that `kcifar.models.pytorch_names` names, whatever wrapped the network and
    whatever lies beside it. Keras's files are matched by the names of layers, for any model where these differ. Where
    the file is of another number of classes, the layers of the group `head` stay as they are. What a file is, its
    content tells. Where it holds weights and averages of them, the averages are taken, which a warning says.

    Args:
        model: a built `keras.Model`, changed in place.
        source: the path of a file of torch.save, of safetensors, or of Keras's (`.keras`, `.weights.h5`), of which only
            the numbers are read, with `:NAME` behind it where it holds several models (`last.pth:state_dict`); or a
            name: `torchvision/resnet18` (its IMAGENET1K_V1 weights), `torchvision/resnet50.IMAGENET1K_V2`,
            `timm/resnet18.fb_swsl_ig1b_ft_in1k`. What a name stands for is fetched once.

    Returns:
        The names of the layers that stayed as they are.

    Raises:
        InputError: there is no such source, it cannot be fetched, is damaged, or is of another network: tensors that
            are missing, unknown or of another shape are listed. Nothing is changed then.
    """
    path = locate(source)
    if is_keras(path):
        targets, found = _keras_targets(model), read_keras(path)
    else:
        targets, found = _pytorch(model, path, split(source)[1])
    new = _head_of_other_classes(model, targets, found)
    _expect_same(path, model, targets, found)
    for key, target in targets.items():
        target.variable.assign(target.to_keras(found[key]))
    return new


def _keras_targets(model):
    targets = {}
    for layer in weighted_layers(model):
        own = layer._trainable_variables + layer._non_trainable_variables  # not those of layers in it
        for place, variable in enumerate(own):
            if f"{layer.name}/{place}" in targets:
                raise InputError(f"'{model.name}' has several layers '{layer.name}', which a file cannot tell apart")
            targets[f"{layer.name}/{place}"] = _Target(layer, variable, tuple(variable.shape))
    return targets


def _pytorch(model, path, inside):
    """Targets in a model, and the tensors of a file of PyTorch's, both by its names."""
    names = pytorch_names(model)
    targets = {
        f"{names[layer.name]}.{key}": target
        for layer in weighted_layers(model)
        for key, target in _parts(layer, *channel_orders(model, layer.name))
    }
    tensors, (chosen, *others) = backend.read_pytorch(path, inside)
    if others and inside is None:
        how = ", ".join(f"'{path}:{other}'" for other in others)
        warn(f"'{path}' holds several models: taken is '{chosen}'; for another give {how}")
    head = head_layers(model)
    body = [key for key, target in targets.items() if target.layer not in head]
    return targets, own_tensors(path, model, tensors, targets, body)


def _parts(layer, given=None, taken=None):
    """PyTorch's names of what a layer holds, with its targets.

    Args:
        given, taken: the order in which the file has the channels that the layer gives, and takes; None for the same.
    """
    given, taken = (slice(None) if order is None else order for order in (given, taken))
    if isinstance(layer, layers.BatchNormalization):
        parts = zip(("weight", "bias", "running_mean", "running_var"), layer.weights, strict=True)
        return [(key, _Target(layer, variable, tuple(variable.shape), lambda a: a[given])) for key, variable in parts]
    *area, inputs, outputs = layer.kernel.shape
    arranged = (lambda array: array.transpose(2, 3, 1, 0)) if area else _dense_kernel(layer)
    kernel = _Target(layer, layer.kernel, (outputs, inputs, *area), lambda array: arranged(array[given][:, taken]))
    if layer.bias is None:
        return [("weight", kernel)]
    return [("weight", kernel), ("bias", _Target(layer, layer.bias, (outputs,), lambda array: array[given]))]


def _dense_kernel(layer):
    """Behind a Flatten PyTorch counts channels, rows, columns; Keras rows, columns, channels."""
    before = layer._inbound_nodes[0].input_tensors[0]._keras_history.operation
    if not isinstance(before, layers.Flatten):
        return np.transpose
    height, width, channels = before.input.shape[1:]
    return lambda array: array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, len(array))


def _head_of_other_classes(model, targets, found):
    """The layers of the head, where the file's has other classes. Both then have nothing of the head any more."""
    head = head_layers(model)
    bias = [key for key, target in targets.items() if target.layer is head[-1]][-1]
    if bias not in found or found[bias].ndim != 1 or found[bias].shape == targets[bias].shape:
        return []
    groups = {_group_of_key(key) for key, target in targets.items() if target.layer in head}
    for entries in (targets, found):
        for key in [key for key in entries if _group_of_key(key) in groups]:
            del entries[key]
    return [layer.name for layer in head]


def _group_of_key(key):
    """`fc` of fc.bias, `classifier` of classifier.0.bias, `head` of head_hidden/1."""
    return re.split(r"[._/]", key)[0]


def _expect_same(path, model, targets, found):
    reshaped = [
        (key, f" is {found[key].shape}, here {target.shape}")
        for key, target in targets.items()
        if key in found and found[key].shape != target.shape
    ]
    kinds = {
        "missing": [(key, "") for key in targets if key not in found],
        "unknown": [(key, "") for key in found if key not in targets],
        "of another shape": reshaped,
    }
    different = [f"{kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys]
    if different:
        raise InputError(
            f"'{path}' holds weights of another network than '{model.name}': build that one, or give another file; "
            + "; ".join(different)
        )
    broken = [(key, "") for key in targets if not np.isfinite(found[key]).all()]
    if broken:
        raise InputError(f"'{path}' holds values that are no finite numbers, give another file: {_listed(broken)}")


def _listed(keys):
    """Of keys, and what is said of each. A file's may hold line breaks and codes that a terminal obeys."""
    said = [(key if key.isprintable() else repr(key)) + about for key, about in keys[:_LISTED]]
    rest = len(keys) - _LISTED
    return ", ".join(said) + (f" and {rest} more" if rest > 0 else "")
