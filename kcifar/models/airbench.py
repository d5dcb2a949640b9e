"""airbench94: a small network that is trained to 94 % in few epochs."""

from keras import layers

from kcifar.errors import InputError
from kcifar.models.initial import identity_uniform, pytorch_uniform

_PATCH = 2  # sides of what the first convolution sees
_ACTIVATIONS = ("silu", "gelu", "relu")


def airbench94(image, classes, seed, widths=(64, 256, 256), activation="gelu", logit_scale=1 / 9, norm_momentum=0.6):
    """Logits of Jordan 2024 (arXiv 2404.00498, section 3 and its program), six 3×3 convolutions behind a 2×2 one.

    The first convolution has 2·2·2·channels filters and a bias, and is meant for `kcifar.models.whiten`, which makes
    its filters the eigenvectors of the training images' patches. Then three blocks of convolution, max-pooling,
    BatchNorm, activation, convolution, BatchNorm, activation; the largest value of each channel over what is left of
    the image; one dense layer without bias. 1,971,352 trained parameters for 10 classes, with the whitening frozen.

    Convolutions have no bias, and start as the identity on the channels of their input. BatchNorm has no scale; its
    offset is meant to learn fast, as by `learning_rate_factors={"*/beta": 64.0}` of kcifar's optimizers. As the images
    are reduced to one value a channel, it takes any size from 9×9 on (with three blocks).

    Layers are named by their group: `stem`, a `layer` for each block, `head`.

    Args:
        image: normalised images (batch, height, width, channels).
        classes: number of logits.
        seed: not used, nothing is random in it.
        widths: filters of the convolutions of each block.
        activation: `gelu` as published, `silu` or `relu`.
        logit_scale: what the dense layer's result is multiplied by.
        norm_momentum: of BatchNorm's moving statistics, low, as a run has few steps.

    Raises:
        InputError: no widths, or another activation.
    """
    if not (isinstance(widths, (tuple, list)) and widths):
        raise InputError(f"widths is {widths!r}; expected a number of filters for each block, as (64, 256, 256)")
    if activation not in _ACTIVATIONS:
        raise InputError(f"activation is {activation!r}; expected one of {', '.join(map(repr, _ACTIVATIONS))}")
    patch = _PATCH**2 * image.shape[-1]
    x = layers.Conv2D(2 * patch, _PATCH, **pytorch_uniform(patch), name="stem_conv")(image)
    x = layers.Activation(activation, name="stem_activation")(x)
    for place, filters in enumerate(widths, start=1):
        x = _block(x, filters, activation, norm_momentum, f"layer{place}")
    x = layers.GlobalMaxPooling2D(name="head_pool")(x)
    start = pytorch_uniform(x.shape[-1])["kernel_initializer"]
    x = layers.Dense(classes, use_bias=False, kernel_initializer=start, dtype="float32", name="head_dense")(x)
    return layers.Rescaling(logit_scale, dtype="float32", name="head_logits")(x)


def _block(x, filters, activation, momentum, name):
    for place in (1, 2):
        start = identity_uniform(9 * x.shape[-1])
        conv = {"padding": "same", "use_bias": False, "kernel_initializer": start, "name": f"{name}_conv{place}"}
        x = layers.Conv2D(filters, 3, **conv)(x)
        if place == 1:
            x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
        norm = {"momentum": momentum, "epsilon": 1e-12, "scale": False, "name": f"{name}_norm{place}"}
        x = layers.BatchNormalization(**norm)(x)
        x = layers.Activation(activation, name=f"{name}_activation{place}")(x)
    return x
