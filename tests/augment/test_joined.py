"""Neighbours that move pixels, done by one interpolation: against 3 × 3 matrices in float64, and one after another."""

import functools

import numpy as np
import pytest
from keras import ops

from kcifar import InputError, backend, chance
from kcifar.augment import CenterCrop, ColorJitter, MixUp, RandomAffine, RandomCrop, RandomFlip, RandomRotation, Resize
from kcifar.augment.geometric import Joined
from kcifar.data import Batches, Split
from tests.augment.test_affine import TOLERANCE, affine_matrix, applied, expect, images_of, moved, sampled
from tests.augment.test_crop_flip_mixup import pixels, rng

pytestmark = pytest.mark.usefixtures("quick_compilation")

AFFINE = RandomAffine(15, (0.2, 0.1), (0.8, 1.3), (-10, 10, -5, 5))


def chained(transforms, images, drawn):
    """One transform after the other, each with its own interpolation."""
    for transform, of_transform in zip(transforms, drawn, strict=True):
        images = applied(transform, images, of_transform)
    return images


# --- The reference: a matrix for each transform and image, and what is wrong where it is made otherwise ---


def after(transform, shape):
    """(height, width) behind a transform; the longer side of a resized image is rounded down."""
    if isinstance(transform, Resize):
        return tuple(int(transform.size * side / min(shape)) for side in shape)
    return (transform.size,) * 2 if isinstance(transform, (RandomCrop, CenterCrop)) else shape


def matrix_of(transform, drawn, shape, index):
    """Takes a point of the image before to where it is behind, as the matrices of test_affine.py."""
    height, width = shape
    if isinstance(transform, RandomCrop):
        top, left = drawn[index]
        return moved(transform.padding - left, transform.padding - top)
    if isinstance(transform, CenterCrop):
        return moved(-round((width - transform.size) / 2), -round((height - transform.size) / 2))
    if isinstance(transform, Resize):
        rows, columns = after(transform, shape)
        return np.diag([columns / width, rows / height, 1])
    if isinstance(transform, RandomFlip):
        return moved(width, 0) @ np.diag([-1, 1, 1]) if drawn[index] else np.eye(3)
    if isinstance(transform, RandomRotation):
        return affine_matrix(shape, -float(drawn[index]), 0, 0, 1, 0, 0)
    return affine_matrix(shape, *drawn[:, index].astype(float))


def composed(transforms, drawn, shape, count, backwards=False, updated=True):
    """The matrix of all for each image; the last two arguments are for wrong references."""
    matrices = [np.eye(3)] * count
    for transform, of_transform in zip(transforms, drawn, strict=True):
        for index, before in enumerate(matrices):
            this = matrix_of(transform, of_transform, shape, index)
            matrices[index] = before @ this if backwards else this @ before
        shape = after(transform, shape) if updated else shape
    return matrices


CASES = [
    # Height, width and channels, dtype, transforms.
    ((16, 16, 3), np.uint8, [RandomCrop(16, 3), RandomFlip(), RandomRotation(30), AFFINE]),
    ((10, 16, 3), np.float32, [RandomFlip(), AFFINE, RandomCrop(8, 1), RandomRotation((20, 60))]),
    ((17, 12, 1), np.uint8, [RandomRotation(20), CenterCrop(11), Resize(20), RandomFlip(), RandomCrop(15, 0)]),
    ((10, 16, 3), np.float32, [Resize(24), AFFINE, RandomCrop(20, 2)]),  # 24 × 38: by 2.4 and by 2.375
]


@pytest.mark.parametrize(("shape", "dtype", "transforms"), CASES, ids=range(len(CASES)))
def test_joined_is_one_resampling_by_the_composed_matrices(shape, dtype, transforms):
    joined, images = Joined(transforms), images_of(shape, dtype)
    drawn = joined.draw(rng(1), len(images), shape)
    size = functools.reduce(lambda size, transform: after(transform, size), transforms, shape[:2])
    out = applied(joined, images, drawn)
    assert out.shape == (len(images), *size, shape[2])
    assert joined.result_shape(shape[:2]) == size
    expect(out, images, composed(transforms, drawn, shape[:2], len(images)))


