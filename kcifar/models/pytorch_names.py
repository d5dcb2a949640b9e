"""What torchvision and timm call the layers of the networks that kcifar has too."""

import re

from keras import layers

from kcifar.errors import InputError
from kcifar.models.freezing import weighted_layers

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet152")
_DENSENETS = ("densenet121", "densenet169")
# Where the layer that gives the logits is, and those before it.
_HEADS = {"head_hidden1": "classifier.0", "head_hidden2": "classifier.3", "head_logits": "classifier.6"}

_OF_TIMMS_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def pytorch_names(model):
    """torchvision's name of each layer with weights, by its own name.

    Raises:
        InputError: a network that torchvision does not have.
    """
    own = [layer.name for layer in weighted_layers(model)]
    try:
        if model.name in _RESNETS:
            return {name: _of_resnet(name) for name in own}
        if model.name in _DENSENETS:
            return {name: _of_densenet(name) for name in own}
        if model.name == "vgg16":
            of_vgg = _of_vgg(model)
            return {name: of_vgg[name] for name in own}
    except (ValueError, KeyError):  # a name that is built otherwise, or unknown
        raise InputError(
            f"the model '{model.name}' has other layers than that of kcifar.models.build: give a file of Keras's"
        ) from None
    known = ", ".join((*_RESNETS, *_DENSENETS, "vgg16"))
    raise InputError(f"the model is '{model.name}'; PyTorch's weights are known for {known}: give a file of Keras's")


def published_form(tensors):
    """Tensors under the names, and of the shapes, that torchvision's networks have.

    They may bear the prefix that DataParallel writes, the names that DenseNets had in PyTorch 0.3 (as torchvision still
    publishes them), or those of timm's VGG, whose dense layers are convolutions. BatchNorm's count of batches, which
    nothing reads, is left out.
    """
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    renamed = {_renamed(name.removeprefix(prefix)): value for name, value in tensors.items()}
    return {
        name: value.reshape(len(value), -1) if name.startswith("classifier.") and value.ndim == 4 else value
        for name, value in renamed.items()
        if not name.endswith("num_batches_tracked")
    }


def _renamed(name):
    name = re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
    layer, _, part = name.rpartition(".")
    return f"{_OF_TIMMS_VGG[layer]}.{part}" if layer in _OF_TIMMS_VGG else name


def _of_resnet(name):
    known = {"stem_conv": "conv1", "stem_norm": "bn1", "head_logits": "fc"}
    if name in known or name.startswith("head"):
        return known.get(name, name)
    layer, place, part = name.split("_", 2)
    part = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}.get(part, part.replace("norm", "bn"))
    return f"{layer}.{place}.{part}"


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
