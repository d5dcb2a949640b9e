"""Test-time augmentation: the views of an image whose logits are averaged."""

import dataclasses

from keras import ops


@dataclasses.dataclass(frozen=True)
class View:
    """Images as test-time augmentation shows them: moved down and right by `shift` pixels, with the pixels at the sides
    reflected into what comes free, and then mirrored. A transform that draws nothing."""

    mirrored: bool = False
    shift: int = 0

    def draw(self, rng, batch_size, image_shape):
        return None

    def apply(self, images, labels, drawn):
        if self.shift:
            room = abs(self.shift)
            padded = ops.pad(images, ((0, 0), (room, room), (room, room), (0, 0)), "reflect")
            first, (height, width) = room - self.shift, images.shape[1:3]
            images = padded[:, first : first + height, first : first + width]
        return (ops.flip(images, axis=2) if self.mirrored else images), labels


def _both(shift):
    return View(False, shift), View(True, shift)


# By the names of `kcifar.recipe.VIEWS`, views and their shares in the mean of the logits, as airbench94's (Jordan 2024,
# arXiv 2404.00498, its program).
TEST_TIME_AUGMENTATIONS = {
    "none": {View(): 1.0},
    "flip": dict.fromkeys(_both(0), 1 / 2),
    "flip+shift": dict.fromkeys(_both(0), 1 / 4) | dict.fromkeys(_both(1) + _both(-1), 1 / 8),
}
