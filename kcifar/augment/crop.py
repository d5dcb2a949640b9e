"""A random window of the padded image."""

from keras import ops

from kcifar.augment.geometric import Geometric, Origin
from kcifar.errors import InputError

_MODES = ("constant", "reflect")


class RandomCrop(Geometric):
    """Cuts a window of `size` × `size` pixels at a random place out of the image padded with `padding` pixels.

    As torchvision.transforms.RandomCrop(size, padding, padding_mode=…), with one place for each image.

    Args:
        size: height and width of the window, in pixels.
        padding: pixels added on each of the four sides first.
        padding_mode: `constant`, black ones, or `reflect`, the image mirrored at its outermost pixels.

    Raises:
        InputError: a size below 1, a negative padding, another mode, or (when drawing) a window larger than the padded
            image, or an image too small to reflect so much of it.
    """

    interpolates = False

    def __init__(self, size, padding=0, padding_mode="constant"):
        if not (isinstance(size, int) and isinstance(padding, int) and size >= 1 and padding >= 0):
            raise InputError(
                f"RandomCrop(size={size!r}, padding={padding!r}): expected whole pixels, size ≥ 1 and padding ≥ 0"
            )
        if padding_mode not in _MODES:
            raise InputError(
                f"RandomCrop(padding_mode={padding_mode!r}): expected one of {', '.join(map(repr, _MODES))}"
            )
        self.size = size
        self.padding = padding
        self.padding_mode = padding_mode
        self.joins = padding_mode == "constant"

    def draw(self, rng, batch_size, image_shape):
        """Top and left corners of the windows in the padded image: int32 (batch, 2)."""
        room = [side + 2 * self.padding - self.size for side in image_shape[:2]]
        if min(room) < 0:
            raise InputError(
                f"RandomCrop(size={self.size}, padding={self.padding}): the window is larger than the padded image of "
                f"{image_shape[0]}×{image_shape[1]} pixels; use a smaller size or more padding"
            )
        if self.padding_mode == "reflect" and self.padding >= min(image_shape[:2]):
            raise InputError(
                f"RandomCrop(padding={self.padding}, padding_mode='reflect'): an image of {image_shape[0]}×"
                f"{image_shape[1]} pixels can be reflected by less than its shorter side; use less padding"
            )
        return rng.integers(0, room, (batch_size, 2), dtype="int32", endpoint=True)

    def result_shape(self, shape):
        return self.size, self.size

    def origin(self, drawn, shape):
        corners = ops.cast(ops.convert_to_tensor(drawn), "float32")
        down, right = (corners[:, axis] - self.padding + (self.size - shape[axis]) / 2 for axis in (0, 1))
        return Origin(x=right, y=down)

    def apply(self, images, labels, drawn):
        """Images (batch, size, size, channels) of the dtype given, and the labels as they are."""
        pad = (self.padding, self.padding)
        padded = ops.pad(images, ((0, 0), pad, pad, (0, 0)), self.padding_mode)
        batch, height, width, channels = padded.shape
        corners = ops.convert_to_tensor(drawn)
        side = ops.arange(self.size, dtype="int32")
        rows = corners[:, 0, None] + side + ops.arange(batch, dtype="int32")[:, None] * height
        columns = corners[:, 1, None] + side
        pixels = rows[:, :, None] * width + columns[:, None, :]
        return ops.take(ops.reshape(padded, (-1, channels)), pixels, axis=0), labels
