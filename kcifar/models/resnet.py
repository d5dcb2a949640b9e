"""Residual networks."""

import math

from keras import initializers, layers

from kcifar.errors import InputError


def resnet18(image, classes, seed, stem="imagenet"):
    """Logits of He et al. 2016 (arXiv 1512.03385), table 1, 18 layers: 11,689,512 parameters for 1,000 classes.

    As torchvision's: kernels start He-normal by fan-out, BatchNorm has momentum 0.1 (Keras's 0.9) and ε = 1e-5, strided
    convolutions pad alike on all sides. Departure: the moving variance is the biased one, see `elu_cnn`.

    Args:
        image: normalised images (batch, height, width, channels).
        classes: number of logits.
        seed: unused: the net draws nothing when it runs.
        stem: `imagenet`, a 7×7 convolution and a max-pooling, both of stride 2; or `cifar`, a 3×3 convolution of
            stride 1 for images of 32×32.
    """
    if stem == "imagenet":
        x = _conv(image, 64, 7, 2, "stem_conv")
        x = layers.Activation("relu", name="stem_relu")(_norm(x, "stem_norm"))
        x = layers.ZeroPadding2D(1, name="stem_pad")(x)  # after ReLU a zero never wins over what is there
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    elif stem == "cifar":
        x = _conv(image, 64, 3, 1, "stem_conv")
        x = layers.Activation("relu", name="stem_relu")(_norm(x, "stem_norm"))
    else:
        raise InputError(f"resnet18(stem='{stem}'): expected 'imagenet' or 'cifar'")
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            x = _basic_block(x, filters, 2 if stage > 1 and block == 0 else 1, f"layer{stage}_{block}")
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    bound = initializers.RandomUniform(-1 / math.sqrt(512), 1 / math.sqrt(512))
    return layers.Dense(classes, kernel_initializer=bound, bias_initializer=bound, dtype="float32", name="head_logits")(
        x
    )


def _basic_block(x, filters, stride, name):
    """ReLU(x + F(x)), F two 3×3 convolutions with BatchNorm; x goes through a 1×1 where its shape changes."""
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        shortcut = _norm(_conv(x, filters, 1, stride, f"{name}_shortcut_conv"), f"{name}_shortcut_norm")
    x = _norm(_conv(x, filters, 3, stride, f"{name}_conv1"), f"{name}_norm1")
    x = layers.Activation("relu", name=f"{name}_relu1")(x)
    x = _norm(_conv(x, filters, 3, 1, f"{name}_conv2"), f"{name}_norm2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu2")(x)


def _conv(x, filters, size, stride, name):
    """A convolution without bias, padded by size // 2 on all sides."""
    if size > 1 and stride > 1:  # Keras's own "same" would pad more behind
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    he_normal = initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(filters, size, stride, padding, use_bias=False, kernel_initializer=he_normal, name=name)(x)


def _norm(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
