"""MixUp: each image blended with another of its batch."""

import numpy as np
from keras import ops

from kcifar.augment.parameters import expect_alpha, expect_one_hot, expect_probability


class MixUp:
    """Blends each image and label with a partner: x̃ = λx + (1−λ)x[π], ỹ = λy + (1−λ)y[π].

    One λ ~ Beta(α, α) and one permutation π for the whole batch (Zhang et al. 2018, arXiv 1710.09412, and its program
    facebookresearch/mixup-cifar10; `keras.layers.MixUp` draws one λ for each image instead). Cross-entropy with ỹ is
    λ·CE(ŷ, y) + (1−λ)·CE(ŷ, y[π]), the form in that program. Blending commutes with normalisation, so it works on
    0–255.

    Args:
        alpha: α ≥ 0 of the Beta distribution; 0 leaves every batch as it is.
        probability: that a batch is mixed at all, in [0, 1]; 0 leaves every batch as it is.

    Raises:
        InputError: α or the probability outside its range, or (when applied) labels that are not one-hot.
    """

    mixes = True

    def __init__(self, alpha, probability=1.0):
        expect_alpha("MixUp", "alpha", alpha)
        expect_probability("MixUp", probability)
        self.alpha = alpha
        self.probability = probability

    def draw(self, rng, batch_size, image_shape):
        """λ as a float32 scalar and π as int32 (batch,); None where no batch is ever mixed."""
        if self.alpha == 0 or self.probability == 0:
            return None
        mix = rng.random() < self.probability
        blend = np.float32(rng.beta(self.alpha, self.alpha))
        partner = rng.permutation(batch_size).astype("int32")
        return (blend, partner) if mix else (np.float32(1), np.arange(batch_size, dtype="int32"))

    def apply(self, images, labels, drawn):
        """Images and labels as float32, of the shapes given; both as they are where `drawn` is None."""
        expect_one_hot("MixUp", images, labels)
        if drawn is None:
            return images, labels
        blend, partner = map(ops.convert_to_tensor, drawn)
        return mixed(images, blend, partner), mixed(labels, blend, partner)


def mixed(values, share, partner):
    """share·values + (1 − share)·values[partner], float32; `share` a tensor of a shape that fits."""
    values = ops.cast(values, "float32")
    return share * values + (1 - share) * ops.take(values, partner, axis=0)
