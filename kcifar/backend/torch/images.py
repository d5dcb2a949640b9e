"""Resampling of images."""

import torch
import torch.nn.functional as F

# Of half an image: a place right on a side is in at the left and the top, and out at the others, whatever its rounding.
_INWARDS = 2e-5
_PIXELS_AT_ONCE = 800_000  # of a result, on a CPU: more leave the cache, and are a third slower


def resampled(images, origin, shape):
    """Images of (height, width) `shape`, float32, where each pixel is taken from a place of the images given.

    Bilinear between the four nearest pixels, at the sides between those that there are; 0 outside the images, whose
    sides lie half a pixel beyond the middles of the outermost ones; the left and the top side are part of them. In
    channels_first memory.

    Args:
        images: (batch, height, width, channels), any number type.
        origin: six numbers or tensors (batch,), as `kcifar.augment.geometric.Origin`.
    """
    images = images.permute(0, 3, 1, 2).float().contiguous()
    batch, channels, height, width = images.shape
    # In halves of the image, in which grid_sample counts: its sides are at −1 and 1.
    x_parts, y_parts = (
        [_column(part, batch, images.device) * (2 / side) for part in parts]
        for parts, side in ((origin[:3], width), (origin[3:], height))
    )
    found = images.new_empty(batch, channels, *shape)
    at_once = batch if images.is_cuda else max(1, _PIXELS_AT_ONCE // (shape[0] * shape[1]))
    for first in range(0, batch, at_once):
        few = slice(first, first + at_once)
        grid = _grid([part[few] for part in x_parts], [part[few] for part in y_parts], shape)
        values = F.grid_sample(images[few], grid, mode="bilinear", padding_mode="border", align_corners=False)
        inside = torch.maximum(*grid.add_(_INWARDS).abs_().unbind(-1)) <= 1
        torch.mul(values, inside[:, None], out=found[few])
    return found.permute(0, 2, 3, 1)


def _column(part, batch, device):
    if not isinstance(part, torch.Tensor):
        part = torch.full((1,), part, dtype=torch.float32, device=device)  # which waits for no copy
    return part.reshape(-1, 1, 1).expand(batch, 1, 1)


def _grid(x_parts, y_parts, shape):
    """The places (x, y) that pixels are taken from: (batch, height, width, 2)."""
    rows, columns = (torch.arange(side, device=x_parts[0].device) - (side - 1) / 2 for side in shape)
    grid = x_parts[0].new_empty(len(x_parts[0]), *shape, 2)
    for place, (across, down, shift) in enumerate((x_parts, y_parts)):
        torch.add(across * columns, down * rows[:, None] + shift, out=grid[..., place])
    return grid
