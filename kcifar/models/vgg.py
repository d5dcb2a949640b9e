"""VGG."""

from keras import layers

from kcifar.errors import InputError
from kcifar.models.initial import he_normal, normal, pytorch_uniform
from kcifar.models.residual import norm

_BLOCKS = {  # convolutions of 3×3 with so many filters, then a max-pooling
    "stem": (64, 64),
    "layer1": (128, 128),
    "layer2": (256, 256, 256),
    "layer3": (512, 512, 512),
    "layer4": (512, 512, 512),
}


def vgg16(image, classes, seed, batch_norm=False, hidden=4096, dropout=0.5, initial="torchvision"):
    """Logits of Simonyan & Zisserman 2015 (arXiv 1409.1556), table 1, column D: 13 convolutions, 3 dense layers.

    As torchvision's, but without the pooling to 7×7 before its classifier: 138,357,544 parameters for 1,000 classes at
    224×224; at 32×32 the convolutions leave one pixel, and it has 33,638,218 for 10. BatchNorm as in `resnet18`.

    Layers are named by their group: the five blocks are `stem` and `layer1` to `layer4`, then `head`.

    Args:
        image: normalised images (batch, height, width, channels), sides of at least 32.
        classes: number of logits.
        seed: of dropout.
        batch_norm: BatchNorm behind every convolution.
        hidden: units of the two hidden layers, each with ReLU and dropout.
        dropout: their rate.
        initial: values that it starts from: `torchvision`, kernels of convolutions He-normal by fan-out, those of dense
            layers normal with deviation 0.01, biases 0; or `pytorch`, PyTorch's defaults, all uniform in ±1/√fan_in.

    Raises:
        InputError: another `initial`.
    """
    if initial not in ("torchvision", "pytorch"):
        raise InputError(f"initial is '{initial}'; expected 'torchvision' or 'pytorch'")
    x = image
    for group, block in _BLOCKS.items():
        for place, filters in enumerate(block, start=1):
            x = _conv(x, filters, batch_norm, initial, group, place)
        x = layers.MaxPooling2D(2, name=f"{group}_pool")(x)
    x = layers.Flatten(name="head_flatten")(x)
    for place in (1, 2):
        x = layers.Dense(hidden, activation="relu", **_dense_start(x, initial), name=f"head_hidden{place}")(x)
        x = layers.Dropout(dropout, seed=(seed + place) % 2**31, name=f"head_dropout{place}")(x)
    return layers.Dense(classes, **_dense_start(x, initial), dtype="float32", name="head_logits")(x)


def _dense_start(x, initial):
    if initial == "pytorch":
        return pytorch_uniform(x.shape[-1])
    return {"kernel_initializer": normal(0.01)}


def _conv(x, filters, batch_norm, initial, group, place):
    start = pytorch_uniform(9 * x.shape[-1]) if initial == "pytorch" else {"kernel_initializer": he_normal("fan_out")}
    x = layers.Conv2D(filters, 3, padding="same", **start, name=f"{group}_conv{place}")(x)
    if batch_norm:
        x = norm(x, f"{group}_norm{place}")
    return layers.Activation("relu", name=f"{group}_relu{place}")(x)
