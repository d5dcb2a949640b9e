"""What residual networks are made of, with PyTorch's initial values and constants."""

from keras import layers

from kcifar.errors import InputError
from kcifar.models.initial import he_normal, pytorch_uniform


def conv(x, filters, size, stride, name, fan="fan_out"):
    """A convolution without bias, padded by size // 2 on all sides; its kernel starts He-normal by `fan`."""
    if size > 1 and stride > 1:  # Keras's own "same" would pad more behind
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    padding = "same" if stride == 1 else "valid"
    start = he_normal(fan)
    return layers.Conv2D(filters, size, stride, padding, use_bias=False, kernel_initializer=start, name=name)(x)


def norm(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def imagenet_stem(x, fan="fan_out"):
    """A 7×7 convolution and a max-pooling, both of stride 2."""
    x = conv(x, 64, 7, 2, "stem_conv", fan)
    x = layers.Activation("relu", name="stem_relu")(norm(x, "stem_norm"))
    x = layers.ZeroPadding2D(1, name="stem_pad")(x)  # after ReLU a zero never wins over what is there
    return layers.MaxPooling2D(3, 2, name="stem_pool")(x)


def head(x, classes, seed=0, hidden=None, dropout=0.0):
    """Mean over all pixels, hidden dense layers with ReLU and dropout behind each, and one dense layer.

    Dense layers start as PyTorch's, uniform in ±1/√fan_in.

    Args:
        hidden: units of a hidden layer, or of each of several; None for none.
        dropout: rate behind the hidden layer, or behind each of several.
    """
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    if hidden is None and dropout:
        raise InputError(f"dropout={dropout} without hidden: the dropout is behind a hidden layer, as hidden=256")
    for place, (units, rate) in enumerate(_hidden_layers(hidden, dropout)):
        number = place + 1 if isinstance(hidden, tuple) else ""
        x = layers.Dense(units, activation="relu", **pytorch_uniform(x.shape[-1]), name=f"head_hidden{number}")(x)
        x = layers.Dropout(rate, seed=(seed + place) % 2**31, name=f"head_dropout{number}")(x)
    return layers.Dense(classes, **pytorch_uniform(x.shape[-1]), dtype="float32", name="head_logits")(x)


def _hidden_layers(hidden, dropout):
    """(units, rate) of each hidden layer. Raises InputError where there are not as many rates as layers."""
    units = hidden if isinstance(hidden, tuple) else () if hidden is None else (hidden,)
    rates = dropout if isinstance(dropout, tuple) else (dropout,) * len(units)
    if len(units) != len(rates):
        raise InputError(
            f"hidden={hidden} and dropout={dropout}: expected a rate for each hidden layer, or one for all"
        )
    return zip(units, rates, strict=True)
