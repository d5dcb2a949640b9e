"""CutMix and MixUpOrCutMix: at fixed draws against NumPy loops, what is drawn against clovaai's rand_bbox."""

import functools
import math
import re

import numpy as np
import pytest
from keras import ops
from scipy import stats

from kcifar import InputError, backend
from kcifar.augment import CutMix, MixUp, MixUpOrCutMix, RandomFlip
from kcifar.data import Batches, Split

SHAPE = (8, 6, 3)
# A right distribution fails one of these tests at one seed in a million; the seeds are fixed, so none does by chance.
CHANCE = 1e-6
PARTNER = np.int32([2, 0, 1, 3, 5, 4])
BOTH = {"CutMix": CutMix(), "MixUpOrCutMix": MixUpOrCutMix(0.4)}


def images(dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 256, (6, *SHAPE)).astype(dtype)


def one_hot(classes=4):
    return np.eye(classes, dtype="float32")[[0, 1, 2, 3, 1, 0]]


@functools.cache
def compiled(transform):
    return backend.compiled(lambda images, labels, drawn: transform.apply(images, labels, drawn))


def applied(transform, pixels, labels, drawn):
    """Both as NumPy, by the way that batches are made."""
    mixed = compiled(transform)(ops.convert_to_tensor(pixels), ops.convert_to_tensor(labels), drawn)
    return tuple(map(ops.convert_to_numpy, mixed))


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def outside(top, bottom, left, right, shape=SHAPE):
    """1 where an image stays, 0 in the box, and the share of 1."""
    kept = np.ones((*shape[:2], 1), np.float32)
    kept[top:bottom, left:right] = 0
    return kept, np.float32(kept.mean(dtype="float64"))


BOXES = {"inside": (2, 6, 1, 4), "in a corner": (0, 3, 4, 6), "everything": (0, 8, 0, 6), "nothing": (3, 3, 2, 2)}
DRAWN = {name: outside(*box) for name, box in BOXES.items()}
DRAWN["MixUp's"] = np.full((8, 6, 1), 0.3, np.float32), np.float32(0.3)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("transform", BOTH.values(), ids=list(BOTH))
def test_images_and_labels_are_the_loop(transform, name, dtype):
    pixels, labels, (kept, share) = images(dtype), one_hot(), DRAWN[name]
    out, out_labels = applied(transform, pixels, labels, (kept, share, PARTNER))
    expected = np.empty(pixels.shape)
    for n, row, column in np.ndindex(pixels.shape[:3]):
        k = float(kept[row, column, 0])
        expected[n, row, column] = k * pixels[n, row, column] + (1 - k) * pixels[PARTNER[n], row, column]
    # Of a box nothing is rounded; else two products and a sum in float32, each rounded at up to 255: 1e-6 of that.
    np.testing.assert_allclose(out, expected, rtol=0, atol=0 if name in BOXES else 255e-6)
    wanted = [float(share) * labels[n] + (1 - float(share)) * labels[PARTNER[n]] for n in range(6)]
    np.testing.assert_allclose(out_labels, wanted, atol=1e-6)
    assert (out.dtype, out_labels.dtype) == (np.float32, np.float32)


def test_cutmix_by_hand():
    """A box of 3 × 4 of 8 × 6 pixels: a quarter."""
    pixels = np.zeros((6, *SHAPE), np.uint8) + np.uint8([10, 20, 30, 40, 50, 60]).reshape(6, 1, 1, 1)
    out, labels = applied(CutMix(), pixels, one_hot(), (*outside(1, 4, 2, 6), PARTNER))
    assert out[0, :, 3, 0].tolist() == [10, 30, 30, 30, 10, 10, 10, 10]
    assert out[4, 2, :, 2].tolist() == [50, 50, 60, 60, 60, 60]
    assert labels[[0, 4]].tolist() == [[0.75, 0, 0.25, 0], [0.25, 0.75, 0, 0]]


