"""RandomErasing, and Cutout's probability: against loops at fixed draws; what is drawn, against torchvision's rule."""

import itertools
import math
import random

import numpy as np
import pytest
from keras import ops
from scipy import stats

from kcifar import InputError, backend
from kcifar.augment import Cutout, RandomErasing

SHAPE = (9, 12, 3)
# A right distribution fails one of these tests at one seed in a million; the seeds are fixed, so none does by chance.
CHANCE = 1e-6


def images(count=6, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(dtype)


def applied(transform, pixels, drawn):
    """Images as NumPy, by the way that batches are made; labels have to come back as they were."""
    labels = np.random.default_rng(1).dirichlet(np.ones(4), len(pixels)).astype("float32")
    run = backend.compiled(lambda images, labels, drawn: transform.apply(images, labels, drawn))
    changed, kept = run(ops.convert_to_tensor(pixels), ops.convert_to_tensor(labels), drawn)
    np.testing.assert_array_equal(ops.convert_to_numpy(kept), labels)
    return ops.convert_to_numpy(changed)


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


# Cutout


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_covers_some_images_whole_squares_and_the_others_nowhere(size):
    """Each image is as it was, or has one square of its own around one of its pixels."""
    transform, pixels = Cutout(size, probability=0.5), images(24, seed=2)
    changed = applied(transform, pixels, transform.draw(rng(size), 24, SHAPE)).astype(int)
    covered = 0
    for before, after in zip(pixels.astype(int) + 1, changed + 1, strict=True):
        possible = []
        for row, column in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
            expected, (top, left) = before.copy(), (row - size // 2, column - size // 2)
            expected[max(top, 0) : top + size, max(left, 0) : left + size] = 1
            possible.append(np.array_equal(after, expected))
        assert any(possible) != np.array_equal(after, before)
        covered += any(possible)
    assert 4 <= covered <= 20  # of 24 fair coins, but once in 10⁴ seeds


def test_the_probability_of_cutout_is_the_share_of_images_that_it_covers_wherever():
    """Black single pixels of white images: 30 % have one, which is anywhere alike, and who has one is drawn apart."""
    count, drawn = 12_000, Cutout(1, probability=0.3).draw(rng(3), 12_000, SHAPE)
    black = applied(Cutout(1), np.full((count, *SHAPE), 255, np.uint8), drawn)[..., 0] == 0
    has = black.any(axis=(1, 2))
    assert set(black.sum(axis=(1, 2)).tolist()) == {0, 1}
    assert stats.binomtest(int(has.sum()), count, 0.3).pvalue > CHANCE
    assert stats.chisquare(black.sum(axis=0).ravel()).pvalue > CHANCE
    # Pairs of neighbours in the batch: 9 % both, 42 % one of them.
    pairs = np.bincount(has[0::2].astype(int) + has[1::2], minlength=3)
    assert stats.chisquare(pairs, count / 2 * np.array([0.49, 0.42, 0.09])).pvalue > CHANCE


@pytest.mark.parametrize("probability", [0, 1.0])
def test_at_probability_0_nothing_is_covered_and_at_1_everything(probability):
    pixels = np.full((100, *SHAPE), 255, np.uint8)
    for transform in (Cutout(3, probability=probability), RandomErasing(probability, scale=(0.1, 0.2))):
        changed = applied(transform, pixels, transform.draw(rng(), 100, SHAPE))
        assert (changed == 0).any(axis=(1, 2, 3)).mean() == probability


# RandomErasing at fixed draws

FIRST = np.int32([(0, 0), (8, 11), (3, 2), (2, 4), (0, 0), (1, 0)])
BOX = np.int32([(2, 5), (1, 1), (6, 10), (0, 0), (8, 11), (3, 12)])
FILLS = {
    # name: (constructor's, as it is drawn)
    "a number": (117, np.float32(117)),
    "per channel": ((125, 0, 255), np.float32([125, 0, 255])),
    "random": ("random", np.random.default_rng(5).integers(0, 256, (6, *SHAPE)).astype("uint8")),
}


def filled(pixels, first, box, fill):
    """One pixel after the other."""
    result, fill = pixels.copy(), np.broadcast_to(fill, pixels.shape)
    for n, row, column in np.ndindex(pixels.shape[:3]):
        (top, left), (height, width) = first[n], box[n]
        if top <= row < top + height and left <= column < left + width:
            result[n, row, column] = fill[n, row, column]
    return result


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("given", "fill"), FILLS.values(), ids=list(FILLS))
def test_erasing_is_the_loop(given, fill, dtype):
    pixels = images(dtype=dtype) + np.array(0.37 * (dtype == "float32"), dtype)  # fractions stay
    changed = applied(RandomErasing(fill=given), pixels, (FIRST, BOX, fill))
    assert changed.dtype == dtype
    np.testing.assert_array_equal(changed, filled(pixels, FIRST, BOX, fill))


def test_erasing_by_hand():
    """Top 1, left 2, height 3, width 1."""
    drawn = np.int32([(1, 2)] * 6), np.int32([(3, 1)] * 6), np.float32(0)
    changed = applied(RandomErasing(), np.full((6, *SHAPE), 7, np.uint8), drawn)
    assert np.argwhere(changed[5, :, :, 1] == 0).tolist() == [[1, 2], [2, 2], [3, 2]]


@pytest.mark.parametrize("given", [fill for fill, _ in FILLS.values()], ids=list(FILLS))
def test_what_is_drawn_covers_boxes_with_the_fill_asked_for(given):
    transform, pixels = RandomErasing(1.0, fill=given), images(seed=8)
    first, box, fill = transform.draw(rng(9), 6, SHAPE)
    assert (first.dtype, first.shape, box.dtype, box.shape) == (np.int32, (6, 2), np.int32, (6, 2))
    assert np.shape(fill) == ((6, *SHAPE) if given == "random" else np.shape(given))
    expected = filled(pixels, first, box, fill if given == "random" else given)
    np.testing.assert_array_equal(applied(transform, pixels, (first, box, fill)), expected)
    assert (box > 0).all(axis=1).sum() >= 4  # a box of 2 % may round to no row


def test_random_fill_is_uniform_for_each_pixel_and_channel_alone():
    fill = RandomErasing(fill="random").draw(rng(10), 400, SHAPE)[2]
    assert fill.dtype == np.uint8
    assert stats.chisquare(np.bincount(fill.ravel(), minlength=256)).pvalue > CHANCE
    coarse = fill.astype(int) // 32
    for other in (np.roll(coarse, 1, axis) for axis in range(4)):
        assert stats.chisquare(np.bincount((coarse * 8 + other).ravel(), minlength=64)).pvalue > CHANCE


# What RandomErasing draws

DEFAULT = {"scale": (0.02, 0.33), "ratio": (0.3, 3.3)}


def torchvisions(shape, scale, ratio, generator, tries=10, whole=round, uniform_ratio=False, full=False):
    """RandomErasing.get_params: (top, left, height, width), zeros for none. The last four are for wrong references."""
    rows, columns = shape
    for _ in range(tries):
        area = rows * columns * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        if uniform_ratio:
            aspect = generator.uniform(*ratio)
        height, width = whole(math.sqrt(area * aspect)), whole(math.sqrt(area / aspect))
        if (height < rows and width < columns) or (full and height <= rows and width <= columns):
            return generator.randint(0, rows - height), generator.randint(0, columns - width), height, width
    return 0, 0, 0, 0


def expected_boxes(shape, count=10_000, seed=0, **arguments):
    generator = random.Random(seed)
    return np.array([torchvisions(shape, generator=generator, **arguments) for _ in range(count)])


def drawn_boxes(shape, count=10_000, seed=0, **arguments):
    first, box, _ = RandomErasing(1.0, **arguments).draw(rng(seed), count, (*shape, 3))
    # torchvision has no box at (0, 0); where none is, is of no matter.
    return np.concatenate([first * (box > 0).any(axis=1, keepdims=True), box], axis=1)


def worst(one, other):
    """The least probability that both came from one distribution: sides and their places, both sides, area."""
    found = []
    for place, size in ((0, 2), (1, 3), (2, 3)):
        keys, codes = np.unique(np.concatenate([one, other])[:, [place, size]], axis=0, return_inverse=True)
        counts = np.stack([np.bincount(part, minlength=len(keys)) for part in np.split(codes.ravel(), 2)])
        rare = counts.sum(axis=0) < 20
        pooled = np.concatenate([counts[:, ~rare], counts[:, rare].sum(axis=1, keepdims=True)], axis=1)
        pooled = pooled[:, pooled.sum(axis=0) > 0]
        found.append(stats.chi2_contingency(pooled).pvalue if pooled.shape[1] > 1 else 1.0)
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (one, other)]
    return min(*found, stats.ks_2samp(*areas).pvalue)


