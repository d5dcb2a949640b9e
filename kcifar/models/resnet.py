"""Residual networks."""

from keras import layers

from kcifar.errors import InputError
from kcifar.models.residual import conv, head, imagenet_stem, norm


def resnet18(image, classes, seed, stem="imagenet", hidden=None, dropout=0.0):
    """Logits of He et al. 2016 (arXiv 1512.03385), table 1, 18 layers: 11,689,512 parameters for 1,000 classes.

    As torchvision's: kernels start He-normal by fan-out, BatchNorm has momentum 0.1 (Keras's 0.9) and ε = 1e-5, strided
    convolutions pad alike on all sides. Departure: the moving variance is the biased one, see `elu_cnn`.

    Layers are named by their group: `stem`, `layer1` to `layer4`, `head`.

    Args:
        image: normalised images (batch, height, width, channels).
        classes: number of logits.
        seed: of dropout.
        stem: `imagenet`, a 7×7 convolution and a max-pooling, both of stride 2; or `cifar`, a 3×3 convolution of
            stride 1 for images of 32×32.
        hidden: units of a hidden layer with ReLU before the logits, or of each of several, (4096, 1024); None for none.
        dropout: rate behind the hidden layer, or behind each of several.
    """
    return _resnet(image, classes, seed, _basic_block, (2, 2, 2, 2), stem, hidden, dropout)


def resnet34(image, classes, seed, stem="imagenet", hidden=None, dropout=0.0):
    """`resnet18` with 34 layers: 21,797,672 parameters for 1,000 classes."""
    return _resnet(image, classes, seed, _basic_block, (3, 4, 6, 3), stem, hidden, dropout)


def resnet50(image, classes, seed, stem="imagenet", hidden=None, dropout=0.0):
    """`resnet18` with 50 layers in bottleneck blocks: 25,557,032 parameters for 1,000 classes.

    As torchvision's ("v1.5"), the 3×3 convolution of a block has its stride; in the paper the first 1×1 has.
    """
    return _resnet(image, classes, seed, _bottleneck, (3, 4, 6, 3), stem, hidden, dropout)


def resnet152(image, classes, seed, stem="imagenet", hidden=None, dropout=0.0):
    """`resnet50` with 152 layers: 60,192,808 parameters for 1,000 classes."""
    return _resnet(image, classes, seed, _bottleneck, (3, 8, 36, 3), stem, hidden, dropout)


def _resnet(image, classes, seed, block, blocks, stem, hidden, dropout):
    if stem == "imagenet":
        x = imagenet_stem(image)
    elif stem == "cifar":
        x = _cifar_stem(image, 64)
    else:
        raise InputError(f"stem is '{stem}'; expected 'imagenet' or 'cifar'")
    for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), start=1):
        x = _stage(x, block, filters, 1 if stage == 1 else 2, count, _projected, f"layer{stage}")
    return head(x, classes, seed, hidden, dropout)


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
    x = _cifar_stem(image, 16)
    for stage, filters in enumerate((16, 32, 64), start=1):
        x = _stage(x, _basic_block, filters, 1 if stage == 1 else 2, blocks, _subsampled, f"layer{stage}")
    return head(x, classes)


def _cifar_stem(image, filters):
    return layers.Activation("relu", name="stem_relu")(norm(conv(image, filters, 3, 1, "stem_conv"), "stem_norm"))


def _stage(x, block, filters, stride, blocks, shortcut, name):
    """Blocks of a kind, of which the first divides the sides by `stride`."""
    for place in range(blocks):
        x = block(x, filters, stride if place == 0 else 1, shortcut, f"{name}_{place}")
    return x


def _basic_block(x, filters, stride, shortcut, name):
    """ReLU(x + F(x)), F two 3×3 convolutions with BatchNorm."""
    same = _same(x, filters, stride, shortcut, name)
    x = _conv_norm_relu(x, filters, 3, stride, 1, name)
    return _sum(norm(conv(x, filters, 3, 1, f"{name}_conv2"), f"{name}_norm2"), same, name)


def _bottleneck(x, filters, stride, shortcut, name):
    """ReLU(x + F(x)), F convolutions of 1×1, 3×3 and 1×1 with BatchNorm, the last of four times the filters."""
    same = _same(x, 4 * filters, stride, shortcut, name)
    x = _conv_norm_relu(x, filters, 1, 1, 1, name)
    x = _conv_norm_relu(x, filters, 3, stride, 2, name)
    return _sum(norm(conv(x, 4 * filters, 1, 1, f"{name}_conv3"), f"{name}_norm3"), same, name)


def _same(x, filters, stride, shortcut, name):
    """x, which goes through `shortcut` where its shape changes."""
    return x if stride == 1 and x.shape[-1] == filters else shortcut(x, filters, stride, f"{name}_shortcut")


def _conv_norm_relu(x, filters, size, stride, place, name):
    x = norm(conv(x, filters, size, stride, f"{name}_conv{place}"), f"{name}_norm{place}")
    return layers.Activation("relu", name=f"{name}_relu{place}")(x)


def _sum(x, same, name):
    return layers.Activation("relu", name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, same]))


def _projected(x, filters, stride, name):
    """A 1×1 convolution: the paper's option B."""
    return norm(conv(x, filters, 1, stride, f"{name}_conv"), f"{name}_norm")


def _subsampled(x, filters, stride, name):
    """Every `stride`-th pixel, and zeros behind the channels: option A."""
    x = layers.AveragePooling2D(1, stride, name=f"{name}_pool")(x)
    behind = ((0, 0), (0, filters - x.shape[-1]))
    # Read as (batch, channels, rows, columns), an image's columns are its channels.
    return layers.ZeroPadding2D(behind, data_format="channels_first", name=f"{name}_pad")(x)
