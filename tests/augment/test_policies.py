"""RandAugment and TrivialAugment: each operation against Pillow, what is drawn against torchvision's tables."""

import functools

import numpy as np
import pytest
from keras import ops
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from kcifar import InputError, backend
from kcifar.augment import RandAugment, TrivialAugment
from kcifar.augment.policies import OPERATIONS

SHAPE = (30, 36, 3)
# A right distribution fails one of these tests at one seed in a million; the seeds are fixed, so none does by chance.
CHANCE = 1e-6
ENHANCED = ("Brightness", "Color", "Contrast", "Sharpness")
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", *ENHANCED)


def images():
    """Six unlike images, twice: smooth, noise, noise of few values, one colour, one channel flat, mostly white."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = [np.cos(rows * a + columns * b + c) + 0.02 * columns for a, b, c in rng.uniform(0.05, 0.3, (3, 3))]
    smooth = 120 + 70 * np.stack(waves, -1) + rng.normal(0, 3, SHAPE)
    noise = rng.integers(0, 256, SHAPE)
    one_flat = np.where(np.arange(3) == 1, 128, smooth[::-1])
    white = np.where(rng.random(SHAPE) < 0.9, 255, noise)
    six = [smooth, noise, rng.integers(90, 141, SHAPE), np.broadcast_to([37, 200, 90], SHAPE), one_flat, white]
    return np.stack([*six, *six]).clip(0, 255).astype("uint8")


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@functools.cache
def compiled(transform):
    return backend.compiled(lambda images, labels, drawn: transform.apply(images, labels, drawn))


ONE, TWO = TrivialAugment(), RandAugment(2)
ONE_OF_FLOATS = RandAugment(1)  # the same, so that both are tested; for JAX each dtype is a compilation anyway


def applied(transform, pixels, chosen, amounts):
    """Images as NumPy, by the way that batches are made; labels have to come back as they were."""
    labels = np.random.default_rng(1).dirichlet(np.ones(4), len(pixels)).astype("float32")
    drawn = np.int32(chosen), np.float32(amounts)
    changed, kept = compiled(transform)(ops.convert_to_tensor(pixels), ops.convert_to_tensor(labels), drawn)
    np.testing.assert_array_equal(ops.convert_to_numpy(kept), labels)
    assert changed.shape == pixels.shape
    return ops.convert_to_numpy(changed)


def alone(name, amounts, pixels=None):
    """The images after this operation by these amounts."""
    pixels = images() if pixels is None else pixels
    policy = ONE if pixels.dtype == np.uint8 else ONE_OF_FLOATS
    return applied(policy, pixels, np.full((1, len(pixels)), OPERATIONS.index(name)), np.reshape(amounts, (1, -1)))


def pillows(name, amount, pixels):
    """One image after one operation as torchvision has Pillow do it."""
    image, amount = Image.fromarray(pixels), float(np.float32(amount))
    if name.startswith(("Shear", "Translate")):
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        matrix[{"ShearX": 1, "ShearY": 3, "TranslateX": 2, "TranslateY": 5}[name]] = amount if "S" in name else -amount
        return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    if name in ENHANCED:
        return np.asarray(getattr(ImageEnhance, name)(image).enhance(1 + amount))
    others = {
        "Identity": lambda: image,
        "Rotate": lambda: image.rotate(amount, Image.Resampling.BILINEAR),
        "Posterize": lambda: ImageOps.posterize(image, int(amount)),
        "Solarize": lambda: ImageOps.solarize(image, amount),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    return np.asarray(others[name]())


def expected(name, amounts):
    amounts = np.broadcast_to(amounts, len(images()))
    return np.stack([pillows(name, amount, image) for amount, image in zip(amounts, images(), strict=True)])


# Each operation

EIGHTHS = ((0.25, -0.25), (0.5, -0.5), (0.875, -0.875))
FRACTIONS = ((0.27, -0.27), (0.9, -0.9), (0.495, -0.495), (0.99, -0.99))
EXACT = {
    # Whole numbers only, or products that float32 holds.
    "Identity": [(0, 0)],
    "TranslateX": [(1, -1), (14, -14), (35, -36)],
    "TranslateY": [(3, -3), (13, -13), (29, -32)],
    **dict.fromkeys(ENHANCED, EIGHTHS),
    "Posterize": [(8, 7), (6, 5), (4, 3), (2, 2)],
    "Solarize": [(255, 246.5), (178.5, 93.5), (128, 8.5), (0, 0)],
    "Equalize": [(0, 0)],
}
NEAR = {
    # Slopes are odd over even numbers, so that no pixel comes from exactly the side of the image.
    **dict.fromkeys(("ShearX", "ShearY", *ENHANCED), FRACTIONS),
    "Rotate": [(1, -1), (9, -9), (30, -30), (67.5, -67.5), (135, -135)],
}


def pairs(table):
    return [pytest.param(name, amounts, id=f"{name} {amounts}") for name in table for amounts in table[name]]


@pytest.mark.parametrize(("name", "amounts"), pairs(EXACT))
def test_what_takes_whole_numbers_is_exactly_pillows(name, amounts):
    changed = alone(name, np.repeat(amounts, 6))
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, expected(name, np.repeat(amounts, 6)))


@pytest.mark.parametrize(("name", "amounts"), pairs(NEAR))
def test_what_takes_fractions_is_pillows_up_to_one(name, amounts):
    """Pillow cuts fractions off. Means of pixels are rounded here, so some are 1 above its; products are cut off too,
    but where they lie a rounding error (1e-5) from a whole number they may come out on its other side."""
    wanted = expected(name, np.repeat(amounts, 6))
    above = alone(name, np.repeat(amounts, 6)).astype(int) - wanted
    if name in ENHANCED:
        assert np.abs(above).max() <= 1
        assert (above != 0).mean() < 0.002
    else:
        assert above.min() >= 0
        assert above.max() <= 1
    assert (wanted != images()).any(axis=(1, 2, 3)).sum() >= 8


def test_autocontrast_is_pillows():
    """Where the quotient is whole, Pillow's float64 may come out just below it, then it has 1 less."""
    above, pixels = alone("AutoContrast", np.zeros(12)).astype(int) - expected("AutoContrast", 0), images().astype(int)
    low, high = pixels.min(axis=(1, 2), keepdims=True), pixels.max(axis=(1, 2), keepdims=True)
    whole = 255 * (pixels - low) % np.maximum(high - low, 1) == 0
    assert not above[~whole].any()
    assert set(above[whole].tolist()) <= {0, 1}


