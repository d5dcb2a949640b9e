"""A small CNN with ELU and batch normalisation."""

from keras import layers

from kcifar.models.initial import he_normal


def elu_cnn(image, classes, seed, dropout=0.5):
    """Logits of three 3×3 convolutions and a hidden layer of 100, each followed by ELU and BatchNorm.

    The net of a course report on MixUp, from PyTorch: kernels start He-normal (`kaiming_normal_`: fan_in, gain √2),
    biases zero; BatchNorm has PyTorch's momentum 0.1 (Keras's 0.9) and ε = 1e-5. Departure: Keras's moving variance is
    the biased one, PyTorch's the unbiased; they differ by n/(n−1), n being the values that a channel's mean is over.

    Args:
        image: normalised images (batch, height, width, channels), sides of at least 4.
        classes: number of logits.
        seed: of dropout.
        dropout: rate before the last BatchNorm.
    """
    x = image
    for stage, filters in enumerate((16, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=he_normal("fan_in"), name=f"conv{stage}")(x)
        x = layers.Activation("elu", name=f"elu{stage}")(x)
        x = _batch_norm(f"norm{stage}")(x)
        if stage > 1:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(100, kernel_initializer=he_normal("fan_in"), name="hidden")(x)
    x = layers.Activation("elu", name="elu4")(x)
    x = layers.Dropout(dropout, seed=seed % 2**31, name="dropout")(x)
    x = _batch_norm("norm4")(x)
    return layers.Dense(classes, kernel_initializer=he_normal("fan_in"), dtype="float32", name="logits")(x)


def _batch_norm(name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)