# What is drawn


def clovaais(shape, alpha, generator, root=True, halved=True, within=False, of_area=True):
    """(top, bottom, left, right, λ) of clovaai/CutMix-PyTorch's train.py. The last four are for wrong references."""
    lam = generator.beta(alpha, alpha)
    cut = math.sqrt(1 - lam) if root else 1 - lam
    ends = []
    for side in shape[:2]:
        half = int(side * cut) // 2
        centre = generator.integers(half, side - half) if within else generator.integers(side)
        ends += [max(centre - half, 0), min(centre + half if halved else centre - half + int(side * cut), side)]
    area = (ends[1] - ends[0]) * (ends[3] - ends[2]) / (shape[0] * shape[1])
    return *ends, 1 - area if of_area else lam


def box_of(kept, share):
    """(top, bottom, left, right) of the zeros of an array (height, width, 1) of ones; of none 0, 0, 0, 0."""
    assert abs(share - kept.mean()) < 1e-6
    rows, columns = np.where((kept == 0).any(axis=(1, 2)))[0], np.where((kept == 0).any(axis=(0, 2)))[0]
    if not len(rows):
        return 0, 0, 0, 0
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert np.array_equal(kept, outside(*box, kept.shape)[0])
    return box


def expected_boxes(shape, alpha=1.0, count=4000, seed=0, **wrong):
    return np.array(
        list(map(functools.partial(clovaais, shape, alpha, **wrong), [np.random.default_rng(seed)] * count))
    )


def drawn_boxes(transform, shape, count=4000, seed=0):
    """The boxes and λ of as many batches."""
    generator, found = rng(seed), []
    for _ in range(count):
        kept, share, _ = transform.draw(generator, 4, (*shape, 3))
        found.append((*box_of(kept, share), share))
    return np.array(found)


def worst(one, other):
    """The least probability that both came from one distribution: rows, columns and λ of boxes with any area."""
    one, other = (boxes[boxes[:, 4] < 1] for boxes in (one, other))
    found = [stats.ks_2samp(one[:, 4].round(5), other[:, 4].round(5)).pvalue]  # float32 is not to break ties
    for ends in (slice(0, 2), slice(2, 4)):
        keys, codes = np.unique(np.concatenate([one, other])[:, ends], axis=0, return_inverse=True)
        counts = np.stack([np.bincount(part, minlength=len(keys)) for part in np.split(codes.ravel(), [len(one)])])
        counts = counts[:, counts.sum(axis=0) >= 20]
        found.append(stats.chi2_contingency(counts).pvalue)
    return min(found)


CASES = {"α = 1": ((13, 9), 1.0), "α = 0.3": ((16, 16), 0.3), "α = 5": ((12, 20), 5.0)}


@pytest.mark.parametrize(("shape", "alpha"), CASES.values(), ids=list(CASES))
def test_boxes_are_drawn_as_clovaai_draws_them(shape, alpha):
    drawn, expected = drawn_boxes(CutMix(alpha), shape), expected_boxes(shape, alpha)
    assert worst(drawn, expected) > CHANCE
    # How many have no area; of each at least five, else there is nothing to compare.
    empty = [np.bincount(boxes[:, 4] == 1, minlength=2) for boxes in (drawn, expected)]
    assert np.min(empty) < 5 or stats.chi2_contingency(empty).pvalue > CHANCE


WRONG = {
    # name: (case, what is wrong)
    "sides of 1 − λ": ("α = 1", {"root": False}),
    "odd sides too": ("α = 1", {"halved": False}),
    "boxes inside the image": ("α = 1", {"within": True}),
    "λ before the box is cut off": ("α = 1", {"of_area": False}),
    "half α": ("α = 0.3", {"alpha": 0.15}),
    "height for width": ("α = 5", {"shape": (20, 12)}),
}