WRONG = {
    "the last first": ({"backwards": True}, {}, (0, 1, 2, 3)),
    "all around the middle of the first image": ({"updated": False}, {}, (1, 2, 3)),
    "nearest": ({}, {"order": 0}, (0, 1, 2, 3)),
    "faded into black": ({}, {"mode": "grid-constant"}, (0, 1, 2, 3)),
}


@pytest.mark.once
@pytest.mark.parametrize(("how", "where", "cases"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_joining_is_far_off(how, where, cases):
    """So the comparison above would see each of these mistakes."""
    for shape, dtype, transforms in [CASES[case] for case in cases]:
        images = images_of(shape, dtype)
        drawn = Joined(transforms).draw(rng(1), len(images), shape)
        size = Joined(transforms).result_shape(shape[:2])
        right, sure = sampled(images, composed(transforms, drawn, shape[:2], len(images)), size)
        matrices = composed(transforms, drawn, shape[:2], len(images), **how)
        wrong, _ = sampled(images, matrices, size, **where)
        assert np.abs(wrong - right)[sure].max() > 1000 * TOLERANCE


LARGE = [Resize(256), RandomCrop(224), RandomFlip()]


def test_enlarging_and_cropping_at_once_is_one_after_the_other():
    images = images_of((32, 32, 3), np.uint8, count=2)
    drawn = [None, np.int32([(0, 32), (17, 5)]), np.array([True, False])]
    out = applied(Joined(LARGE), images, drawn)
    assert out.shape == (2, 224, 224, 3)
    np.testing.assert_allclose(out, chained(LARGE, images, drawn), rtol=0, atol=TOLERANCE)
    transforms, drawn = [*LARGE, RandomRotation(30)], [*drawn, np.float32([25, -10])]
    matrices = composed(transforms, drawn, (32, 32), 2)
    expect(applied(Joined(transforms), images, drawn), images, matrices)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_and_flips_alone_are_exact(dtype):
    """And stay as they are: bytes, or values that an interpolation would round."""
    transforms = [RandomCrop(14, 2), RandomFlip(), CenterCrop(10), RandomFlip()]
    joined, images = Joined(transforms), images_of((16, 16, 3), dtype)
    drawn = joined.draw(rng(), len(images), (16, 16, 3))
    out = applied(joined, images, drawn)
    assert out.dtype == dtype
    for image, (top, left), first, second, result in zip(images, drawn[0], drawn[1], drawn[3], out, strict=True):
        window = np.pad(image, [(2, 2), (2, 2), (0, 0)])[top + 2 : top + 12, left + 2 : left + 12]
        np.testing.assert_array_equal(result, window[:, ::-1] if first != second else window)


def test_nothing_is_blurred_twice():
    """Turned by 10° and back: at once nothing is lost, one after the other a good part of noise is."""
    crop, turn, back = RandomCrop(32, 4), RandomRotation(10), RandomRotation(10)
    images, angles = pixels((4, 32, 32, 3)), np.full(4, 10, np.float32)
    drawn = [np.int32([(4, 4), (0, 8), (3, 5), (8, 1)]), angles, -angles]
    expected = applied(crop, images, drawn[0]).astype(np.float32)
    joined = applied(crop.joined(turn, (32, 32)).joined(back, (32, 32)), images, drawn)
    # Places are off by some 1e-6 of a pixel, neighbours differ by up to 255.
    np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-3)
    interior = slice(8, 24)
    twice = chained([crop, turn, back], images, drawn)
    assert np.abs(twice - expected)[:, interior, interior].mean() > 20


def test_images_of_a_large_batch_are_those_of_a_small_one():
    """It may be done in parts: a million pixels here."""
    images, angles = pixels((1001, 32, 32, 1)), np.linspace(-90, 90, 1001, dtype=np.float32)
    out, few = applied(RandomRotation(90), images, angles), [0, 780, 781, 1000]
    np.testing.assert_allclose(out[few], applied(RandomRotation(90), images[few], angles[few]), rtol=0, atol=TOLERANCE)


# --- What can be joined ---


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (Resize(24), RandomCrop(20), (32, 32)),
        (RandomFlip(), Resize(24), (32, 40)),
        (RandomCrop(40, 4), Resize(36), (32, 32)),  # enlarges the image that comes in, but not the cropped one
        (RandomRotation(5), ColorJitter(0.2), (32, 32)),
        (AFFINE, MixUp(0.4), (32, 32)),
    ],
    ids=["shrinks first", "shrinks second", "shrinks what was cropped", "colours", "mixes"],
)
def test_what_cannot_be_joined(first, second, shape):
    assert first.joined(second, shape) is None
    if isinstance(second, Resize):
        assert RandomFlip().joined(first, shape).joined(second, shape) is None


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (RandomCrop(20), Resize(24), (32, 32)),  # enlarges what was cropped
        (Resize(32), RandomFlip(), (32, 32)),
        (Resize(40), RandomRotation(5), (32, 48)),
        (CenterCrop(20), AFFINE, (32, 48)),
    ],
    ids=["crop, resize", "resize, flip", "resize, rotation", "middle, affine"],
)
def test_what_can_be_joined_is_in_order(first, second, shape):
    once = first.joined(second, shape)
    assert isinstance(once, Joined)
    assert once.transforms == [first, second]
    last = RandomFlip()
    assert once.joined(last, shape).transforms == [first, second, last]
    assert once.transforms == [first, second]


