"""Densely connected networks."""

from keras import layers

from kcifar.models.residual import conv, head, imagenet_stem, norm

_GROWTH = 32  # filters that a layer adds


def densenet121(image, classes, seed, hidden=None, dropout=0.0):
    """`densenet169` with 121 layers: 7,978,856 parameters for 1,000 classes."""
    return _densenet(image, classes, seed, (6, 12, 24, 16), hidden, dropout)


def densenet169(image, classes, seed, hidden=None, dropout=0.0):
    """Logits of DenseNet-169 (Huang et al. 2017, arXiv 1608.06993, table 1): 14,149,480 parameters for 1,000 classes.

    As torchvision's: growth 32, bottlenecks of four times that, a transition halves the filters; kernels start
    He-normal by fan-in, BatchNorm as in `resnet18`. Departure: the head's bias starts uniform as in `resnet18`, there
    it starts at 0. Layers are named by their group: `stem`, `layer1` to `layer4` (a dense block and what is behind it:
    a transition, or the last BatchNorm), `head`.

    Args:
        image: normalised images (batch, height, width, channels), sides of at least 29.
        classes: number of logits.
        seed: of dropout.
        hidden: units of a hidden layer with ReLU before the logits, or of each of several, (4096, 1024); None for none.
        dropout: rate behind the hidden layer, or behind each of several.
    """
    return _densenet(image, classes, seed, (6, 12, 32, 32), hidden, dropout)


def _densenet(image, classes, seed, blocks, hidden, dropout):
    x = imagenet_stem(image, "fan_in")
    for stage, count in enumerate(blocks, start=1):
        for place in range(count):
            x = layers.Concatenate(name=f"layer{stage}_{place}_join")([x, _added(x, f"layer{stage}_{place}")])
        if stage < len(blocks):
            x = _transition(x, f"layer{stage}_transition")
    return head(_activated(x, "layer4"), classes, seed, hidden, dropout)


def _added(x, name):
    """The filters that a layer adds to what it sees: BatchNorm, ReLU and a convolution of 1×1, then of 3×3."""
    x = _conv(_activated(x, name, 1), 4 * _GROWTH, 1, f"{name}_conv1")
    return _conv(_activated(x, name, 2), _GROWTH, 3, f"{name}_conv2")


def _transition(x, name):
    x = _conv(_activated(x, name), x.shape[-1] // 2, 1, f"{name}_conv")
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


def _activated(x, name, place=""):
    return layers.Activation("relu", name=f"{name}_relu{place}")(norm(x, f"{name}_norm{place}"))


def _conv(x, filters, size, name):
    return conv(x, filters, size, 1, name, "fan_in")
