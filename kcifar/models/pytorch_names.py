"""What PyTorch's programs call the layers of the networks that kcifar has too.

torchvision and timm: ResNet-18 to -152, DenseNets, VGG-16. kuangliu/pytorch-cifar: the ResNets of these with a stem for
CIFAR. akamaster/pytorch_resnet_cifar10: ResNet-20 and -56. xternalz/WideResNet-pytorch, and RobustBench: WRN-28.
"""

import re

import numpy as np
from keras import layers

from kcifar import backend
from kcifar.errors import InputError
from kcifar.models.freezing import weighted_layers
from kcifar.output import warn

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet152")
_DENSENETS = ("densenet121", "densenet169")
_CIFAR_RESNETS = ("resnet20", "resnet56")
_WIDE_RESNETS = ("wrn28_2", "wrn28_10")
_WRAPPERS = r"(?:module|model|net|network|_orig_mod|backbone|encoder)\."
_INNER_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Where the layer that gives the logits is, and those before it.
_HEADS = {"head_hidden1": "classifier.0", "head_hidden2": "classifier.3", "head_logits": "classifier.6"}

_OF_TIMMS_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def pytorch_names(model):
    """PyTorch's name of each layer with weights, by its own name.

    Raises:
        InputError: a network of which no names are known.
    """
    own = [layer.name for layer in weighted_layers(model)]
    try:
        if model.name in _RESNETS:
            return {name: _of_resnet(name) for name in own}
        if model.name in _CIFAR_RESNETS:
            return {name: _of_resnet(name).replace("fc", "linear") for name in own}
        if model.name in _WIDE_RESNETS:
            return {name: _of_wide_resnet(name) for name in own}
        if model.name in _DENSENETS:
            return {name: _of_densenet(name) for name in own}
        if model.name == "vgg16":
            of_vgg = _of_vgg(model)
            return {name: of_vgg[name] for name in own}
    except (ValueError, KeyError):  # a name that is built otherwise, or unknown
        raise InputError(
            f"the model '{model.name}' has other layers than that of kcifar.models.build: give a file of Keras's"
        ) from None
    known = ", ".join((*_RESNETS, *_DENSENETS, "vgg16", *_CIFAR_RESNETS, *_WIDE_RESNETS))
    raise InputError(f"the model is '{model.name}'; PyTorch's weights are known for {known}: give a file of Keras's")


def own_tensors(path, model, tensors, known, names):
    """Of what is in a file the tensors of one network, under the names that `pytorch_names` gives.

    Wrappers put a prefix before every name, and others behind it: DataParallel `module.`, torch.compile `_orig_mod.`,
    Lightning what the attribute is called. Where it holds the network twice, as weights and their averages, these
    are taken, and it is said. Names may be those that DenseNets had in PyTorch 0.3 (as torchvision still publishes
    them), those of timm's VGG, whose dense layers are convolutions, or kuangliu's of ResNets. Other tensors without
    a dimension, as BatchNorm's count of batches, are left out.

    Args:
        path: of the file, for messages.
        model: that they are for.
        tensors: NumPy arrays by name.
        known: names of the model's tensors, as `pytorch_names` gives them.
        names: those but for the head's.
    """
    renamed = {_renamed(name, model): value for name, value in tensors.items()}
    prefixes = _prefixes(renamed, names)
    if len(prefixes) > 1:
        chosen = next(filter(backend.is_averaged, prefixes), prefixes[0])
        others = ", ".join(f"'{prefix or 'no prefix'}'" for prefix in prefixes if prefix != chosen)
        warn(f"'{path}' holds the network several times: taken is '{chosen or 'no prefix'}', not {others}")
        prefixes = [chosen]
    prefix = prefixes[0] if prefixes else _common_prefix(renamed)
    found = {name.removeprefix(prefix): value for name, value in renamed.items() if name.startswith(prefix)}
    return {
        name: value.reshape(len(value), -1) if name.startswith("classifier.") and value.ndim == 4 else value
        for name, value in found.items()
        if value.ndim or name in known
    }


