"""Residual networks."""

from keras import layers

from kcifar.errors import InputError
from kcifar.models.residual import conv, head, norm


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
        x = conv(image, 64, 7, 2, "stem_conv")
        x = layers.Activation("relu", name="stem_relu")(norm(x, "stem_norm"))
        x = layers.ZeroPadding2D(1, name="stem_pad")(x)  # after ReLU a zero never wins over what is there
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    elif stem == "cifar":
        x = conv(image, 64, 3, 1, "stem_conv")
        x = layers.Activation("relu", name="stem_relu")(norm(x, "stem_norm"))
    else:
        raise InputError(f"resnet18(stem='{stem}'): expected 'imagenet' or 'cifar'")
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        x = _stage(x, filters, 1 if stage == 1 else 2, 2, _projected, f"layer{stage}")
    return head(x, classes)


def resnet20(image, classes, seed):
    """Logits of He et al. 2016 (arXiv 1512.03385), section 4.2, n = 3: 269,722 parameters for 10 classes.

    The paper's form for CIFAR: three stages of 16, 32 and 64 filters, and shortcuts without parameters (its option A):
    every second pixel, and zeros behind the channels. All else as in `resnet18`.

    Args:
        image: normalised images (batch, height, width, channels).
        classes: number of logits.
        seed: unused: the net draws nothing when it runs.
    """
    return _resnet_for_cifar(image, classes, 3)


def resnet56(image, classes, seed):
    """`resnet20` with n = 9 blocks in a stage: 853,018 parameters for 10 classes."""
    return _resnet_for_cifar(image, classes, 9)


def _resnet_for_cifar(image, classes, blocks):
    x = conv(image, 16, 3, 1, "stem_conv")
    x = layers.Activation("relu", name="stem_relu")(norm(x, "stem_norm"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        x = _stage(x, filters, 1 if stage == 1 else 2, blocks, _subsampled, f"layer{stage}")
    return head(x, classes)


def _stage(x, filters, stride, blocks, shortcut, name):
    """Basic blocks, of which the first divides the sides by `stride`."""
    for block in range(blocks):
        x = _basic_block(x, filters, stride if block == 0 else 1, shortcut, f"{name}_{block}")
    return x


def _basic_block(x, filters, stride, shortcut, name):
    """ReLU(x + F(x)), F two 3×3 convolutions with BatchNorm; x goes through `shortcut` where its shape changes."""
    same = x
    if stride > 1 or x.shape[-1] != filters:
        same = shortcut(x, filters, stride, f"{name}_shortcut")
    x = norm(conv(x, filters, 3, stride, f"{name}_conv1"), f"{name}_norm1")
    x = layers.Activation("relu", name=f"{name}_relu1")(x)
    x = norm(conv(x, filters, 3, 1, f"{name}_conv2"), f"{name}_norm2")
    x = layers.Add(name=f"{name}_add")([x, same])
    return layers.Activation("relu", name=f"{name}_relu2")(x)


def _projected(x, filters, stride, name):
    """A 1×1 convolution: the paper's option B."""
    return norm(conv(x, filters, 1, stride, f"{name}_conv"), f"{name}_norm")


def _subsampled(x, filters, stride, name):
    """Every `stride`-th pixel, and zeros behind the channels: option A."""
    x = layers.AveragePooling2D(1, stride, name=f"{name}_pool")(x)
    behind = ((0, 0), (0, filters - x.shape[-1]))
    # Read as (batch, channels, rows, columns), an image's columns are its channels.
    return layers.ZeroPadding2D(behind, data_format="channels_first", name=f"{name}_pad")(x)