def test_joined_draws_what_each_draws_from_the_same_generator():
    """Each sees the size that those before it leave."""
    transforms = [Resize(48), RandomCrop(40), AFFINE, RandomFlip(0.3), RandomRotation((5, 20), 0.5)]
    shapes = [(24, 32, 3), (48, 64, 3), (40, 40, 3), (40, 40, 3), (40, 40, 3)]
    one, other = rng(3), rng(3)
    found = Joined(transforms).draw(one, 500, (24, 32, 3))
    expected = [transform.draw(other, 500, shape) for transform, shape in zip(transforms, shapes, strict=True)]
    np.testing.assert_equal(found, expected)
    assert one.random() == other.random()
    assert found[1].max(axis=0).tolist() == [8, 24]
    assert np.abs(found[2][1]).max() == 8  # 0.2 of 40 pixels


# --- Batches ---


def split_of(count=8):
    return Split(pixels((count, 32, 32, 3)), np.arange(count) % 4, 4)


def batch_of(transforms, epoch=2, step=1, size=4):
    batches = Batches(split_of(), size, transforms, seed=5, shuffle=False)
    batches.epoch = epoch
    found = tuple(ops.convert_to_numpy(part) for part in batches[step])
    assert found[0].shape[1:] == batches.image_shape
    return found


def by_hand(steps, epoch=2, step=1, size=4):
    """The same batch from `apply` of some (transform, shape that it sees), drawn one after the other."""
    split, generator = split_of(), chance.generator(5, chance.TRANSFORMS, epoch, step)
    chosen = slice(step * size, (step + 1) * size)
    images = ops.convert_to_tensor(split.images[chosen])
    labels = ops.convert_to_tensor(np.eye(4, dtype=np.float32)[split.labels[chosen]])
    for transform, shape in steps:
        drawn = transform.draw(generator, size, shape)
        images, labels = backend.compiled(transform.apply)(images, labels, drawn)
    return ops.convert_to_numpy(images), ops.convert_to_numpy(labels)


