"""Images whose size depends on the epoch: which size when, the pixels in batches, and sizes that are refused."""

import numpy as np
import pytest
import torch
from keras import ops

from kcifar import InputError, data
from kcifar.augment import ImageSizes, RandomCrop

SIZES = ImageSizes((5, 7, 9), boundary_epochs=(1, 3))


def batches(of_epoch=SIZES):
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (12, 9, 9, 3), np.uint8), rng.integers(0, 10, 12), 10)
    return data.Batches(split, 4, [RandomCrop(9, 1)], of_epoch=of_epoch)


def test_each_size_holds_from_its_epoch_on():
    assert [SIZES(epoch).size for epoch in range(5)] == [5, 7, 7, 9, 9]
    assert [batches().shape_in(epoch) for epoch in (0, 2, 4)] == [(5, 5, 3), (7, 7, 3), (9, 9, 3)]
    assert ImageSizes(24)(8).size == 24


@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_batches_are_the_whole_images_scaled_down(epoch):
    """As torch's antialiased resizing of what the other transforms give."""
    given, labels = batches(None).at(epoch, 1)
    scaled, same = batches().at(epoch, 1)
    pixels = torch.tensor(ops.convert_to_numpy(given)).permute(0, 3, 1, 2).float()
    size = [SIZES(epoch).size] * 2
    expected = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    np.testing.assert_allclose(ops.convert_to_numpy(scaled), expected.numpy(), atol=1e-3)  # of 255, in float32
    np.testing.assert_array_equal(ops.convert_to_numpy(same), ops.convert_to_numpy(labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((24, 0), (1,)), "a size of ImageSizes is 0"),
        (((24, 28.5), (1,)), "28.5"),
        (((24, 28, 32), (3,)), "3 sizes"),
        (((24, 28, 32), (3, 3)), "rising order"),
        (((24, 28, 32), (6, 3)), "rising order"),
        (((24, 28), (0,)), "above 0"),
        (((24, 28), (1.5,)), "whole numbers"),
    ],
    ids=str,
)
def test_refuses_what_is_no_order_of_sizes(arguments, message):
    with pytest.raises(InputError, match=message):
        ImageSizes(*arguments)


def test_refuses_to_end_before_the_last_size():
    SIZES.expect_all_in(4)
    with pytest.raises(InputError, match="from epoch 4 on, but epochs is 3"):
        SIZES.expect_all_in(3)
