"""CutMix: a box of each image from another of its batch; and either this or MixUp."""

import numpy as np
from keras import ops

from kcifar.augment.mixup import MixUp, mixed
from kcifar.augment.parameters import expect_alpha, expect_one_hot, expect_probability


class CutMix:
    """Puts a box of a partner into each image, and mixes the labels by area: ỹ = λy + (1−λ)y[π].

    One λ ~ Beta(α, α), one box and one permutation π for the whole batch (Yun et al. 2019, arXiv 1905.04899, and its
    program clovaai/CutMix-PyTorch): the box has √(1−λ) of the image's height and width, rounded down to even numbers,
    around a pixel drawn uniformly; it is cut off at the image's sides, and λ becomes the share that is left of it.

    Args:
        alpha: α ≥ 0 of the Beta distribution; 0 leaves every batch as it is.
        probability: that a batch is mixed at all, in [0, 1].

    Raises:
        InputError: α or the probability outside its range, or (when applied) labels that are not one-hot.
    """

    mixes = True

    def __init__(self, alpha=1.0, probability=1.0):
        expect_alpha("CutMix", "alpha", alpha)
        expect_probability("CutMix", probability)
        self.alpha = alpha
        self.probability = probability

    def draw(self, rng, batch_size, image_shape):
        """Which pixels stay, 1 or 0, float32 (height, width, 1); their share λ, float32; and π, int32 (batch,)."""
        height, width = image_shape[:2]
        partner = rng.permutation(batch_size).astype("int32")
        kept = np.ones((height, width, 1), np.float32)
        if self.alpha > 0 and rng.random() < self.probability:
            side = np.sqrt(1 - rng.beta(self.alpha, self.alpha))
            kept[_cut(rng, height, side), _cut(rng, width, side)] = 0
        return kept, kept.mean(dtype="float64").astype("float32"), partner

    def apply(self, images, labels, drawn):
        """Images and labels as float32, of the shapes given."""
        expect_one_hot(type(self).__name__, images, labels)
        kept, share, partner = map(ops.convert_to_tensor, drawn)
        return mixed(images, kept, partner), mixed(labels, share, partner)


class MixUpOrCutMix(CutMix):
    """Either MixUp or CutMix, drawn for each batch: the two together, as in timm's `Mixup(switch_prob=…)`.

    Args:
        mixup_alpha, cutmix_alpha: α > 0 of the Beta distribution of each.
        cutmix_probability: that it is CutMix, in [0, 1].
        probability: that a batch is mixed at all, in [0, 1].

    Raises:
        InputError: a number outside its range, or (when applied) labels that are not one-hot.
    """

    def __init__(self, mixup_alpha, cutmix_alpha=1.0, cutmix_probability=0.5, probability=1.0):
        expect_alpha("MixUpOrCutMix", "mixup_alpha", mixup_alpha, above=True)
        expect_alpha("MixUpOrCutMix", "cutmix_alpha", cutmix_alpha, above=True)
        expect_probability("MixUpOrCutMix", cutmix_probability, "cutmix_probability")
        self.cutmix_probability = cutmix_probability
        super().__init__(cutmix_alpha, probability)
        self.mixup = MixUp(mixup_alpha, probability)

    def draw(self, rng, batch_size, image_shape):
        """As CutMix; where it is MixUp, its λ for every pixel."""
        if self.probability == 0 or rng.random() < self.cutmix_probability:
            return super().draw(rng, batch_size, image_shape)
        blend, partner = self.mixup.draw(rng, batch_size, image_shape)
        return np.full((*image_shape[:2], 1), blend), blend, partner


def _cut(rng, side, share):
    """The slice of a side that is cut out, around a uniform pixel."""
    half, middle = int(side * share) // 2, rng.integers(side)
    return slice(max(middle - half, 0), min(middle + half, side))