@pytest.mark.once
@pytest.mark.parametrize(("case", "wrong"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(case, wrong):
    """So the comparison above would see each of these mistakes."""
    right = dict(zip(("shape", "alpha"), CASES[case], strict=True))
    assert worst(expected_boxes(**right | wrong, seed=1), expected_boxes(**right)) < 1e-9


def test_the_middle_of_the_box_is_any_pixel_alike():
    """At λ = ½ the box has 2·⌊⌊13·√½⌋ / 2⌋ = 8 rows and 2·⌊⌊9·√½⌋ / 2⌋ = 6 columns, before it is cut off."""
    boxes = drawn_boxes(CutMix(1e9), (13, 9), 6000, seed=3)
    rows, columns = ([(max(c - h, 0), min(c + h, n)) for c in range(n)] for n, h in ((13, 4), (9, 3)))
    places = [rows.index((t, b)) * 9 + columns.index((left, right)) for t, b, left, right, _ in boxes.tolist()]
    assert stats.chisquare(np.bincount(places, minlength=13 * 9)).pvalue > CHANCE
    assert stats.chisquare(np.bincount(np.array(places[1:]) // 9 * 13 + np.array(places[:-1]) // 9)).pvalue > CHANCE


@pytest.mark.parametrize("transform", BOTH.values(), ids=list(BOTH))
def test_partners_are_any_permutation_alike(transform):
    generator = rng(6)
    kept, share, partner = transform.draw(generator, 32, (8, 6, 3))
    assert (kept.dtype, share.dtype, partner.dtype) == (np.float32, np.float32, np.int32)
    assert (kept.shape, share.shape, partner.shape) == ((8, 6, 1), (), (32,))
    drawn = [tuple(transform.draw(generator, 3, (8, 6, 3))[2].tolist()) for _ in range(3000)]
    counts = [drawn.count(permutation) for permutation in set(drawn)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > CHANCE


NOTHING = [CutMix(0), CutMix(0.0), CutMix(1.0, probability=0), MixUpOrCutMix(0.4, probability=0.0)]


@pytest.mark.parametrize("transform", NOTHING, ids=["0", "0.0", "CutMix", "MixUpOrCutMix"])
def test_alpha_or_probability_0_leaves_the_batch_as_it_is(transform):
    for seed in range(8):
        out, labels = applied(transform, images(), one_hot(), transform.draw(rng(seed), 6, SHAPE))
        np.testing.assert_array_equal(out, images())
        np.testing.assert_array_equal(labels, one_hot())


def test_the_probability_of_cutmix_is_the_share_of_batches():
    """α = 8 leaves no box without area; the boxes are those of every batch."""
    boxes = drawn_boxes(CutMix(8.0, probability=0.3), (16, 12), seed=7)
    assert stats.binomtest(int((boxes[:, 4] < 1).sum()), 4000, 0.3).pvalue > CHANCE
    assert worst(boxes, expected_boxes((16, 12), 8.0)) > CHANCE


@pytest.mark.parametrize("given", [{}, {"cutmix_probability": 0.3, "probability": 0.6}], ids=["default", "given"])
def test_each_of_the_two_has_its_share_of_batches_and_its_own_lambda(given):
    """MixUp's λ for every pixel from Beta(2, 2); CutMix's boxes from Beta(8, 8), none without area."""
    transform, generator = MixUpOrCutMix(2.0, 8.0, **given), rng(8)
    unmixed, lams, boxes = 0, [], []
    for _ in range(4000):
        kept, share, partner = transform.draw(generator, 4, (16, 12, 3))
        assert sorted(partner.tolist()) == [0, 1, 2, 3]
        if share == 1:
            unmixed += 1
            assert (kept == 1).all()
        elif (kept == 0).any():
            boxes.append((*box_of(kept, share), share))
        else:
            lams.append(share)
            assert (kept == share).all()
    mixed, cut = given.get("probability", 1.0), given.get("cutmix_probability", 0.5)
    shares = np.array([1 - mixed, mixed * (1 - cut), mixed * cut])
    counts = np.array([unmixed, len(lams), len(boxes)])
    assert not counts[shares == 0].any()
    assert stats.chisquare(counts[shares > 0], 4000 * shares[shares > 0]).pvalue > CHANCE
    assert stats.kstest(np.float64(lams), stats.beta(2, 2).cdf).pvalue > CHANCE
    assert worst(np.array(boxes), expected_boxes((16, 12), 8.0)) > CHANCE


@pytest.mark.parametrize("cut", [0.0, 1])
def test_at_cutmix_probability_0_or_1_it_is_always_the_same(cut):
    transform, generator = MixUpOrCutMix(8.0, 8.0, cutmix_probability=cut), rng(9)
    assert {(transform.draw(generator, 4, (16, 12, 3))[0] == 0).any() for _ in range(300)} == {cut == 1}


# In batches


@pytest.mark.parametrize("transform", BOTH.values(), ids=list(BOTH))
def test_labels_are_the_shares_of_the_images_that_they_came_from(transform):
    """Each image all of one value and of a class of its own: its mean in a mixture tells what is due to each class."""
    values = np.uint8(1) << np.arange(8, dtype=np.uint8)
    split = Split(np.zeros((8, 32, 32, 3), np.uint8) + values[:, None, None, None], np.arange(8), 8)
    batches = Batches(split, 8, (RandomFlip(), transform), seed=2)
    least = []
    for epoch in range(12):
        batches.epoch = epoch
        pixels, labels = map(ops.convert_to_numpy, batches[0])
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)  # float32
        np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)), labels @ values, rtol=1e-5)
        least.append(labels.max(axis=1).min())
    assert min(least) < 0.8


@pytest.mark.parametrize("names", ["MixUp CutMix", "MixUp MixUp", "CutMix MixUpOrCutMix", "CutMix RandomFlip MixUp"])
def test_batches_refuse_two_that_mix(names):
    split = Split(np.zeros((6, 32, 32, 3), np.uint8), np.arange(6), 6)
    transforms = [{**BOTH, "MixUp": MixUp(0.4), "RandomFlip": RandomFlip()}[name] for name in names.split()]
    with pytest.raises(InputError) as caught:
        Batches(split, 3, transforms)
    assert {*names.split(), "MixUpOrCutMix"} - {"RandomFlip"} <= set(re.findall(r"\w+", str(caught.value)))
    assert "\n" not in str(caught.value)
    Batches(split, 3, transforms[:1])  # one alone is all right


# What is refused

LABELS = [np.int64([0, 1, 2, 3, 1, 0]), np.float32([0, 1, 2, 3, 1, 0]), np.eye(6, dtype="int32")]


@pytest.mark.parametrize("labels", LABELS, ids=["class numbers", "class numbers as floats", "integer one-hot"])
@pytest.mark.parametrize("transform", [MixUp(0.4), *BOTH.values()], ids=["MixUp", *BOTH])
def test_labels_that_are_not_one_hot_floats_are_refused(transform, labels):
    drawn = transform.draw(rng(), 6, SHAPE)
    with pytest.raises(InputError, match=type(transform).__name__) as caught:
        transform.apply(ops.convert_to_tensor(images()), ops.convert_to_tensor(labels), drawn)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CutMix(-0.1), "-0.1"),
        (lambda: CutMix(float("nan")), "nan"),
        (lambda: CutMix(1.0, probability=1.5), "1.5"),
        (lambda: MixUpOrCutMix(0), "mixup_alpha=0"),
        (lambda: MixUpOrCutMix(0.4, float("inf")), "cutmix_alpha=inf"),
        (lambda: MixUpOrCutMix(0.4, cutmix_probability=1.1), "cutmix_probability=1.1"),
        (lambda: MixUpOrCutMix(0.4, probability=-0.1), "probability=-0.1"),
    ],
)
def test_what_is_out_of_range_is_refused(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
