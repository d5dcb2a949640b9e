"""Wide residual networks."""

from keras import layers

from kcifar.models.residual import conv, head, norm


def wrn28_2(image, classes, seed):
    """`wrn28_10` with widths 32, 64 and 128: 1,467,610 parameters for 10 classes."""
    return _wide_resnet(image, classes, 4, 2)


def wrn28_10(image, classes, seed):
    """Logits of WRN-28-10 (Zagoruyko & Komodakis 2016, arXiv 1605.07146): 36,479,194 parameters for 10 classes.

    BatchNorm and ReLU come before each convolution; three stages of 160, 320 and 640 filters, four blocks each, no
    dropout. A block whose shape changes projects its activated input by a 1×1 convolution, as in the authors' program.
    Kernels start He-normal by fan-out, as there; BatchNorm as in `resnet18`.

    Args:
        image: normalised images (batch, height, width, channels).
        classes: number of logits.
        seed: unused: the net draws nothing when it runs.
    """
    return _wide_resnet(image, classes, 4, 10)


def _wide_resnet(image, classes, blocks, width):
    x = conv(image, 16, 3, 1, "stem_conv")
    for stage, filters in enumerate((16 * width, 32 * width, 64 * width), start=1):
        for block in range(blocks):
            x = _block(x, filters, 2 if stage > 1 and block == 0 else 1, f"layer{stage}_{block}")
    return head(_activated(x, "layer3"), classes)


def _block(x, filters, stride, name):
    """x + F(x), F two times BatchNorm, ReLU, 3×3 convolution."""
    same, x = x, _activated(x, f"{name}_1")
    if same.shape[-1] != filters:
        same = conv(x, filters, 1, stride, f"{name}_shortcut_conv")
    x = _activated(conv(x, filters, 3, stride, f"{name}_conv1"), f"{name}_2")
    return layers.Add(name=f"{name}_add")([conv(x, filters, 3, 1, f"{name}_conv2"), same])


def _activated(x, name):
    return layers.Activation("relu", name=f"{name}_relu")(norm(x, f"{name}_norm"))
