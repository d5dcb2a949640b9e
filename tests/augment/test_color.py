"""ColorJitter and Cutout, against colorsys, plain loops and values by hand."""

import colorsys

import numpy as np
import pytest
from keras import ops

from kcifar import InputError, backend, chance
from kcifar.augment import CenterCrop, ColorJitter, Cutout, RandomCrop, RandomRotation, Resize
from kcifar.augment.geometric import Joined
from kcifar.data import Batches, Split

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (6, 7, 3)
# Float32 values up to 255 after a few multiplications and sums.
ROUNDING = 1e-3


def images(count=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def applied(transform, pixels, drawn):
    """Images as NumPy, by the way that batches are made; labels have to come back as they were."""
    labels = np.eye(len(pixels), dtype=np.float32)
    run = backend.compiled(lambda images, labels, drawn: transform.apply(images, labels, drawn))
    changed, kept = run(ops.convert_to_tensor(pixels), ops.convert_to_tensor(labels), drawn)
    np.testing.assert_array_equal(ops.convert_to_numpy(kept), labels)
    return ops.convert_to_numpy(changed)


def alone(pixels, amount, **strength):
    """The images after a jitter of one kind by one amount."""
    drawn = np.full((1, len(pixels)), amount, np.float32), np.zeros(1, np.int32)
    return applied(ColorJitter(**strength), pixels, drawn)


def grey(pixels):
    return np.float64(pixels) @ [0.2989, 0.587, 0.114]


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_brightness_scales(factor):
    pixels = images()
    np.testing.assert_allclose(
        alone(pixels, factor, brightness=1.0), np.clip(pixels * np.float64(factor), 0, 255), atol=ROUNDING
    )


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_saturation_blends_with_the_grey_of_each_pixel(factor):
    pixels = images()
    expected = np.clip(factor * pixels + (1 - factor) * grey(pixels)[..., None], 0, 255)
    np.testing.assert_allclose(alone(pixels, factor, saturation=1.0), expected, atol=ROUNDING)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_contrast_blends_with_the_mean_grey_of_each_image(factor):
    pixels = images()
    mean = grey(pixels).mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
    expected = np.clip(factor * pixels + (1 - factor) * mean, 0, 255)
    np.testing.assert_allclose(alone(pixels, factor, contrast=1.0), expected, atol=ROUNDING)


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 1 / 3, 0.5])
def test_hue_turns_as_in_colorsys(turn):
    pixels = images()
    pixels[0, 0] = [[0, 0, 0], [255, 255, 255], [90, 90, 90], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    expected = np.empty(pixels.shape)
    for place in np.ndindex(pixels.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255.0))
        expected[place] = 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    np.testing.assert_allclose(alone(pixels, turn, hue=0.5), expected, atol=ROUNDING)


def test_a_third_of_a_turn_makes_red_green():
    red = np.broadcast_to(np.uint8([200, 10, 10]), (1, *SHAPE))
    np.testing.assert_allclose(alone(red, 1 / 3, hue=0.5)[0, 0, 0], [10, 200, 10], atol=ROUNDING)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_changes_come_in_the_order_drawn_with_clipping_between(order):
    """Factors that clip make the order matter."""
    pixels = images()
    amounts = np.array([[1.9] * 5, [1.8] * 5, [0.2] * 5], np.float32)
    expected = np.float64(pixels)
    for change in order:
        factor = amounts[change][0]
        grey_of = grey(expected)[..., None]
        other = [0, grey_of.mean(axis=(1, 2), keepdims=True), grey_of][change]
        expected = np.clip(factor * expected + (1 - factor) * other, 0, 255)
    jitter = ColorJitter(brightness=1.0, contrast=1.0, saturation=1.0)
    changed = applied(jitter, pixels, (amounts, np.int32(order)))
    np.testing.assert_allclose(changed, expected, atol=ROUNDING)


def test_each_image_has_amounts_of_its_own():
    pixels = images(3)
    changed = applied(ColorJitter(brightness=1.0), pixels, (np.float32([[0.5, 1.0, 0.0]]), np.zeros(1, np.int32)))
    np.testing.assert_allclose(changed, pixels * np.reshape([0.5, 1.0, 0.0], (3, 1, 1, 1)), atol=ROUNDING)


def test_grey_images_have_brightness_and_contrast():
    pixels = images()[..., :1]
    jitter = ColorJitter(0.5, 0.5)
    amounts, _ = jitter.draw(np.random.default_rng(0), 5, pixels.shape[1:])
    bright = np.clip(pixels * amounts[0].reshape(5, 1, 1, 1), 0, 255)
    mean, factor = bright.mean(axis=(1, 2, 3), keepdims=True), amounts[1].reshape(5, 1, 1, 1)
    wanted = np.clip(factor * bright + (1 - factor) * mean, 0, 255)
    np.testing.assert_allclose(applied(jitter, pixels, (amounts, np.int32([0, 1]))), wanted, atol=ROUNDING)