def test_values_by_hand():
    """Bits 7–5 of 171 = 0b10101011; 255 less what is not below 171; 1.5 and 2.5 times; 90–140 stretched 5.1 times."""
    pixels = images()
    pixels[:, 0, 0, 0] = 171
    assert (alone("Posterize", [3] * 12, pixels)[:, 0, 0, 0] == 160).all()
    assert (alone("Solarize", [171] * 12, pixels)[:, 0, 0, 0] == 84).all()
    assert (alone("Brightness", [0.49, -0.49] * 6, pixels)[:, 0, 0, 0].reshape(6, 2) == [254, 87]).all()
    pixels[2, 0, :3, 2] = [90, 140, 100]
    assert alone("AutoContrast", [0] * 12, pixels)[2, 0, :3, 2].tolist() == [0, 255, 51]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_amounts_that_change_nothing_leave_the_images_as_they_are(name, dtype):
    flat = name in ("AutoContrast", "Equalize")  # of one colour there is nothing to stretch
    pixels = np.broadcast_to(images()[3], images().shape) if flat else images()
    nothing = {"Posterize": 8, "Solarize": 256}.get(name, 0)
    changed = alone(name, [nothing, -nothing if name in SIGNED else nothing] * 6, pixels.astype(dtype))
    assert changed.dtype == dtype
    np.testing.assert_array_equal(changed, pixels)