BOXES = {
    "default": ((32, 32), DEFAULT),
    "oblong": ((20, 36), DEFAULT),
    "wide scale": ((32, 32), {"scale": (0.3, 1.0), "ratio": (0.3, 3.3)}),
    "tall": ((24, 24), {"scale": (0.05, 0.6), "ratio": (2.0, 5.0)}),
    "small": ((8, 9), {"scale": (0.02, 0.9), "ratio": (0.5, 2.0)}),
}


@pytest.mark.parametrize(("shape", "arguments"), BOXES.values(), ids=list(BOXES))
def test_boxes_are_drawn_as_torchvision_draws_them(shape, arguments):
    drawn = drawn_boxes(shape, **arguments)
    assert worst(drawn, expected_boxes(shape, **arguments)) > CHANCE
    assert (drawn >= 0).all()
    assert (drawn[:, :2] + drawn[:, 2:] <= shape).all()
    assert (drawn[:, 2:] < shape).all()


WRONG = {
    # name: (case, what is wrong)
    "rounded down": ("default", {"whole": math.floor}),
    "a ratio that is uniform itself": ("default", {"uniform_ratio": True}),
    "width over height": ("tall", {"ratio": (1 / 5, 1 / 2)}),
    "one try": ("wide scale", {"tries": 1}),
    "seven tries": ("wide scale", {"tries": 7}),
    "as high as the image": ("small", {"full": True}),
    "a scale a little less": ("default", {"scale": (0.02, 0.3)}),
}


