"""RandomRotation and RandomAffine against Pillow, NumPy in float64 and by hand at fixed draws; what they draw."""

import functools
import itertools
from operator import methodcaller

import numpy as np
import pytest
from keras import ops
from PIL import Image
from scipy import ndimage, stats

from kcifar import InputError, backend
from kcifar.augment import RandomAffine, RandomRotation
from tests.augment.test_crop_flip_mixup import CHANCE, one_hot, pixels, rng

BILINEAR = Image.Resampling.BILINEAR
# Of 255. A place among 16 pixels, from float32 sines and cosines, is off by up to some 4e-6 of a pixel, and neighbours
# differ by up to 255: 1e-3, measured 6e-4 at most. Pillow calculates in float64.
TOLERANCE = 1e-5 * 255


def applied(transform, images, drawn):
    """Images as NumPy, in jax.jit on JAX, as batches are made. Labels have to come back as they were."""
    labels = one_hot(len(images))
    run = backend.compiled(lambda images, labels, drawn: transform.apply(images, labels, drawn))
    out, out_labels = run(ops.convert_to_tensor(images), ops.convert_to_tensor(labels), drawn)
    np.testing.assert_array_equal(ops.convert_to_numpy(out_labels), labels)
    return ops.convert_to_numpy(out)


# --- The reference: matrices take a point (x, y, 1) to where it goes. x to the right, y down, from the top left corner
# of the image, where the middle of the first pixel is (0.5, 0.5).


def moved(right, down):
    return np.float64([[1, 0, right], [0, 1, down], [0, 0, 1]])


def affine_matrix(shape, degrees, right, down, factor, shear_x, shear_y, order="TCRSYXc", turn=1, lean=-1, middle=0.5):
    """T·C·R·S·Y·X·C⁻¹ of torchvision's documentation; the last four arguments are for wrong references."""
    a, x, y = np.radians([turn * degrees, shear_x, shear_y])
    centre = shape[1] / 2 - 0.5 + middle, shape[0] / 2 - 0.5 + middle
    parts = {
        "T": moved(right, down),
        "C": moved(*centre),
        "R": np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]),
        "S": np.diag([factor, factor, 1]),
        "Y": np.array([[1, 0, 0], [lean * np.tan(y), 1, 0], [0, 0, 1]]),
        "X": np.array([[1, lean * np.tan(x), 0], [0, 1, 0], [0, 0, 1]]),
        "c": moved(-centre[0], -centre[1]),
    }
    return functools.reduce(np.matmul, [parts[letter] for letter in order])


def sampled(images, matrices, size=None, order=1, mode="nearest"):
    """Values in float64, and which are sure: (batch, height, width), not so near the border that rounding decides."""
    height, width = images.shape[1:3]
    rows, columns = size or (height, width)
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    values, sure = [], []
    for image, matrix in zip(images.astype(np.float64), matrices, strict=True):
        from_x, from_y, _ = np.linalg.inv(matrix) @ [x, y, np.ones_like(x)]
        inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height) | (mode != "nearest")
        places = [from_y - 0.5, from_x - 0.5]
        planes = [ndimage.map_coordinates(plane, places, order=order, mode=mode) for plane in np.moveaxis(image, -1, 0)]
        values.append(np.where(inside, planes, 0).reshape(-1, rows, columns))
        distance = np.abs([from_x, from_x - width, from_y, from_y - height]).min(axis=0)
        sure.append((distance > 1e-3).reshape(rows, columns))
    return np.moveaxis(values, 1, -1), np.array(sure)


def expect(out, images, matrices, least_sure=0.98):
    """Which pixels are sure, for other comparisons."""
    values, sure = sampled(images, matrices, out.shape[1:3])
    assert out.dtype == np.float32
    assert sure.mean() > least_sure
    np.testing.assert_allclose(out[sure], values[sure], rtol=0, atol=TOLERANCE)
    assert -1e-4 <= out.min() <= out.max() <= 255 + 1e-4  # the weights of four neighbours add up to 1 but for rounding
    return sure


def expect_pillows(out, images, sure, methods):
    """A method of Pillow for each image, of each channel in mode F, which does not round."""
    for result, image, known, method in zip(out, images, sure, methods, strict=True):
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        changed = np.stack([method(Image.fromarray(plane)) for plane in planes], axis=-1)
        np.testing.assert_allclose(result[known], changed[known], rtol=0, atol=TOLERANCE)