def test_no_strength_leaves_the_batch_as_it_is():
    pixels, jitter = images(), ColorJitter()
    changed = applied(jitter, pixels, jitter.draw(np.random.default_rng(0), 5, SHAPE))
    np.testing.assert_array_equal(changed, pixels)


def test_amounts_are_uniform_in_torchvisions_ranges():
    jitter = ColorJitter(brightness=0.2, contrast=1.5, hue=0.1)
    amounts, _ = jitter.draw(np.random.default_rng(0), 20_000, SHAPE)
    assert (amounts.dtype, amounts.shape) == (np.float32, (3, 20_000))
    for values, low, high in zip(amounts, (0.8, 0.0, -0.1), (1.2, 2.5, 0.1), strict=True):
        quarters = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        # Of 20,000 uniform values a quartile is off by less than 0.02 of the range but once in 10⁷ times.
        np.testing.assert_allclose((quarters - low) / (high - low), [0, 0.25, 0.5, 0.75, 1], atol=0.02)
        assert low <= quarters[0] <= quarters[-1] <= high


def test_images_that_are_not_chosen_get_amounts_that_change_nothing():
    jitter = ColorJitter(brightness=0.2, hue=0.1, probability=0.3)
    amounts, _ = jitter.draw(np.random.default_rng(0), 20_000, SHAPE)
    alone = (amounts == np.float32([[1], [0]])).all(axis=0)
    assert ((amounts != np.float32([[1], [0]])).all(axis=0) == ~alone).all()
    assert alone.mean() == pytest.approx(0.7, abs=0.02)  # six standard deviations
    assert not ColorJitter(brightness=0.2, probability=0.0).draw(np.random.default_rng(0), 9, SHAPE)[0].mean() - 1


def test_colours_at_the_corners_of_the_hues_circle_and_greys_turn_as_in_colorsys():
    """Where two channels are equal, the circle's corners, no comparison may go wrong."""
    levels = (0, 128, 255)
    corners = np.array([(r, g, b) for r in levels for g in levels for b in levels], np.uint8)
    for turn in (-0.5, -1 / 3, -0.1, 0, 1 / 6, 0.25, 0.5):
        changed = alone(np.broadcast_to(corners, (1, 1, 27, 3)).copy(), turn, hue=0.5)[0, 0]
        for pixel, found in zip(corners / 255, changed, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            np.testing.assert_allclose(found, 255 * np.array(expected), atol=ROUNDING)


def test_behind_an_enlargement_it_is_done_before_it_and_draws_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    enlarge, jitter = [Resize(48), RandomCrop(40), RandomRotation(10)], ColorJitter(0.2, 0.2, 0.2, 0.1)
    batches = Batches(Split(pixels, np.arange(4), 4), 4, [*enlarge, jitter], seed=3, shuffle=False)
    rng = chance.generator(3, chance.TRANSFORMS, 0, 0)
    drawn, shape = [], (32, 32, 3)
    for transform in (*enlarge, jitter):
        drawn.append(transform.draw(rng, 4, shape))
        shape = (*(transform.result_shape(shape[:2]) if transform is not jitter else shape[:2]), 3)
    labels = ops.convert_to_tensor(np.eye(4, dtype="float32"))
    expected, _ = jitter.apply(ops.convert_to_tensor(pixels), labels, drawn[-1])
    expected, _ = Joined(enlarge).apply(expected, labels, drawn[:-1])
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (batches[0][0], expected)), atol=ROUNDING)
    # The other order differs by little, on smooth images.
    smooth = ops.convert_to_tensor(np.repeat(np.linspace(60, 180, 32, dtype="float32"), 96).reshape(1, 32, 32, 3))
    few = drawn[-1][0][:, :1], drawn[-1][1]
    first = [part[:1] if part is not None else None for part in drawn[:-1]]
    before = Joined(enlarge).apply(jitter.apply(smooth, labels[:1], few)[0], labels[:1], first)[0]
    behind = jitter.apply(Joined(enlarge).apply(smooth, labels[:1], first)[0], labels[:1], few)[0]
    assert np.abs(ops.convert_to_numpy(before - behind)).mean() < 3


