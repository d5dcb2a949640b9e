"""A random mirror image."""

from keras import ops

from kcifar.augment.geometric import Geometric, Origin
from kcifar.augment.parameters import chosen, expect_probability


class RandomFlip(Geometric):
    """Mirrors each image left to right with some probability. As torchvision.transforms.RandomHorizontalFlip(p).

    Args:
        probability: that an image is mirrored.

    Raises:
        InputError: a probability outside [0, 1].
    """

    interpolates = False

    def __init__(self, probability=0.5):
        self.probability = probability
        expect_probability("RandomFlip", probability)

    def draw(self, rng, batch_size, image_shape):
        """Which images to mirror: bool (batch,)."""
        return chosen(rng, self.probability, batch_size)

    def origin(self, drawn, shape):
        return Origin(xx=1 - 2 * ops.cast(ops.convert_to_tensor(drawn), "float32"))

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        mirror = ops.convert_to_tensor(drawn)[:, None, None, None]
        return ops.where(mirror, ops.flip(images, axis=2), images), labels
