"""What residual networks are made of, with PyTorch's initial values and constants."""

import math

from keras import initializers, layers


def conv(x, filters, size, stride, name):
    """A convolution without bias, padded by size // 2 on all sides."""
    if size > 1 and stride > 1:  # Keras's own "same" would pad more behind
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    he_normal = initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(filters, size, stride, padding, use_bias=False, kernel_initializer=he_normal, name=name)(x)


def norm(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def head(x, classes):
    """Mean over all pixels, then a dense layer that starts as PyTorch's, uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(x.shape[-1])
    uniform = initializers.RandomUniform(-bound, bound)
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    head = layers.Dense(
        classes, kernel_initializer=uniform, bias_initializer=uniform, dtype="float32", name="head_logits"
    )
    return head(x)
