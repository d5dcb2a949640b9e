"""Transforms of other libraries as transforms of kcifar's: Keras's preprocessing layers, Albumentations."""

import sys

import keras
import numpy as np
from keras import ops

from kcifar.augment.parameters import expect_one_hot
from kcifar.errors import InputError, one_line


def adapted(transform):
    """A transform with `draw` and `apply`: as it is, or around a layer of Keras or a transform of Albumentations.

    Raises:
        InputError: it is none of these.
    """
    if hasattr(transform, "draw") and hasattr(transform, "apply") and not isinstance(transform, keras.Layer):
        return transform
    if isinstance(transform, keras.Layer):
        return KerasLayer(transform)
    if "albumentations" in sys.modules and _is_of_albumentations(transform):
        return Albumentations(transform)
    raise InputError(
        f"a transform is a {type(transform).__name__}, without draw and apply; expected a transform with both, a layer "
        "of Keras or a transform of Albumentations"
    )


class KerasLayer:
    """One of Keras's preprocessing layers, for instance KerasLayer(keras.layers.RandomBrightness(0.2)).

    Its seed generators begin anew for each batch, at what is drawn: a step gives the same bytes each time, in a run
    that was resumed too. Keras's random numbers differ from backend to backend, and so do the batches. Layers that
    change labels too (MixUp, CutMix) get them. It is not compiled; kcifar's own transforms are many times as fast.

    Args:
        layer: a `keras.Layer` that takes images (batch, height, width, channels) of 0–255.

    Raises:
        InputError: it is no layer; when it is applied: what it gives is no batch of images.
    """

    on_host = True

    def __init__(self, layer):
        if not isinstance(layer, keras.Layer):
            raise InputError(f"KerasLayer({layer!r:.60}): expected a layer of Keras")
        self._layer = layer
        self._labelled = hasattr(layer, "transform_labels")
        self.mixes = type(layer).__name__ in ("MixUp", "CutMix")

    def draw(self, rng, batch_size, image_shape):
        """A seed."""
        return rng.integers(2**31)

    def apply(self, images, labels, drawn):
        """Images and labels as float32."""
        if self.mixes:
            expect_one_hot(type(self._layer).__name__, images, labels)
        for place, generator in enumerate(_seed_generators(self._layer)):
            generator.state.assign(np.array([int(drawn), place], np.uint32))
        images, labels = ops.cast(images, "float32"), ops.cast(labels, "float32")
        try:
            if self._labelled:
                found = self._layer({"images": images, "labels": labels}, training=True)
                return ops.cast(found["images"], "float32"), ops.cast(found["labels"], "float32")
            return ops.cast(self._layer(images, training=True), "float32"), labels
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"the layer {type(self._layer).__name__} on images: {one_line(error)}") from None


def _seed_generators(layer):
    """Of the layer and of those in it."""
    generators = (keras.random.SeedGenerator,)
    return [
        found
        for inner in layer._flatten_layers()
        for _, found in sorted(vars(inner).items())
        if isinstance(found, generators)
    ]


class Albumentations:
    """A transform of Albumentations, or several in its Compose, for instance Albumentations(A.HorizontalFlip(p=0.5)).

    It runs on the host, image by image, on bytes; Albumentations' generators begin anew for each batch, at what is
    drawn: a step gives the same bytes each time, on both backends, in a run that was resumed too. Needs kcifar's extra
    `albumentations`.

    Args:
        transform: a transform of Albumentations 2 that changes images alone and keeps bytes bytes.

    Raises:
        InputError: it is none; when it is applied: images of a batch come out in several sizes.
    """

    on_host = True

    def __init__(self, transform):
        if not _is_of_albumentations(transform):
            raise InputError(f"Albumentations({transform!r:.60}): expected a transform of Albumentations")
        import albumentations

        is_several = isinstance(transform, albumentations.BaseCompose)
        self._transform = transform if is_several else albumentations.Compose([transform])

    def draw(self, rng, batch_size, image_shape):
        """A seed."""
        return rng.integers(2**31)

    def apply(self, images, labels, drawn):
        """Images as they come out (uint8 of uint8), labels as they are."""
        self._transform.set_random_seed(int(drawn))
        pixels = ops.convert_to_numpy(images)
        if pixels.dtype != np.uint8:  # float32 of a transform before it; Albumentations takes floats for 0–1
            pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        found = [self._transform(image=image)["image"] for image in pixels]
        if len({image.shape for image in found}) > 1:
            raise InputError("a transform of Albumentations gives images of several sizes: crop or resize them last")
        return ops.convert_to_tensor(np.stack(found)), labels


def _is_of_albumentations(transform):
    try:
        import albumentations
    except ImportError as error:
        raise InputError(
            f"albumentations is not installed ({one_line(error)}): pip install 'kcifar[albumentations]'"
        ) from None
    return isinstance(transform, (albumentations.BasicTransform, albumentations.BaseCompose))