def test_float32_images_come_out_as_the_same_whole_numbers():
    """Each operation on two images or so, whole numbers given; and from fractions come whole numbers too."""
    amounts = dict.fromkeys(OPERATIONS, 0.7) | {"TranslateX": 5, "TranslateY": -5, "Posterize": 3, "Solarize": 100}
    for start in range(0, len(OPERATIONS), 3):
        chosen = (start + np.arange(12) // 4) % len(OPERATIONS)
        drawn = [chosen], [[amounts[OPERATIONS[place]] for place in chosen]]
        changed = applied(ONE_OF_FLOATS, images().astype("float32"), *drawn)
        assert changed.dtype == np.float32
        np.testing.assert_array_equal(changed, applied(ONE, images(), *drawn))
        changed = applied(ONE_OF_FLOATS, np.minimum(images() + np.float32(0.3), 255), *drawn)
        np.testing.assert_array_equal(changed, changed.round())
        assert 0 <= changed.min() <= changed.max() <= 255


def test_operations_come_one_after_another_each_image_with_its_own():
    """Exact ones, whose order matters: each image has two of its own."""
    steps = [("Solarize", 128), ("Brightness", 0.5), ("TranslateX", 9), ("Contrast", -0.5), ("Equalize", 0)]
    orders = np.random.default_rng(3).permuted(np.tile(np.arange(5), (12, 1)), axis=1)[:, :2]
    chosen = np.array([[OPERATIONS.index(steps[step][0]) for step in order] for order in orders])
    amounts = np.array([[steps[step][1] for step in order] for order in orders])
    wanted, backwards = images(), images()
    for n, order in enumerate(orders):
        for step in order:
            wanted[n] = pillows(*steps[step], wanted[n])
        for step in order[::-1]:
            backwards[n] = pillows(*steps[step], backwards[n])
    np.testing.assert_array_equal(applied(TWO, images(), chosen.T, amounts.T), wanted)
    assert (wanted != backwards).any(axis=(1, 2, 3)).sum() >= 6


def test_grey_images_come_out_as_pillow_has_them():
    """Every operation once, on one image or two."""
    amounts = dict.fromkeys(OPERATIONS, 0.5) | {"TranslateX": 5, "TranslateY": -5, "Posterize": 3, "Solarize": 100}
    grey = np.concatenate([images()[..., :1], images()[:2, ..., 1:2]])
    TrivialAugment().draw(rng(), len(grey), grey.shape[1:])
    found = applied(ONE, grey, [range(14)], [[amounts[name] for name in OPERATIONS]])
    for name, image, changed in zip(OPERATIONS, grey[..., 0], found[..., 0], strict=True):
        assert np.abs(changed.astype(int) - pillows(name, amounts[name], image)).max() <= 1, name
    np.testing.assert_array_equal(found[OPERATIONS.index("Color")], grey[OPERATIONS.index("Color")])


# What is drawn


def table(wide, shape):
    """{operation: amounts at the 31 magnitudes}: _augmentation_space of TrivialAugmentWide (wide) and RandAugment."""
    steps = np.arange(31) / 30
    slope, strength, degrees = (0.99, 0.99, 135) if wide else (0.3, 0.9, 30)
    right, down = (32, 32) if wide else (150 / 331 * shape[1], 150 / 331 * shape[0])
    bits = [8 - round(step / (30 / (6 if wide else 4))) for step in range(31)]
    return {
        **dict.fromkeys(("Identity", "AutoContrast", "Equalize"), 0 * steps),
        "ShearX": slope * steps,
        "ShearY": slope * steps,
        "TranslateX": np.trunc(right * steps),
        "TranslateY": np.trunc(down * steps),
        "Rotate": degrees * steps,
        **dict.fromkeys(ENHANCED, strength * steps),
        "Posterize": np.array(bits),
        "Solarize": 255 * (1 - steps),
    }


@pytest.mark.parametrize("magnitude", range(31))
def test_randaugment_draws_its_magnitude_of_torchvisions_table(magnitude):
    chosen, amounts = RandAugment(2, magnitude).draw(rng(magnitude), 1000, (33, 57, 3))
    assert (chosen.dtype, chosen.shape, amounts.dtype, amounts.shape) == (np.int32, (2, 1000), np.float32, (2, 1000))
    for name, values in table(False, (33, 57)).items():
        found = amounts[chosen == OPERATIONS.index(name)]
        assert len(found) > 70
        np.testing.assert_allclose(np.abs(found), values[magnitude], rtol=1e-6)  # float32
        both = name in SIGNED and values[magnitude] != 0
        assert set(np.sign(found)) == ({-1, 1} if both else {np.sign(values[magnitude])})


def test_the_default_is_two_operations_at_magnitude_9():
    chosen, amounts = RandAugment().draw(rng(), 500, (32, 32, 3))
    assert chosen.shape == (2, 500)
    assert np.unique(np.abs(amounts[chosen == OPERATIONS.index("Rotate")])).tolist() == [9]


@pytest.mark.parametrize("shape", [(32, 32), (20, 50)])
def test_trivialaugment_draws_every_magnitude_and_sign_alike(shape):
    """Of the size of the images it takes no notice."""
    assert sorted(OPERATIONS) == sorted(table(True, shape))
    chosen, amounts = TrivialAugment().draw(rng(1), 100_000, (*shape, 3))
    assert (chosen.dtype, chosen.shape, amounts.dtype, amounts.shape) == (
        np.int32,
        (1, 100_000),
        np.float32,
        (1, 100_000),
    )
    for name, values in table(True, shape).items():
        found = amounts[chosen == OPERATIONS.index(name)]
        possible, times = np.unique(np.concatenate([values, -values if name in SIGNED else values]), return_counts=True)
        places = np.abs(found[:, None] - possible).argmin(axis=1)
        np.testing.assert_allclose(found, possible[places], rtol=1e-6)  # float32
        counts = np.bincount(places, minlength=len(possible))
        assert len(possible) == 1 or stats.chisquare(counts, times / 62 * len(found)).pvalue > CHANCE


@pytest.mark.parametrize("policy", [RandAugment(3), TrivialAugment()], ids=["RandAugment", "TrivialAugment"])
def test_operations_and_signs_are_uniform_and_independent(policy):
    """Of one another, of the operation before, and of the next image's."""
    chosen, amounts = policy.draw(rng(2), 30_000, SHAPE)
    assert stats.chisquare(np.bincount(chosen.ravel(), minlength=14)).pvalue > CHANCE
    for one, other in ((chosen[:, 1:], chosen[:, :-1]), (chosen[1:], chosen[:-1]), (chosen[2:], chosen[:-2])):
        pairs = np.bincount((one * 14 + other).ravel(), minlength=196)
        assert not one.size or stats.chisquare(pairs).pvalue > CHANCE
    signed = np.isin(chosen, [OPERATIONS.index(name) for name in SIGNED]) & (amounts != 0)
    signs = np.bincount(chosen[signed] * 2 + (amounts[signed] < 0), minlength=28)
    assert (signs > 0).sum() == 18
    assert all(stats.binomtest(n, n + p).pvalue > CHANCE for p, n in signs.reshape(14, 2).tolist() if n)
    for one, other in [(np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])]:
        both = signed[one] & signed[other]
        alike = (np.sign(amounts[one]) == np.sign(amounts[other]))[both]
        assert not alike.size or stats.binomtest(int(alike.sum()), alike.size).pvalue > CHANCE