@pytest.mark.once
@pytest.mark.parametrize(("case", "wrong"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(case, wrong):
    """So the comparison above would see each of these mistakes."""
    shape, arguments = BOXES[case]
    assert worst(expected_boxes(shape, seed=1, **arguments | wrong), expected_boxes(shape, **arguments)) < 1e-12


def test_the_share_is_uniform_and_the_ratio_log_uniform_and_both_are_independent():
    """On an image so large that rounding is nothing (1e-3), with boxes that always fit."""
    side = 3000
    box = drawn_boxes((side, side), scale=(0.1, 0.2), ratio=(0.5, 2.0))[:, 2:].astype(float)
    share, ratio = box.prod(axis=1) / side**2, np.log2(box[:, 0] / box[:, 1])
    assert stats.kstest(share, stats.uniform(0.1, 0.1).cdf).pvalue > CHANCE
    assert stats.kstest(ratio, stats.uniform(-1, 2).cdf).pvalue > CHANCE
    assert abs(stats.spearmanr(share, ratio).statistic) < 5 / 10_000**0.5
    for values in (share, ratio):  # the next image's does not follow from this one's
        assert abs(stats.spearmanr(values[1:], values[:-1]).statistic) < 5 / 10_000**0.5


def test_the_place_is_uniform_among_all_that_fit():
    """√(32·24/4) is 13.9, so 14 × 14: 19 rows and 11 columns to begin at."""
    drawn = drawn_boxes((32, 24), 60_000, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    assert (drawn[:, 2:] == 14).all()
    assert drawn[:, :2].max(axis=0).tolist() == [18, 10]
    assert stats.chisquare(np.bincount(drawn[:, 0] * 11 + drawn[:, 1], minlength=19 * 11)).pvalue > CHANCE
    assert stats.chisquare(np.bincount(drawn[1:, 0] * 19 + drawn[:-1, 0], minlength=19 * 19)).pvalue > CHANCE


def test_after_ten_boxes_that_do_not_fit_there_is_none():
    """Three times as high as wide, √(3·share) of the side: it fits below a share of 0.3330, 4.714 % of the draws."""
    drawn = drawn_boxes((1000, 1000), scale=(0.3, 1.0), ratio=(3.0, 3.0))
    fits = (999.5**2 / 3 / 1000**2 - 0.3) / 0.7
    none = (drawn[:, 2:] == 0).all(axis=1)
    assert stats.binomtest(int(none.sum()), 10_000, (1 - fits) ** 10).pvalue > CHANCE
    assert (drawn[~none, 2:] > 0).all()


@pytest.mark.parametrize(
    "arguments", [{"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}, {"scale": (0.9, 1.0), "ratio": (3, 4)}]
)
def test_where_no_box_fits_the_images_stay_as_they_are(arguments):
    transform, pixels = RandomErasing(1.0, **arguments, fill="random"), images()
    drawn = transform.draw(rng(), 6, SHAPE)
    assert not drawn[1].any()
    np.testing.assert_array_equal(applied(transform, pixels, drawn), pixels)


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_the_probability_of_erasing_is_the_share_of_images_covered(probability):
    """Whatever the box: those of covered images are distributed as at probability 1."""
    transform = RandomErasing(**{} if probability == 0.5 else {"probability": probability})  # ½ is the default
    first, box, _ = transform.draw(rng(4), 60_000, (64, 64, 3))
    covered = (box > 0).all(axis=1)  # the least box is √(0.02·64²/3.3) = 5 pixels wide, so never rounded to none
    assert stats.binomtest(int(covered.sum()), 60_000, probability).pvalue > CHANCE
    pairs = np.bincount(covered[0::2] * 2 + covered[1::2], minlength=4)
    share = np.outer(*[[1 - probability, probability]] * 2).ravel()
    assert stats.chisquare(pairs, 30_000 * share).pvalue > CHANCE
    found = np.concatenate([first, box], axis=1)[covered][:10_000]
    assert worst(found, expected_boxes((64, 64), 10_000, **DEFAULT)) > CHANCE


# What is refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cutout(4, probability=1.1), "1.1"),
        (lambda: Cutout(4, probability="half"), "half"),
        (lambda: RandomErasing(probability=-0.5), "-0.5"),
        (lambda: RandomErasing(probability=2), "2"),
        (lambda: RandomErasing(scale=(0.3, 0.2)), "scale=(0.3, 0.2)"),
        (lambda: RandomErasing(scale=(-0.1, 0.2)), "scale=(-0.1, 0.2)"),
        (lambda: RandomErasing(scale=(0.1, 1.5)), "(0.1, 1.5)"),
        (lambda: RandomErasing(scale=0.2), "scale=0.2"),
        (lambda: RandomErasing(ratio=(3.3, 0.3)), "ratio=(3.3, 0.3)"),
        (lambda: RandomErasing(ratio=(0, 1)), "ratio=(0, 1)"),
        (lambda: RandomErasing(ratio=(1, float("inf"))), "inf"),
        (lambda: RandomErasing(fill=256), "256"),
        (lambda: RandomErasing(fill="noise"), "noise"),
        (lambda: RandomErasing(fill=(1, 2)).draw(rng(), 4, SHAPE), "3 channels"),
        (lambda: RandomErasing(fill=(1, 2, 3)).draw(rng(), 4, (9, 12, 1)), "1 channel"),
    ],
)
def test_what_is_out_of_range_is_refused(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fill_that_is_an_array_is_refused():
    with pytest.raises(InputError, match="one for each channel"):
        RandomErasing(fill=np.array([1, 2, 3]))
