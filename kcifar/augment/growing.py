"""Images whose size depends on the epoch."""

import itertools

from kcifar import geometry
from kcifar.augment.resize import Resize
from kcifar.errors import InputError


class ImageSizes:
    """Scales whole images to a size that changes from epoch to epoch: small ones first cost a fraction.

    A function from an epoch, counted from 0, to the `Resize` of it, for `kcifar.data.Batches(of_epoch=…)`: pixels of
    the shorter side, antialiased. Progressive resizing: Howard 2018 (fast.ai's entries to DAWNBench); Tan & Le 2021,
    "EfficientNetV2" (arXiv 2104.00298), section 4.

        Batches(split, 512, transforms, of_epoch=ImageSizes((24, 28, 32), boundary_epochs=(3, 6)))

    Args:
        sizes: in pixels, each ≥ 1.
        boundary_epochs: after how many epochs the next size begins to hold, rising, one fewer than sizes.

    Raises:
        InputError: sizes that are none, or boundaries that do not fit.
    """

    def __init__(self, sizes, boundary_epochs=()):
        sizes, boundaries = (tuple(v) if isinstance(v, (list, tuple)) else (v,) for v in (sizes, boundary_epochs))
        for size in sizes:
            geometry.expect_pixels("a size of ImageSizes", size)
        if len(sizes) != len(boundaries) + 1:
            raise InputError(
                f"ImageSizes: {len(sizes)} sizes {sizes} and {len(boundaries)} boundary_epochs {boundaries}; expected "
                "one size more than boundaries"
            )
        whole = all(isinstance(epoch, int) and not isinstance(epoch, bool) for epoch in boundaries)
        if not (whole and all(one < other for one, other in itertools.pairwise((0, *boundaries)))):
            raise InputError(
                f"ImageSizes: boundary_epochs is {boundaries}; expected whole numbers of epochs above 0, in rising "
                "order"
            )
        self.sizes = sizes
        self.boundary_epochs = boundaries
        self._transforms = [Resize(size) for size in sizes]

    def __call__(self, epoch):
        return self._transforms[sum(epoch >= boundary for boundary in self.boundary_epochs)]

    def expect_all_in(self, epochs):
        """Raises InputError where a training of so many epochs ends before the last size."""
        if self.boundary_epochs and self.boundary_epochs[-1] >= epochs:
            raise InputError(
                f"image_size ends with {self.sizes[-1]} pixels from epoch {self.boundary_epochs[-1] + 1} on, but "
                f"epochs is {epochs}: expected boundary_epochs below that, or image_size=None"
            )
