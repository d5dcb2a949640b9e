"""A random mirror image."""

from keras import ops


class RandomFlip:
    """Mirrors each image left to right with probability ½. As torchvision.transforms.RandomHorizontalFlip()."""

    def draw(self, rng, batch_size, image_shape):
        """Which images to mirror: bool (batch,)."""
        return rng.random(batch_size) < 0.5

    def apply(self, images, labels, drawn):
        """Images of the shape and dtype given, and the labels as they are."""
        mirror = ops.convert_to_tensor(drawn)[:, None, None, None]
        return ops.where(mirror, ops.flip(images, axis=2), images), labels
