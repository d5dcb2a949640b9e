"""A random mirror image."""

import numpy as np
from keras import ops

from kcifar import chance
from kcifar.augment.geometric import Geometric, Origin
from kcifar.augment.parameters import chosen, expect_probability
from kcifar.errors import InputError


class RandomFlip(Geometric):
    """Mirrors each image left to right with some probability. As torchvision.transforms.RandomHorizontalFlip(p).

    Alternating (Jordan 2024, arXiv 2404.00498, section 3.6): in the first epoch with that probability, from then on in
    every second epoch, so that each image is shown both ways in any two epochs; with independent draws half of the
    images of an epoch are shown as they were in the one before. Which are the first follows from the seed and the
    image's place in its split, whatever the order.

    Args:
        probability: that an image is mirrored; alternating, in the first epoch.
        alternating: see above. For batches of `kcifar.data.Batches`, which say which images they have.

    Raises:
        InputError: a probability outside [0, 1], or (when drawing) alternating for images of which nobody says which
            they are.
    """

    interpolates = False
    by_image = True

    def __init__(self, probability=0.5, alternating=False):
        expect_probability("RandomFlip", probability)
        if not isinstance(alternating, bool):
            raise InputError(f"RandomFlip(alternating={alternating!r}): expected True or False")
        self.probability = probability
        self.alternating = alternating

    def draw(self, rng, batch_size, image_shape, place=None):
        """Which images to mirror: bool (batch,)."""
        if not self.alternating:
            return chosen(rng, self.probability, batch_size)
        if place is None:
            raise InputError(
                "RandomFlip(alternating=True) was asked to draw without a place; expected the images and their epoch, "
                "as kcifar.data.Batches gives them: kcifar.augment.Place(seed, epoch, images)"
            )
        # Image k takes the k-th number, so that it does not depend on how many there are.
        numbers = chance.generator(place.seed, chance.MIRRORS).random(np.max(place.images, initial=0) + 1)
        return (numbers[place.images] < self.probability) ^ bool(place.epoch % 2)

    def origin(self, drawn, shape):
        return Origin(xx=1 - 2 * ops.cast(ops.convert_to_tensor(drawn), "float32"))

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        mirror = ops.convert_to_tensor(drawn)[:, None, None, None]
        return ops.where(mirror, ops.flip(images, axis=2), images), labels
