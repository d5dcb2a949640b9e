"""Crop, flip and MixUp against NumPy loops and Pillow at fixed draws; the distribution of what they draw."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image, ImageOps
from scipy import stats

from kcifar import InputError, data
from kcifar.augment import MixUp, Place, RandomCrop, RandomFlip

# A right distribution fails one of these tests at one seed in a million; the seeds are fixed, so none does by chance.
CHANCE = 1e-6


def pixels(shape=(6, 32, 32, 3), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def one_hot(count, classes=10, seed=1):
    return np.eye(classes, dtype=np.float32)[np.random.default_rng(seed).integers(0, classes, count)]


def applied(transform, images, labels, drawn):
    """`apply` on backend tensors, its results as NumPy arrays."""
    images, labels = transform.apply(ops.convert_to_tensor(images), ops.convert_to_tensor(labels), drawn)
    return ops.convert_to_numpy(images), ops.convert_to_numpy(labels)


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


# RandomCrop


def cropped(image, corner, size, padding):
    """One pixel after the other: what falls outside the image is 0."""
    out = np.zeros((size, size, image.shape[2]), image.dtype)
    for i, j in itertools.product(range(size), range(size)):
        row, column = corner[0] + i - padding, corner[1] + j - padding
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            out[i, j] = image[row, column]
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "size", "padding"),
    [((32, 32, 3), 32, 4), ((32, 32, 3), 20, 0), ((12, 9, 3), 8, 2), ((5, 7, 1), 3, 1)],
)
def test_crop_is_the_loop(shape, size, padding, dtype):
    images, labels = pixels((6, *shape), dtype), one_hot(6)
    bottom, right = shape[0] + 2 * padding - size, shape[1] + 2 * padding - size
    corners = np.int32([(0, 0), (bottom, right), (0, right), (bottom, 0), (1, right - 1), (bottom // 2, 1)])
    out, out_labels = applied(RandomCrop(size, padding), images, labels, corners)
    expected = [cropped(image, corner, size, padding) for image, corner in zip(images, corners, strict=True)]
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out_labels, labels)


def test_crop_is_pillows():
    images = pixels()
    corners = np.int32([(0, 0), (8, 8), (4, 4), (0, 8), (7, 1), (3, 5)])
    out, _ = applied(RandomCrop(32, 4), images, one_hot(6), corners)
    for image, (top, left), window in zip(images, corners.tolist(), out, strict=True):
        padded = ImageOps.expand(Image.fromarray(image), border=4, fill=0)
        np.testing.assert_array_equal(window, padded.crop((left, top, left + 32, top + 32)))


def test_crop_in_the_middle_changes_nothing():
    images = pixels()
    out, _ = applied(RandomCrop(32, 4), images, one_hot(6), np.full((6, 2), 4, np.int32))
    np.testing.assert_array_equal(out, images)


def test_crop_keeps_fractions():
    images = pixels(dtype=np.float32) + np.float32(0.37)
    out, _ = applied(RandomCrop(32, 1), images, one_hot(6), np.zeros((6, 2), np.int32))
    np.testing.assert_array_equal(out[:, 1:, 1:], images[:, :-1, :-1])
    assert not out[:, 0].any()
    assert not out[:, :, 0].any()


def test_crop_draws_every_corner_alike():
    """All 81 places, top and left together: both ends included, and independent of each other."""
    drawn = RandomCrop(32, 4).draw(rng(), 50_000, (32, 32, 3))
    assert drawn.shape == (50_000, 2)
    assert np.issubdtype(drawn.dtype, np.integer)
    assert (drawn.min(), drawn.max()) == (0, 8)
    counts = np.bincount(drawn[:, 0] * 9 + drawn[:, 1], minlength=81)
    assert stats.chisquare(counts).pvalue > CHANCE
    # The next image's corner does not follow from this one's.
    pairs = np.bincount(drawn[:-1, 0] * 9 + drawn[1:, 0], minlength=81)
    assert stats.chisquare(pairs).pvalue > CHANCE


def test_crop_draws_inside_an_oblong_image():
    drawn = RandomCrop(8, 2).draw(rng(), 20_000, (12, 9, 3))
    assert stats.chisquare(np.bincount(drawn[:, 0])).pvalue > CHANCE
    assert stats.chisquare(np.bincount(drawn[:, 1])).pvalue > CHANCE
    assert drawn.max(axis=0).tolist() == [12 + 4 - 8, 9 + 4 - 8]


def test_crop_without_room_draws_the_only_corner():
    assert not RandomCrop(32, 0).draw(rng(), 100, (32, 32, 3)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crop_reflects_as_numpy_does(dtype):
    images, corners = pixels((6, 12, 9, 3), dtype), np.int32([(0, 0), (8, 5), (0, 5), (8, 0), (4, 2), (3, 4)])
    out, _ = applied(RandomCrop(8, 2, "reflect"), images, one_hot(6), corners)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    for image, (top, left), window in zip(padded, corners.tolist(), out, strict=True):
        np.testing.assert_array_equal(window, image[top : top + 8, left : left + 8])


def test_crop_reflects_less_than_the_image():
    RandomCrop(4, 3, "reflect").draw(rng(), 2, (4, 6, 3))
    with pytest.raises(InputError, match="less padding"):
        RandomCrop(4, 4, "reflect").draw(rng(), 2, (4, 6, 3))
    with pytest.raises(InputError, match="'reflect'"):
        RandomCrop(4, 1, "edge")


@pytest.mark.parametrize("arguments", [(0,), (-1,), (32, -1), (32.5,), (32, 0.5), ("32",)], ids=str)
def test_crop_refuses_what_is_no_size(arguments):
    with pytest.raises(InputError) as caught:
        RandomCrop(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 32, 3), (32, 64, 3)])
def test_crop_refuses_a_window_larger_than_the_padded_image(shape):
    with pytest.raises(InputError, match="41"):
        RandomCrop(41, 4).draw(rng(), 2, shape)


# RandomFlip


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(6, 32, 32, 3), (6, 5, 8, 1)])
def test_flip_is_the_loop(shape, dtype):
    images, labels = pixels(shape, dtype), one_hot(6)
    mirror = np.array([True, False, False, True, True, False])
    out, out_labels = applied(RandomFlip(), images, labels, mirror)
    for image, flip, result in zip(images, mirror, out, strict=True):
        np.testing.assert_array_equal(result, image[:, ::-1] if flip else image)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out_labels, labels)


def test_flip_is_pillows_mirror():
    images = pixels()
    out, _ = applied(RandomFlip(), images, one_hot(6), np.ones(6, bool))
    for image, result in zip(images, out, strict=True):
        np.testing.assert_array_equal(result, ImageOps.mirror(Image.fromarray(image)))


def test_flip_draws_a_fair_coin_for_each_image():
    drawn = RandomFlip().draw(rng(), 100_000, (32, 32, 3))
    assert drawn.shape == (100_000,)
    assert drawn.dtype == bool
    assert stats.binomtest(int(drawn.sum()), 100_000, 0.5).pvalue > CHANCE
    assert stats.binomtest(int((drawn[1:] == drawn[:-1]).sum()), 99_999, 0.5).pvalue > CHANCE


ALTERNATING = RandomFlip(alternating=True)


def mirrored(images, epoch, seed=3, flip=ALTERNATING):
    return flip.draw(rng(), len(images), (32, 32, 3), Place(seed, epoch, np.asarray(images)))


def test_alternating_flip_shows_each_image_both_ways_in_any_two_epochs():
    first = mirrored(range(100_000), 0)
    assert stats.binomtest(int(first.sum()), 100_000, 0.5).pvalue > CHANCE
    assert stats.binomtest(int((first[1:] == first[:-1]).sum()), 99_999, 0.5).pvalue > CHANCE
    for epoch in range(1, 5):
        np.testing.assert_array_equal(mirrored(range(100_000), epoch), first ^ (epoch % 2 == 1))
    assert (mirrored(range(1000), 0, seed=4) != first[:1000]).any()


def test_alternating_flip_goes_by_the_image_not_by_its_place_in_the_batch():
    first = mirrored(range(100), 0)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(mirrored(order, 2), first[order])
    np.testing.assert_array_equal(mirrored(order[:7], 1), ~first[order[:7]])


def test_alternating_flip_starts_by_its_probability():
    drawn = mirrored(range(20_000), 0, flip=RandomFlip(0.2, alternating=True))
    assert stats.binomtest(int(drawn.sum()), 20_000, 0.2).pvalue > CHANCE


@pytest.mark.parametrize("before", [[], [RandomCrop(8, 0)], [RandomCrop(8, 1, "reflect")]], ids=len)
def test_batches_flip_each_image_in_every_second_epoch(before):
    """Alone, joined with a crop and behind one: by the columns of images that get darker to the right."""
    images = np.broadcast_to(np.arange(240, 0, -30, dtype=np.uint8)[None, None, :, None], (40, 8, 8, 3))
    split = data.Split(images, np.arange(40) % 10, 10)
    batches = data.Batches(split, 8, [*before, ALTERNATING], seed=5)
    shown = []
    for epoch in range(3):
        parts = [(batches.at(epoch, step)[0], batches._epoch_order(epoch)[step * 8 :][:8]) for step in range(5)]
        of_image = np.empty(40, bool)
        for part, places in parts:
            columns = ops.convert_to_numpy(part).astype(int)[:, 0, :, 0]
            of_image[places] = columns[:, 0] < columns[:, -1]
        shown.append(of_image)
    assert 0 < shown[0].sum() < 40
    np.testing.assert_array_equal(shown[1], ~shown[0])
    np.testing.assert_array_equal(shown[2], shown[0])


def test_alternating_flip_needs_to_know_the_images():
    with pytest.raises(InputError, match="Place"):
        ALTERNATING.draw(rng(), 4, (32, 32, 3))
    with pytest.raises(InputError, match="True or False"):
        RandomFlip(alternating=2)


# MixUp


def drawn_mix(lam=0.3, permutation=(2, 0, 1, 3, 5, 4)):
    return np.float32(lam), np.int32(permutation)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixup_is_the_loop(dtype):
    images, labels = pixels(dtype=dtype), one_hot(6)
    lam, permutation = drawn_mix()
    out, out_labels = applied(MixUp(0.4), images, labels, (lam, permutation))
    for i, j in enumerate(permutation):
        # Two products and a sum in float32, each rounded at up to 255: 1e-6 of that.
        expected = float(lam) * images[i].astype(np.float64) + (1 - float(lam)) * images[j]
        np.testing.assert_allclose(out[i], expected, atol=255e-6)
        np.testing.assert_allclose(out_labels[i], float(lam) * labels[i] + (1 - float(lam)) * labels[j], atol=1e-6)
    assert (out.dtype, out_labels.dtype) == (np.float32, np.float32)


def test_mixup_by_hand():
    images = np.uint8([10, 250, 100]).reshape(3, 1, 1, 1)
    out, labels = applied(MixUp(1.0), images, np.eye(3, dtype=np.float32), drawn_mix(0.75, (1, 2, 0)))
    assert out.ravel().tolist() == [70.0, 212.5, 77.5]
    assert labels.tolist() == [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.25, 0.0, 0.75]]


def test_mixup_with_one_lambda_of_one_changes_no_value():
    images, labels = pixels(), one_hot(6)
    out, out_labels = applied(MixUp(0.4), images, labels, drawn_mix(1.0))
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(out_labels, labels)


def test_mixed_labels_give_the_mixed_loss():
    """CE(ŷ, ỹ) = λ·CE(ŷ, y) + (1−λ)·CE(ŷ, y[π]), image by image."""
    labels = one_hot(6)
    logits = np.random.default_rng(2).normal(scale=3, size=(6, 10))
    lam, permutation = drawn_mix(0.3)
    _, mixed = applied(MixUp(0.4), pixels(), labels, (lam, permutation))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)
    ours = ops.convert_to_numpy(loss(mixed, logits.astype(np.float32)))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    first, second = -(labels * log_p).sum(axis=1), -(labels[permutation] * log_p).sum(axis=1)
    np.testing.assert_allclose(ours, 0.3 * first + 0.7 * second, rtol=2e-6)  # float32 throughout
    assert np.abs(first - second).max() > 1


def test_mixup_commutes_with_normalisation():
    images, labels = pixels(dtype=np.float32), one_hot(6)
    mean = np.float32([0.4914, 0.4822, 0.4465]) * 255
    std = np.float32([0.2023, 0.1994, 0.2010]) * 255
    before, _ = applied(MixUp(0.4), (images - mean) / std, labels, drawn_mix())
    after, _ = applied(MixUp(0.4), images, labels, drawn_mix())
    np.testing.assert_allclose((after - mean) / std, before, atol=3e-6)  # of values up to 2.8, rounded four times


@pytest.mark.parametrize("mixup", [MixUp(0.0), MixUp(0), MixUp(0.4, probability=0), MixUp(0.4, 0.0)])
def test_alpha_or_probability_0_leaves_the_batch_as_it_is(mixup):
    images, labels = pixels(), one_hot(6)
    assert mixup.draw(rng(), 6, (32, 32, 3)) is None
    out, out_labels = applied(mixup, images, labels, None)
    np.testing.assert_array_equal(out, images)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out_labels, labels)


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 8.0])
def test_lambda_is_beta_distributed(alpha):
    generator, mixup = rng(5), MixUp(alpha)
    lams = np.array([mixup.draw(generator, 4, (32, 32, 3))[0] for _ in range(3000)], np.float64)
    assert ((lams >= 0) & (lams <= 1)).all()
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > CHANCE
    # 3,000 draws: mean and variance within 5.5 standard errors of ½ and 1/(4(2α+1)).
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(lams.mean() - 0.5) < 5.5 * (variance / 3000) ** 0.5
    fourth = stats.beta(alpha, alpha).stats("k") + 3
    assert abs(lams.var() - variance) < 5.5 * variance * ((fourth - 1) / 3000) ** 0.5


def test_lambda_is_one_number_and_the_permutation_whole():
    lam, permutation = MixUp(0.4).draw(rng(), 32, (32, 32, 3))
    assert np.shape(lam) == ()
    assert np.asarray(lam).dtype == np.float32
    assert permutation.shape == (32,)
    assert np.issubdtype(permutation.dtype, np.integer)
    assert sorted(permutation.tolist()) == list(range(32))


def test_every_permutation_is_as_likely():
    generator, mixup = rng(6), MixUp(0.4)
    drawn = [tuple(mixup.draw(generator, 3, (32, 32, 3))[1].tolist()) for _ in range(6000)]
    counts = [drawn.count(permutation) for permutation in itertools.permutations(range(3))]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > CHANCE


def test_probability_is_the_share_of_mixed_batches():
    """The rest are left as they are, whatever was drawn for them; the mixed ones keep the Beta distribution."""
    generator, mixup = rng(7), MixUp(2.0, probability=0.3)
    images, labels = pixels((8, 1, 1, 3), np.float32), np.eye(8, dtype=np.float32)
    mixed, lams = 0, []
    for _ in range(1500):
        drawn = mixup.draw(generator, 8, (1, 1, 3))
        out, out_labels = applied(mixup, images, labels, drawn)
        same = np.array_equal(out, images) and np.array_equal(out_labels, labels)
        mixed += not same
        if not same:
            lams.append(float(drawn[0]))
    assert stats.binomtest(mixed, 1500, 0.3).pvalue > CHANCE
    assert stats.kstest(lams, stats.beta(2, 2).cdf).pvalue > CHANCE


@pytest.mark.parametrize(
    "arguments", [(-0.1,), (float("nan"),), (float("inf"),), (0.4, -0.1), (0.4, 1.1), (0.4, float("nan"))]
)
def test_mixup_refuses_an_argument_outside_its_range(arguments):
    with pytest.raises(InputError, match="alpha" if len(arguments) == 1 else "probability") as caught:
        MixUp(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transform", [RandomCrop(32, 4), RandomFlip(), MixUp(0.4)])
def test_the_same_generator_draws_the_same(transform):
    first, second = (transform.draw(rng(9), 16, (32, 32, 3)) for _ in range(2))
    np.testing.assert_equal(first, second)
    assert str(first) != str(transform.draw(rng(10), 16, (32, 32, 3)))