@pytest.mark.parametrize("transforms", [[RandomRotation(10)], [Resize(32)], [Resize(16)], [CenterCrop(24)]])
def test_where_nothing_is_enlarged_the_order_stays(transforms):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    jitter = ColorJitter(0.2, 0.2, 0.2, 0.1)
    batches = Batches(Split(pixels, np.arange(4), 4), 4, [*transforms, jitter], seed=3, shuffle=False)
    rng = chance.generator(3, chance.TRANSFORMS, 0, 0)
    images, labels = ops.convert_to_tensor(pixels), ops.convert_to_tensor(np.eye(4, dtype="float32"))
    for transform in (*transforms, jitter):
        images, labels = transform.apply(images, labels, transform.draw(rng, 4, tuple(images.shape[1:])))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (batches[0][0], images)), atol=ROUNDING)


def test_every_order_is_drawn():
    jitter, rng = ColorJitter(0.1, 0.1, 0.1, 0.1), np.random.default_rng(0)
    orders = {tuple(jitter.draw(rng, 1, SHAPE)[1]) for _ in range(400)}
    assert len(orders) == 24  # one is missed with probability 24·(23/24)⁴⁰⁰ = 10⁻⁶


@pytest.mark.parametrize("size", [1, 2, 3, 20])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_cutout_covers_the_square_around_its_centre(size, dtype):
    """Every centre, against a loop; outside the square nothing changes."""
    centres = np.array([(row, column) for row in range(SHAPE[0]) for column in range(SHAPE[1])], np.int32)
    pixels = images(len(centres)).astype(dtype)
    expected = pixels.copy()
    for image, (row, column) in zip(expected, centres, strict=True):
        top, left = row - size // 2, column - size // 2
        image[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = [9, 0, 255]
    changed = applied(Cutout(size, fill=(9, 0, 255)), pixels, centres)
    assert changed.dtype == dtype
    np.testing.assert_array_equal(changed, expected)


def test_cutout_by_hand():
    """Side 2 around the pixel (0, 1): row 0 and columns 0 and 1, since row −1 is outside."""
    changed = applied(Cutout(2), np.full((1, *SHAPE), 7, np.uint8), np.int32([[0, 1]]))
    assert np.argwhere(changed[0, :, :, 0] == 0).tolist() == [[0, 0], [0, 1]]


def test_centres_are_uniform_over_the_image():
    centres = Cutout(4).draw(np.random.default_rng(0), 42_000, SHAPE)
    assert (centres.dtype, centres.shape) == (np.int32, (42_000, 2))
    counts = np.zeros(SHAPE[:2], int)
    np.add.at(counts, tuple(centres.T), 1)
    # 1,000 expected for each of 42 pixels, standard deviation 31: beyond 6 of them once in 10⁷ times.
    assert counts.min() > 810
    assert counts.max() < 1190


def test_batches_with_all_of_them():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    split = Split(pixels, np.arange(8), 8)
    batches = Batches(split, 4, [ColorJitter(0.2, 0.2, 0.2, 0.1), Cutout(16, fill=(125, 123, 114))], seed=3)
    changed, _ = batches[0]
    changed = ops.convert_to_numpy(changed)
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    np.testing.assert_array_equal(changed, ops.convert_to_numpy(batches[0][0]))
    assert (changed == np.float32([125, 123, 114])).all(axis=-1).sum(axis=(1, 2)).min() >= 64


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ColorJitter(brightness=-0.1), "brightness=-0.1"),
        (lambda: ColorJitter(contrast=np.nan), "contrast=nan"),
        (lambda: ColorJitter(saturation=np.inf), "saturation=inf"),
        (lambda: ColorJitter(hue=0.51), "at most 0.5"),
        (lambda: ColorJitter(0.1, probability=1.1), "probability=1.1"),
        (lambda: ColorJitter(brightness=(0.8, 1.2)), "brightness=(0.8, 1.2)"),
        (lambda: ColorJitter(0.1).draw(np.random.default_rng(0), 4, (32, 32, 4)), "4 channels"),
        (
            lambda: ColorJitter(saturation=0.1, hue=0.1).draw(np.random.default_rng(0), 4, (32, 32, 1)),
            "saturation=0 and hue",
        ),
        (lambda: Cutout(0), "size=0"),
        (lambda: Cutout(2.5), "size=2.5"),
        (lambda: Cutout(2, fill=256), "fill=256"),
        (lambda: Cutout(2, fill=(0, -1, 0)), "fill=(0, -1, 0)"),
        (lambda: Cutout(2, fill=((0,),)), "one for each channel"),
        (lambda: Cutout(2, fill=(1, 2)).draw(np.random.default_rng(0), 4, SHAPE), "3 channels"),
    ],
)
def test_what_is_out_of_range_is_refused(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert said in str(caught.value)
