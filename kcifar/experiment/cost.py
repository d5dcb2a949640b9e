"""The arithmetic of a training."""

import functools

from kcifar.models.flops import flops


class Cost:
    """The floating-point operations of a planned training, as `kcifar.models.flops.flops` counts those of an image.

    SAM takes both passes twice a step. Where a model has layers whose arithmetic is not known, all are None.

    Args:
        planned: what `kcifar.experiment.plan` made of the recipe.
        images: in an epoch.
    """

    def __init__(self, planned, images):
        self._planned = planned
        self.images = images
        self._of_image = functools.lru_cache(lambda shape, trained: flops(planned.part.model, shape))

    def of_epoch(self, epoch, figures):
        """(Of the training, of the evaluation) of an epoch, counted from 0, with those layers trained that are now.

        Args:
            figures: of the epoch, which tell what was evaluated.
        """
        _, training = self._flops(self._planned.batches.shape_in(epoch))
        forward, _ = self._flops(self._planned.batches.image_shape)
        passes = 2 if self._planned.recipe.sharpness_aware else 1
        evaluated = [split for name, split in self._planned.part.splits.items() if f"{name}_loss" in figures]
        return _times(training, passes * self.images), _times(forward, sum(map(len, evaluated)))

    def of_test(self, views):
        """Of so many views of each test image, by the whole model."""
        forward, _ = flops(self._planned.whole)
        return _times(forward, views * len(self._planned.dataset.test))

    def of_features(self):
        """Of the frozen layers that run over each training image once, before training."""
        train = self._planned.part.splits["train"]
        return _times(flops(train.trunk)[0], len(train)) if self._planned.part.on_features else 0

    def _flops(self, shape):
        return self._of_image(shape, tuple(variable.path for variable in self._planned.model.trainable_variables))


def _times(count, factor):
    return None if count is None else count * factor