IMAGES = [((12, 12, 3), np.uint8), ((10, 16, 3), np.float32), ((15, 10, 1), np.uint8), ((11, 11, 3), np.float32)]
ANGLES = np.float32([0, 10, -27.3, 45, 90, 137.5, 180])
AFFINE = np.float32(  # degrees, right, down, factor, shear x, shear y
    [
        (0, 3, -2, 1, 0, 0),
        (30, 0, 0, 1, 0, 0),
        (0, 0, 0, 1.7, 0, 0),
        (0, 0, 0, 1, 25, 0),
        (0, 0, 0, 1, 0, -20),
        (-50, 2, 1, 0.8, 15, 0),
        (110, -1, 3, 1.3, -30, 10),
    ]
).T


def images_of(shape, dtype, count=7):
    """All values; the first is white, where weights that add up to more than 1 would show."""
    images = pixels((count, *shape), dtype, seed=4)
    images[0] = 255
    return images if dtype == np.uint8 else images * np.float32(0.999)


@pytest.mark.parametrize(("shape", "dtype"), IMAGES, ids=str)
def test_rotation_is_numpys_and_pillows(shape, dtype):
    images = images_of(shape, dtype)
    out = applied(RandomRotation(180), images, ANGLES)
    matrices = [affine_matrix(shape, -float(angle), 0, 0, 1, 0, 0) for angle in ANGLES]
    sure = expect(out, images, matrices, least_sure=0.95)  # 15 × 10 pixels turned by 90° have two columns there
    expect_pillows(out, images, sure, [methodcaller("rotate", angle, BILINEAR) for angle in ANGLES.tolist()])


@pytest.mark.parametrize(("shape", "dtype"), IMAGES, ids=str)
def test_affine_is_numpys_and_pillows(shape, dtype):
    images = images_of(shape, dtype)
    out = applied(RandomAffine(), images, AFFINE)
    matrices = [affine_matrix(shape, *column) for column in AFFINE.T.astype(float)]
    sure = expect(out, images, matrices)
    sources = [np.linalg.inv(matrix)[:2].ravel().tolist() for matrix in matrices]
    methods = [methodcaller("transform", shape[1::-1], Image.Transform.AFFINE, source, BILINEAR) for source in sources]
    expect_pillows(out, images, sure, methods)


def test_pillow_only_cuts_off_the_fractions_of_bytes():
    images = images_of((12, 12, 3), np.uint8)
    out = applied(RandomRotation(180), images, ANGLES)
    for image, angle, result in zip(images, ANGLES.tolist(), out, strict=True):
        turned = np.asarray(Image.fromarray(image).rotate(angle, BILINEAR), np.float32)
        assert ((result - turned > -TOLERANCE) & (result - turned < 1 + TOLERANCE)).all()
    assert np.abs(out - np.round(out)).max() > 0.4


WRONG = {
    # What: (how the matrix is another, how the sampling is another)
    "the other way round": ({"turn": -1}, {}),
    "sheared the other way": ({"lean": 1}, {}),
    "shears in the other order": ({"order": "TCRSXYc"}, {}),
    "sheared after the turn": ({"order": "TCSYXRc"}, {}),
    "moved first": ({"order": "CRSYXcT"}, {}),
    "not around the middle": ({"order": "TRSYX"}, {}),
    "around the pixel behind the middle": ({"middle": 1}, {}),
    "nearest": ({}, {"order": 0}),
    "faded into black": ({}, {"mode": "grid-constant"}),
}


