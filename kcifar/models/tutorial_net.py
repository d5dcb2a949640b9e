"""The net of PyTorch's CIFAR-10 tutorial."""

from keras import layers

from kcifar.models.initial import pytorch_uniform


def tutorial_net(image, classes, seed):
    """Logits of two 5×5 convolutions with max-pooling and three dense layers: 62,006 parameters for CIFAR-10.

    From PyTorch's tutorial "Training a classifier". Kernels and biases start as PyTorch's defaults, uniform in
    ±1/√fan_in.

    Args:
        image: normalised images (batch, height, width, channels), sides of at least 16.
        classes: number of logits.
        seed: unused: the net draws nothing when it runs.
    """
    x = image
    for stage, filters in enumerate((6, 16), start=1):
        x = layers.Conv2D(filters, 5, activation="relu", **pytorch_uniform(25 * x.shape[-1]), name=f"conv{stage}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    for stage, units in enumerate((120, 84), start=1):
        x = layers.Dense(units, activation="relu", **pytorch_uniform(x.shape[-1]), name=f"dense{stage}")(x)
    return layers.Dense(classes, **pytorch_uniform(x.shape[-1]), dtype="float32", name="logits")(x)
