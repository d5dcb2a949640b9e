"""KerasCV's preprocessing layers as transforms."""

import contextlib
import inspect
import os
import random

import numpy as np
from keras import ops

from kcifar.augment.parameters import expect_one_hot
from kcifar.errors import InputError, nearest, one_line

_MIX = ("MixUp", "CutMix", "FourierMix")


class KerasCV:
    """One of KerasCV's preprocessing layers, for instance KerasCV("RandAugment", magnitude=0.3).

    It runs on the host, in TensorFlow, whose generators and those of the layer, made anew for each batch, are seeded by
    what is drawn: a step gives the same bytes each time, in a run that was resumed too. torch and JAX see the same
    where the layer draws by TensorFlow's generators, as most do; RandomColorJitter draws by Keras's. Many layers go
    from image to image: RandAugment makes some 30 a second, `kcifar.augment.RandAugment` some thousands.

    Args:
        layer: its name in `keras_cv.layers`.
        arguments: its arguments; `value_range` is (0, 255) where none is given. Its seed follows from the recipe's.

    Raises:
        InputError: KerasCV or TensorFlow is not installed (kcifar's extra `cv`), or an unknown layer or argument.
    """

    on_host = True

    def __init__(self, layer, **arguments):
        known = _layers()
        if layer not in known:
            raise InputError(f"KerasCV has no layer '{layer}' that changes images; {nearest(str(layer), known)}")
        if "seed" in arguments:
            raise InputError(f"KerasCV({layer!r}, seed=…): its seed follows from the recipe's, leave it out")
        self.mixes = layer in _MIX
        self._layer = known[layer]
        takes_range = "value_range" in inspect.signature(self._layer).parameters
        self._arguments = {**({"value_range": (0, 255)} if takes_range else {}), **arguments}
        self._made(0)

    def draw(self, rng, batch_size, image_shape):
        """A seed."""
        return rng.integers(2**31)

    def apply(self, images, labels, drawn):
        """Images and labels as float32."""
        import tensorflow

        if self.mixes:
            expect_one_hot("KerasCV", images, labels)
        layer = self._made(int(drawn))
        given = {"images": images, "labels": labels}
        found = layer({name: tensorflow.constant(_float32(values)) for name, values in given.items()}, training=True)
        return tuple(ops.convert_to_tensor(np.asarray(found[name], "float32")) for name in given)

    def _made(self, seed):
        """The layer, where all that it and its parts draw from begins at the seed."""
        import tensorflow

        tensorflow.random.set_seed(seed)
        tensorflow.random.get_global_generator().reset_from_seed(seed)
        with _python_seed(seed):  # Keras's generators without a seed take one from there
            try:
                return self._layer(**self._arguments)
            except (TypeError, ValueError) as error:
                raise InputError(f"KerasCV's {self._layer.__name__}: {one_line(error)}") from None


def _float32(values):
    return ops.convert_to_numpy(ops.cast(values, "float32"))


def _layers():
    """KerasCV's layers that change images, by name."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it speaks of processors and GPUs at length
    try:
        import keras_cv
    except ImportError as error:
        raise InputError(
            f"KerasCV needs keras-cv and tensorflow-cpu ({one_line(error)}): pip install keras-cv tensorflow-cpu"
        ) from None
    kinds = keras_cv.layers.BaseImageAugmentationLayer, keras_cv.layers.VectorizedBaseImageAugmentationLayer
    layers = {name: getattr(keras_cv.layers, name) for name in dir(keras_cv.layers)}
    return {
        name: layer
        for name, layer in layers.items()
        if inspect.isclass(layer) and issubclass(layer, kinds) and layer not in kinds
    }


@contextlib.contextmanager
def _python_seed(seed):
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