@pytest.mark.once
@pytest.mark.parametrize(("how", "where"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_affine_is_far_off(how, where):
    """So the comparisons above would see each of these mistakes, in square images and in oblong ones."""
    for shape in ((12, 12, 3), (10, 16, 3)):
        images, columns = images_of(shape, np.float32), AFFINE.T.astype(float)
        right, sure = sampled(images, [affine_matrix(shape, *column) for column in columns])
        wrong, _ = sampled(images, [affine_matrix(shape, *column, **how) for column in columns], **where)
        assert np.abs(wrong - right)[sure].max() > 1000 * TOLERANCE


# --- By hand ---


def one_affine(image, degrees=0, right=0, down=0, factor=1, shear_x=0, shear_y=0):
    drawn = np.float32([degrees, right, down, factor, shear_x, shear_y])[:, None]
    return applied(RandomAffine(), np.float32(image)[None, :, :, None], drawn)[0, :, :, 0]


NUMBERS = np.arange(1, 26).reshape(5, 5)  # 1 … 5 in the first row


def test_quarter_turns_by_hand():
    """A rotation counter-clockwise, 5 comes to the top left; an affine map clockwise, 21 does."""
    out = applied(RandomRotation(90), np.uint8(NUMBERS)[None, :, :, None], np.float32([90]))[0, :, :, 0]
    np.testing.assert_allclose(out, np.rot90(NUMBERS), atol=1e-4)  # neighbours differ by 5, places by some 1e-6
    np.testing.assert_allclose(one_affine(NUMBERS, degrees=90), np.rot90(NUMBERS, -1), atol=1e-4)


def test_translation_by_hand():
    out = one_affine(NUMBERS, right=2, down=1)
    np.testing.assert_allclose(out, np.pad(NUMBERS[:-1, :-2], [(1, 0), (2, 0)]), atol=1e-4)


def test_shears_by_hand():
    """By 45° the upper rows go to the right and the lower to the left; the right columns up and the left down."""
    rows = [[0, 0, 1, 2, 3], [0, 6, 7, 8, 9], [11, 12, 13, 14, 15], [17, 18, 19, 20, 0], [23, 24, 25, 0, 0]]
    np.testing.assert_allclose(one_affine(NUMBERS, shear_x=45), rows, atol=1e-4)
    np.testing.assert_allclose(one_affine(NUMBERS.T, shear_y=45), np.transpose(rows), atol=1e-4)


def test_scaling_by_hand():
    """Twice as large: quarters between the middle pixels. Half as large: means of four, black from the border on."""
    image = np.tile([0, 40, 80, 200], (4, 1))
    np.testing.assert_allclose(one_affine(image, factor=2)[1], [30, 50, 70, 110], atol=1e-3)
    small = one_affine(image, factor=0.5)
    np.testing.assert_allclose(small[1:3], [[0, 20, 140, 0]] * 2, atol=1e-3)
    assert not small[[0, 3]].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("transform", [RandomRotation(0), RandomAffine()], ids=["rotation", "affine"])
def test_no_strength_changes_no_value(transform, dtype):
    images = images_of((10, 16, 3), dtype)
    out = applied(transform, images, transform.draw(rng(), 7, (10, 16, 3)))
    np.testing.assert_array_equal(out, images)
    assert out.dtype == np.float32


# --- What is drawn ---

MANY = 20_000
STRONG = RandomAffine((-20, 50), (0.1, 0.3), (0.5, 1.2), (-10, 30, 5, 25))


def uniform(values, low, high):
    assert low - 1e-5 <= values.min() <= values.max() <= high + 1e-5  # float32
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > CHANCE


@pytest.mark.parametrize(("degrees", "low", "high"), [(15, -15, 15), ((10, 40), 10, 40), ([-3.5, 0], -3.5, 0)])
def test_angles_are_uniform(degrees, low, high):
    angles = RandomRotation(degrees).draw(rng(), MANY, (32, 32, 3))
    assert (angles.dtype, angles.shape) == (np.float32, (MANY,))
    assert uniform(angles, low, high)
    assert uniform(RandomAffine(degrees).draw(rng(), MANY, (32, 32, 3))[0], low, high)
    upper = angles > (low + high) / 2  # the next image's angle does not follow from this one's
    assert stats.binomtest(int((upper[1:] == upper[:-1]).sum()), MANY - 1, 0.5).pvalue > CHANCE


def test_affine_draws_uniformly_and_independently():
    drawn = STRONG.draw(rng(), MANY, (20, 40, 3))
    assert (drawn.dtype, drawn.shape) == (np.float32, (6, MANY))
    for row, low, high in [(0, -20, 50), (3, 0.5, 1.2), (4, -10, 30), (5, 5, 25)]:
        assert uniform(drawn[row], low, high), row
    ranks = np.array([stats.rankdata(values) for values in drawn])
    for first, second in itertools.combinations(ranks, 2):
        assert stats.pearsonr(first, second).pvalue > CHANCE


@pytest.mark.parametrize(("row", "most"), [(1, 4), (2, 6)], ids=["a tenth of the width", "0.3 of the height"])
def test_translations_are_whole_pixels(row, most):
    """Rounded from a uniform number of pixels, so the two ends are half as likely as what lies between."""
    drawn = STRONG.draw(rng(), MANY, (20, 40, 3))[row]
    assert (drawn == np.round(drawn)).all()
    counts = np.bincount(drawn.astype(int) + most, minlength=2 * most + 1)
    likely = np.r_[0.5, np.ones(2 * most - 1), 0.5] / (2 * most)
    assert stats.chisquare(counts, likely * MANY).pvalue > CHANCE


def test_one_shear_leaves_horizontal_lines():
    for shear, low, high in [(12, -12, 12), ((3, 8), 3, 8)]:
        drawn = RandomAffine(shear=shear).draw(rng(), MANY, (32, 32, 3))
        assert uniform(drawn[4], low, high)
        np.testing.assert_array_equal(np.delete(drawn, 4, axis=0), np.tile([[0], [0], [0], [1], [0]], MANY))


@pytest.mark.parametrize("share", [0.3, 0.0])
def test_probability_is_the_share_of_changed_images(share):
    """For each image apart; the others are left as they are, and what is drawn for the changed stays uniform."""
    angles = RandomRotation((10, 40), probability=share).draw(rng(), MANY, (32, 32, 3))
    changed = angles != 0
    assert stats.binomtest(int(changed.sum()), MANY, share).pvalue > CHANCE
    drawn = RandomAffine((10, 40), (0.5, 0.5), (0.5, 0.9), (5, 6, 7, 8), share).draw(rng(), MANY, (32, 32, 3))
    left = (drawn == np.float32([[0], [0], [0], [1], [0], [0]])).all(axis=0)
    assert stats.binomtest(int(left.sum()), MANY, 1 - share).pvalue > CHANCE
    assert (drawn[[0, 3, 4, 5]] != [[0], [1], [0], [0]]).all(axis=0).sum() == MANY - left.sum()
    if share:
        assert uniform(angles[changed], 10, 40)
        assert uniform(drawn[3, ~left], 0.5, 0.9)
        together = share**2 + (1 - share) ** 2
        assert stats.binomtest(int((changed[1:] == changed[:-1]).sum()), MANY - 1, together).pvalue > CHANCE


NO_DEGREES = [-1, (5, -5), (1, 2, 3), (1,), float("nan"), float("inf"), (0, float("nan")), True, "30", None]
NO_SHEARS = [90, -1, (-90, 0), (5, -5), (0, 100), (0, 0, 0), True, "9", (0, 0, 0, 90), (0, 0, 5, -5), (5, -5, 0, 0)]
NO_PROBABILITIES = [1.5, -0.1, float("nan"), True, "0.5", None]
REFUSED = [
    *((transform, "degrees", value) for transform in (RandomRotation, RandomAffine) for value in NO_DEGREES),
    *((transform, "probability", value) for transform in (RandomRotation, RandomAffine) for value in NO_PROBABILITIES),
    *((RandomAffine, "translate", value) for value in [(0, 1.1), (-0.1, 0), 0.1, (0, 0, 0), (0, float("nan")), "ab"]),
    *((RandomAffine, "scale", value) for value in [(0, 1), (1.2, 0.8), (-1, 1), 1.1, (1, float("inf")), (True, 2)]),
    *((RandomAffine, "shear", value) for value in NO_SHEARS),
]


@pytest.mark.parametrize(("transform", "name", "value"), REFUSED, ids=str)
def test_what_is_refused(transform, name, value):
    """By a line that names transform, argument and what was received."""
    with pytest.raises(InputError, match=transform.__name__) as caught:
        transform(**{"degrees": 5, name: value})
    assert f"{name}={value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slope", [1, -1])
def test_a_place_right_on_a_side_is_in_at_the_left_and_out_at_the_right_on_both_backends(slope):
    """A shear by 45 degrees takes pixels from places right on the sides: where rounding decides, backends differ."""
    images = np.full((1, 12, 12, 1), 200, np.uint8)
    degrees = np.degrees(np.arctan(slope))
    drawn = np.array([[0], [0], [0], [1], [degrees], [0]], np.float32)
    found, _ = RandomAffine(shear=60).apply(ops.convert_to_tensor(images), None, drawn)
    place = np.arange(12) - 5.5
    source = place[None, :] + slope * place[:, None]  # of column x in row y: whole numbers, −6 and 6 are the sides
    expected = np.where((source >= -6) & (source < 6), 200, 0)
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0, :, :, 0], expected, atol=1e-3)