def _prefixes(tensors, names):
    """What stands before all of these names, where they are all there: nothing, or something that ends with a point."""
    names = list(names)
    if not names:
        return []
    found = [name.removesuffix(names[0]) for name in tensors if name == names[0] or name.endswith(f".{names[0]}")]
    return [prefix for prefix in found if all(prefix + name in tensors for name in names)]


def _common_prefix(tensors):
    """The names of wrappers before every name, of a network that is not the expected one."""
    prefix = ""
    while tensors and all(re.match(re.escape(prefix) + _WRAPPERS, name) for name in tensors):
        prefix += re.match(_WRAPPERS, next(iter(tensors))[len(prefix) :])[0]
    return prefix


def _renamed(name, model):
    name = _INNER_WRAPPERS.sub(r"\1", name)
    name = re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
    if model.name in _RESNETS:
        name = re.sub(r"(^|\.)linear\.(\w+)$", r"\1fc.\2", name.replace(".shortcut.", ".downsample."))
    for of_timm, published in _OF_TIMMS_VGG.items():
        name = re.sub(rf"(^|\.){re.escape(of_timm)}\.", rf"\1{published}.", name)
    return name


def channel_orders(model, name):
    """Where the channels of a file's kernel are, of those that it gives and those that it takes; None where they are.

    akamaster's ResNets for CIFAR pad the channels of a shortcut with zeros on both sides, kcifar's behind: the same
    network, but for the order of the channels behind stages 2 and 3.
    """
    if model.name not in _CIFAR_RESNETS:
        return None, None
    behind = {"layer1": None, "layer2": _order(None, 32), "layer3": None}
    behind["layer3"] = _order(behind["layer2"], 64)
    before = {"layer2": None, "layer3": behind["layer2"]}
    if name == "head_logits":
        return None, behind["layer3"]
    layer, _, rest = name.partition("_")
    if layer not in behind:
        return None, None
    block, _, part = rest.partition("_")
    if part == "conv1":
        return None, (before.get(layer) if block == "0" else behind[layer])
    return (behind[layer] if part in ("conv2", "norm2") else None), None


def _order(inner, channels):
    """Of a stage's channels: first those of the stage before, in its order, then the zeros, in that of the file."""
    quarter = channels // 4
    taken = (np.arange(channels // 2) if inner is None else inner) + quarter
    return np.concatenate([taken, np.setdiff1d(np.arange(channels), taken)])


def _of_resnet(name):
    known = {"stem_conv": "conv1", "stem_norm": "bn1", "head_logits": "fc"}
    if name in known or name.startswith("head"):
        return known.get(name, name)
    layer, place, part = name.split("_", 2)
    part = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}.get(part, part.replace("norm", "bn"))
    return f"{layer}.{place}.{part}"


def _of_wide_resnet(name):
    known = {"stem_conv": "conv1", "layer3_norm": "bn1", "head_logits": "fc"}
    if name in known:
        return known[name]
    layer, block, part = name.split("_", 2)
    part = {"1_norm": "bn1", "2_norm": "bn2", "shortcut_conv": "convShortcut"}.get(part, part)
    return f"{layer.replace('layer', 'block')}.layer.{block}.{part}"


def _of_densenet(name):
    known = {
        "stem_conv": "features.conv0",
        "stem_norm": "features.norm0",
        "layer4_norm": "features.norm5",
        "head_logits": "classifier",
    }
    if name in known or name.startswith("head"):
        return known.get(name, name)
    layer, place, part = name.split("_")
    block = layer.removeprefix("layer")
    if place == "transition":
        return f"features.transition{block}.{part}"
    return f"features.denseblock{block}.denselayer{int(place) + 1}.{part}"


def _of_vgg(model):
    """Counted through all that torchvision's `features` holds."""
    counted = (layers.Conv2D, layers.BatchNormalization, layers.Activation, layers.MaxPooling2D)
    features = [layer for layer in model._flatten_layers() if isinstance(layer, counted)]
    names = {layer.name: f"features.{place}" for place, layer in enumerate(features) if layer.weights}
    return names | _HEADS