# What is refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandAugment(0), "operations=0"),
        (lambda: RandAugment(-1), "operations=-1"),
        (lambda: RandAugment(1.5), "operations=1.5"),
        (lambda: RandAugment(2, -1), "magnitude=-1"),
        (lambda: RandAugment(2, 31), "magnitude=31"),
        (lambda: RandAugment(magnitude=9.5), "magnitude=9.5"),
        (lambda: RandAugment(magnitude=None), "magnitude=None"),
        (lambda: RandAugment().draw(rng(), 4, (32, 32, 4)), "4 channels"),
        (lambda: TrivialAugment().draw(rng(), 4, (32, 32, 2)), "2 channels"),
    ],
)
def test_what_is_out_of_range_is_refused(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_right_on_a_side_and_a_half_are_treated_alike_on_both_backends():
    """A slope of 0.2 takes pixels from the sides, and values from halves between two: by float64, exactly."""
    image = np.repeat((np.arange(32) % 2 * 101).astype(np.uint8)[None, :], 32, axis=0)
    images = np.repeat(image[None, :, :, None], 3, axis=3)
    drawn = np.full((1, 1), OPERATIONS.index("ShearX"), np.int32), np.full((1, 1), 0.2, np.float32)
    found, _ = TrivialAugment().apply(ops.convert_to_tensor(images), None, drawn)
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    source = np.round(columns + (rows + 0.5) * 0.2, 6)  # in tenths, from the middle of pixel 0
    left = np.clip(np.floor(source).astype(int), 0, 31)
    right = np.clip(left + 1, 0, 31)
    values = (1 - source % 1) * image[0, left] + source % 1 * image[0, right]
    values = np.where(source > 31, image[0, 31], values)
    expected = np.where(source < 31.5 - 1e-9, np.floor(np.round(values, 6) + 0.5), 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(found)[0, :, :, 0], expected)
