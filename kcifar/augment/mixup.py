"""MixUp: each image blended with another of its batch."""

import numpy as np
from keras import ops

from kcifar.errors import InputError


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
        InputError: α or the probability outside its range.
    """

    def __init__(self, alpha, probability=1.0):
        if not (0 <= alpha < np.inf and 0 <= probability <= 1):
            raise InputError(
                f"MixUp(alpha={alpha}, probability={probability}): expected alpha ≥ 0 and a probability from 0 to 1"
            )
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
        if drawn is None:
            return images, labels
        blend, partner = ops.convert_to_tensor(drawn[0]), ops.convert_to_tensor(drawn[1])
        return _mix(images, blend, partner), _mix(labels, blend, partner)


def _mix(values, blend, partner):
    values = ops.cast(values, "float32")
    return blend * values + (1 - blend) * ops.take(values, partner, axis=0)
