"""Random changes of colour."""

import functools

import numpy as np
from keras import ops

from kcifar import backend
from kcifar.errors import InputError

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, as torchvision rounds it


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, one after another in random order.

    As torchvision.transforms.ColorJitter on float images: brightness scales, contrast blends with the mean grey of the
    image, saturation with the grey of each pixel, by factors from uniform [max(0, 1 − strength), 1 + strength]; hue is
    turned by a uniform share of the circle from [−hue, hue]; each result is clipped to 0–255. Every image has amounts
    of its own; departure: one order for the whole batch.

    Args:
        brightness, contrast, saturation: strengths ≥ 0; 0 leaves it alone.
        hue: strength from 0 to 0.5, half a turn; 0 leaves it alone.

    Raises:
        InputError: a strength outside its range.
    """

    def __init__(self, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, strength in strengths.items():
            most = 0.5 if name == "hue" else np.inf
            if not 0 <= strength <= most or strength == np.inf:
                raise InputError(f"ColorJitter({name}={strength}): expected a number ≥ 0{', at most 0.5' * (most < 1)}")
        self.strengths = {name: strength for name, strength in strengths.items() if strength}

    def draw(self, rng, batch_size, image_shape):
        """An amount of each change for each image, float32 (changes, batch), and their order, int32 (changes,)."""
        amounts = [self._amounts(rng, name, strength, batch_size) for name, strength in self.strengths.items()]
        order = rng.permutation(len(amounts)).astype("int32")
        return np.array(amounts, np.float32).reshape(len(amounts), batch_size), order

    def _amounts(self, rng, name, strength, batch_size):
        if name == "hue":
            return rng.uniform(-strength, strength, batch_size)
        return rng.uniform(max(0.0, 1 - strength), 1 + strength, batch_size)

    def apply(self, images, labels, drawn):
        """Images as float32 from 0 to 255, and the labels as they are."""
        if not self.strengths:
            return images, labels
        amounts, order = ops.convert_to_tensor(drawn[0])[..., None, None, None], drawn[1]
        changes = [functools.partial(_CHANGES[name], amounts[place]) for place, name in enumerate(self.strengths)]
        images = ops.cast(images, "float32")
        for place in range(len(changes)):
            images = ops.clip(backend.switch(order[place], changes, images), 0, 255)
        return images, labels


def _brighter(factor, images):
    return images * factor


def _contrasted(factor, images):
    return _blended(images, ops.mean(_grey(images), axis=(1, 2), keepdims=True), factor)


def _saturated(factor, images):
    return _blended(images, _grey(images), factor)


def _turned(turn, images):
    """Hue is the place on a circle of 6: with v the largest of r, g, b and c its distance from the smallest, a channel
    is v − c·clip(min(k, 4 − k), 0, 1), where k is the hue plus 5, 3 or 1 for r, g or b, modulo 6."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = ops.max(images, axis=-1)
    chroma = value - ops.min(images, axis=-1)
    distance = ops.where(chroma > 0, chroma, 1.0)
    hue = ops.where(
        value == red,
        (green - blue) / distance,
        ops.where(value == green, 2 + (blue - red) / distance, 4 + (red - green) / distance),
    )
    hue = hue + 6 * turn[..., 0]
    places = ops.mod(hue[..., None] + ops.convert_to_tensor(np.array([5, 3, 1], np.float32)), 6.0)
    return value[..., None] - chroma[..., None] * ops.clip(ops.minimum(places, 4 - places), 0, 1)


_CHANGES = {"brightness": _brighter, "contrast": _contrasted, "saturation": _saturated, "hue": _turned}


def _grey(images):
    return sum(weight * images[..., channel : channel + 1] for channel, weight in enumerate(_GREY))


def _blended(images, other, factor):
    return factor * images + (1 - factor) * other