def expect_batch(transforms, steps):
    """Compiled together or each apart: the same but for float32."""
    (images, labels), (wanted, wanted_labels) = batch_of(transforms), by_hand(steps)
    assert images.dtype == wanted.dtype
    np.testing.assert_allclose(images, wanted, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(labels, wanted_labels, rtol=0, atol=1e-6)
    return images


SHAPE = (32, 32, 3)
MOVES = [RandomCrop(32, 4), RandomFlip(), RandomRotation((10, 20))]


def test_batches_join_neighbours():
    colour, mix = ColorJitter(0.3, 0.3), MixUp(0.4)
    images = expect_batch([*MOVES, colour, mix], [(Joined(MOVES), SHAPE), (colour, SHAPE), (mix, SHAPE)])
    apart, _ = by_hand([(transform, SHAPE) for transform in [*MOVES, colour, mix]])
    assert np.abs(apart - images).max() > 50  # black corners where the crop cut off what the rotation reaches


def test_batches_of_crops_and_flips_are_exact():
    images, _ = batch_of(MOVES[:2])
    expected, _ = by_hand([(transform, SHAPE) for transform in MOVES[:2]])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)


def test_batches_do_not_join_what_shrinks():
    """Antialiased, and what comes behind it is joined again."""
    shrink, turns = Resize(24), [RandomRotation((10, 20)), RandomCrop(20, 1)]
    images = expect_batch(
        [RandomFlip(), shrink, *turns], [(RandomFlip(), SHAPE), (shrink, SHAPE), (Joined(turns), (24, 24, 3))]
    )
    at_once, _ = by_hand([(Joined([RandomFlip(), shrink, *turns]), SHAPE)])
    assert np.abs(at_once - images).max() > 50


class Mosaic:
    """As a user writes one: only draw and apply. Takes some rows out of each image and changes their colours."""

    def __init__(self):
        self.seen = []

    def draw(self, generator, batch_size, image_shape):
        self.seen.append(image_shape)
        return generator.uniform(0.2, 0.9, (batch_size, 1, 1, 1)).astype("float32")

    def apply(self, images, labels, drawn):
        return ops.cast(images[:, 3:19], "float32") * ops.convert_to_tensor(drawn), labels


def test_a_users_transform_stands_between_what_is_joined():
    own, last = Mosaic(), [RandomCrop(12), RandomRotation((10, 20)), RandomFlip()]
    steps = [(Joined(MOVES[:2]), SHAPE), (own, SHAPE), (Joined(last), (16, 32, 3))]
    expect_batch([*MOVES[:2], own, *last], steps)
    assert set(own.seen) == {SHAPE}


def test_what_does_not_fit_is_refused_also_where_it_would_be_joined():
    for transforms in [[RandomFlip(), CenterCrop(41), RandomRotation(5)], [RandomRotation(5), RandomCrop(41, 4)]]:
        with pytest.raises(InputError, match="41"):
            Batches(split_of(), 4, transforms)


class Brightened(RandomFlip):
    """One that does more than move pixels."""

    joins = False

    def apply(self, images, labels, drawn):
        images, labels = super().apply(images, labels, drawn)
        return ops.maximum(images, ops.cast(7, images.dtype)), labels


@pytest.mark.parametrize("place", [0, 1])
def test_a_subclass_that_does_more_is_not_joined_on_either_side(place):
    transforms = [RandomRotation(10)]
    transforms.insert(place, Brightened())
    split = Split(np.zeros((2, 32, 32, 3), "uint8"), np.arange(2), 2)
    images, _ = Batches(split, 2, transforms, shuffle=False)[0]
    assert ops.convert_to_numpy(images)[:, 16, 16].min() == 7


def test_a_crop_with_padding_is_no_enlargement_that_colours_go_before():
    assert RandomCrop(40, 4).joined(ColorJitter(0.2), (32, 32)) is None
    assert Resize(40).joined(ColorJitter(0.2), (32, 32)) is not None
    assert Joined([RandomCrop(40, 4), RandomFlip()]).joined(ColorJitter(0.2), (32, 32)) is None
