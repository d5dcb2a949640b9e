"""Images of another size."""

from keras import ops

from kcifar import geometry
from kcifar.augment.geometric import Geometric, Origin


class Resize(Geometric):
    """Scales each image so that its shorter side has `size` pixels, by bilinear interpolation.

    As torchvision.transforms.Resize(size): pixels are squares whose centres lie between whole numbers, and where the
    image shrinks, a pixel is a mean over all that it covers (antialiased). Departure: values are not rounded to whole
    numbers. Draws nothing.

    Args:
        size: of the shorter side, in pixels.

    Raises:
        InputError: a size that is no whole number, or below 1.
    """

    def __init__(self, size):
        geometry.expect_pixels("the size of Resize", size)
        self.size = size

    def draw(self, rng, batch_size, image_shape):
        """None."""

    def result_shape(self, shape):
        return geometry.resized(shape, self.size)

    def averages(self, shape):
        return self.size < min(shape)

    def origin(self, drawn, shape):
        height, width = geometry.resized(shape, self.size)
        return Origin(xx=shape[1] / width, yy=shape[0] / height)

    def apply(self, images, labels, drawn=None):
        """Images as float32, and the labels as they are."""
        shape = tuple(images.shape[1:3])
        wanted = geometry.resized(shape, self.size)
        images = ops.cast(images, "float32")
        if wanted == shape:
            return images, labels
        antialias = self.averages(shape)
        return ops.image.resize(images, wanted, "bilinear", antialias=antialias, data_format="channels_last"), labels


class CenterCrop(Geometric):
    """Cuts the middle `size` × `size` pixels out of each image. As torchvision.transforms.CenterCrop(size).

    Draws nothing.

    Args:
        size: height and width, in pixels.

    Raises:
        InputError: a size that is no whole number, or below 1, or (when used) an image that is smaller.
    """

    interpolates = False

    def __init__(self, size):
        geometry.expect_pixels("the size of CenterCrop", size)
        self.size = size

    def draw(self, rng, batch_size, image_shape):
        """None. Raises InputError where an image is smaller than the crop."""
        geometry.margins(image_shape, self.size)

    def result_shape(self, shape):
        return self.size, self.size

    def origin(self, drawn, shape):
        (top, _), (left, _) = geometry.margins(shape, self.size)
        return Origin(x=left + (self.size - shape[1]) / 2, y=top + (self.size - shape[0]) / 2)

    def apply(self, images, labels, drawn=None):
        """Images (batch, size, size, channels) of the dtype given, and the labels as they are."""
        (top, _), (left, _) = geometry.margins(images.shape[1:3], self.size)
        return images[:, top : top + self.size, left : left + self.size], labels
