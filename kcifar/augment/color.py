"""Random changes of colour."""

import functools

import numpy as np
from keras import ops

from kcifar import backend
from kcifar.augment.parameters import chosen, expect_probability, expect_rgb_or_grey, is_number
from kcifar.errors import InputError

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, as torchvision rounds it


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, one after another in random order.

    As torchvision.transforms.ColorJitter on float images: brightness scales, contrast blends with the mean grey of the
    image, saturation with the grey of each pixel, by factors from uniform [max(0, 1 − strength), 1 + strength]; hue is
    turned by a uniform share of the circle from [−hue, hue]; each result is clipped to 0–255. Every image has amounts
    of its own. Departures: one order for the whole batch; in `kcifar.data.Batches`, behind transforms that enlarge the
    images, it is done before them (`kcifar.augment.geometric.Recoloured`).

    Args:
        brightness, contrast, saturation: strengths ≥ 0; 0 leaves it alone.
        hue: strength from 0 to 0.5, half a turn; 0 leaves it alone.
        probability: that an image is changed at all.

    Raises:
        InputError: a strength or a probability outside its range, or (when drawing) images that are neither RGB nor
            grey, or grey where saturation or hue are to change.
    """

    recolours = True

    def __init__(self, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, probability=1.0):
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, strength in strengths.items():
            if not (is_number(strength) and strength >= 0):
                raise InputError(f"ColorJitter({name}={strength!r}): expected a number ≥ 0")
        if hue > 0.5:
            raise InputError(f"ColorJitter(hue={hue!r}): expected at most 0.5, half a turn")
        expect_probability("ColorJitter", probability)
        self.probability = probability
        self.strengths = {name: strength for name, strength in strengths.items() if strength}

    def draw(self, rng, batch_size, image_shape):
        """An amount of each change for each image, float32 (changes, batch), and their order, int32 (changes,)."""
        expect_rgb_or_grey(
            "ColorJitter", image_shape, [name for name in ("saturation", "hue") if name in self.strengths]
        )
        amounts = [self._amounts(rng, name, strength, batch_size) for name, strength in self.strengths.items()]
        order = rng.permutation(len(amounts)).astype("int32")
        nothing = np.array([[float(name != "hue")] for name in self.strengths]).reshape(-1, 1)
        amounts = np.where(chosen(rng, self.probability, batch_size), np.reshape(amounts, (-1, batch_size)), nothing)
        return amounts.astype("float32"), order

    def _amounts(self, rng, name, strength, batch_size):
        if name == "hue":
            return rng.uniform(-strength, strength, batch_size)
        return rng.uniform(max(0.0, 1 - strength), 1 + strength, batch_size)

    def apply(self, images, labels, drawn):
        """Images as float32 from 0 to 255, and the labels as they are."""
        if not self.strengths:
            return images, labels
        amounts, order = ops.convert_to_tensor(drawn[0])[..., None, None], drawn[1]
        changes = [functools.partial(_CHANGES[name], amounts[place]) for place, name in enumerate(self.strengths)]
        planes = [ops.cast(images[..., channel], "float32") for channel in range(images.shape[-1])]
        for place in range(len(changes)):
            planes = [backend.clipped(plane, 0, 255) for plane in backend.switch(order[place], changes, planes)]
        return ops.transpose(ops.stack(planes, axis=1), (0, 2, 3, 1)), labels


# Each change takes amounts (batch, 1, 1) and the planes red, green, blue (batch, height, width), or the one of grey
# images, and gives the planes.


def _brighter(factor, planes):
    return [factor * plane for plane in planes]


def _contrasted(factor, planes):
    return _blended(planes, ops.mean(_grey(planes), axis=(1, 2), keepdims=True), factor)


def _saturated(factor, planes):
    return _blended(planes, _grey(planes), factor)


def _turned(turn, planes):
    """With the smallest channel m and the chroma c (the largest less m), the hue on a circle of 6 that begins at red is
    1 + (g + b − r − m)/c to the one side where g ≥ b, to the other elsewhere; and of a hue at distance d from a
    channel's own, 0, 2 or −2, this is m + c·clip(2 − d, 0, 1). No comparisons: these take PyTorch 30 times as long."""
    red, green, blue = planes
    least = ops.minimum(ops.minimum(red, green), blue)
    chroma = ops.maximum(ops.maximum(red, green), blue) - least
    side = backend.clipped((green - blue) * _HUGE + 1, -1, 1)
    hue = side * (1 + (green + blue - red - least) / ops.maximum(chroma, _TINY)) + 6 * turn
    hue = hue - 6 * ops.round(hue / 6)
    base = least - chroma
    return [base + chroma * backend.clipped(ops.abs(ops.abs(hue - own) - 3), 1, 2) for own in (0, 2, -2)]


_CHANGES = {"brightness": _brighter, "contrast": _contrasted, "saturation": _saturated, "hue": _turned}
_HUGE, _TINY = 1e30, 1e-30


def _grey(planes):
    if len(planes) == 1:
        return planes[0]
    return sum(weight * plane for weight, plane in zip(_GREY, planes, strict=True))


def _blended(planes, other, factor):
    rest = (1 - factor) * other
    return [factor * plane + rest for plane in planes]
