"""Resizing and central crops, as transforms and inside models, against Pillow, NumPy in float64 and by hand."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from PIL import Image

import kcifar
from kcifar import InputError
from kcifar.augment import CenterCrop, RandomCrop, Resize
from kcifar.data import Batches, Split
from kcifar.models import build
from tests.augment.test_crop_flip_mixup import applied, one_hot, pixels, rng
from tests.models.test_small_networks import MEAN, STD, logits, randomised
from tests.sharpness_steps import KINDS

pytestmark = pytest.mark.usefixtures("quick_compilation")


def triangle(distance):
    return np.maximum(0, 1 - np.abs(distance))


def half_pixel(after, scale):
    return (np.arange(after) + 0.5) * scale - 0.5


def counts(before, after, places=half_pixel, antialias=True, shape=triangle, normalised=True):
    """(after, before): what each pixel before counts in each pixel after."""
    scale = before / after
    support = max(scale, 1) if antialias else 1
    found = shape((np.arange(before) - places(after, scale)[:, None]) / support)
    return found / (found.sum(1, keepdims=True) if normalised else support)


def resized(images, height, width, **other):
    """Bilinear in float64, rows and columns apart; `other` as in WRONG."""
    rows, columns = counts(images.shape[1], height, **other), counts(images.shape[2], width, **other)
    return np.einsum("ir,brwc,jw->bijc", rows, images.astype(np.float64), columns, optimize=True)


def by_pillow(images, height, width):
    """In mode F, of float32 with sums in float64: mode RGB rounds to whole values."""

    def channel(plane):
        return Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BILINEAR)

    planes = images.astype(np.float32).transpose(0, 3, 1, 2)
    return np.array([[channel(plane) for plane in image] for image in planes]).transpose(0, 2, 3, 1)


def images_of(sides, dtype=np.float32, channels=3):
    """Two: noise of all values, and above in the second whole black and white, where a wrong weight shows most."""
    images = pixels((2, *sides, channels), dtype, seed=3)
    images[1, : sides[0] // 2] = np.where(images[1, : sides[0] // 2] < 128, 0, 255)
    return images if dtype == np.uint8 else images * np.float32(0.999)


# --- Resize ---

# Of 255. Float32 rounds a place among 64 pixels by up to 4e-6 of a pixel, and with it the weights of neighbours that
# differ by up to 255: 1e-3, measured 9e-4 on both backends.
TOLERANCE = 2e-3

CASES = [
    # image, size, height and width after: the shorter side is the size, the longer int(size · longer/shorter)
    ((32, 32), 224, (224, 224)),
    ((32, 32), 256, (256, 256)),
    ((32, 32), 33, (33, 33)),
    ((32, 32), 31, (31, 31)),
    ((32, 32), 20, (20, 20)),
    ((32, 32), 1, (1, 1)),
    ((64, 64), 24, (24, 24)),
    ((40, 64), 24, (24, 38)),  # 38.4
    ((64, 40), 24, (38, 24)),
    ((40, 64), 50, (50, 80)),
    ((37, 53), 50, (50, 71)),  # 71.6
    ((53, 37), 36, (51, 36)),  # 51.6
    ((13, 3), 27, (117, 27)),  # (27 · 13)/3, where 27 · (13/3) would be 116.99999999999999
    ((1, 5), 2, (2, 10)),
]


@pytest.mark.parametrize(("before", "size", "after"), CASES, ids=str)
def test_resize_is_pillows_and_numpys(before, size, after):
    images, labels = images_of(before), one_hot(2)
    out, out_labels = applied(Resize(size), images, labels, None)
    assert out.shape == (2, *after, 3)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, by_pillow(images, *after), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(out, resized(images, *after), rtol=0, atol=TOLERANCE)
    assert -TOLERANCE <= out.min() <= out.max() <= 255 + TOLERANCE
    np.testing.assert_array_equal(out_labels, labels)


@pytest.mark.parametrize(("size", "channels"), [(33, 3), (20, 1), (20, 4)])
def test_bytes_are_resized_to_fractions(size, channels):
    images = images_of((32, 32), np.uint8, channels)
    out, _ = applied(Resize(size), images, one_hot(2), None)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, resized(images, size, size), rtol=0, atol=TOLERANCE)
    assert np.abs(out - np.round(out)).max() > 0.4


def test_resize_by_hand():
    """Doubled: 3/4 of the nearer and 1/4 of the other. Halved: 1, 3, 3 and 1 parts, fewer where the image ends."""
    image = np.tile(np.float32([0, 40, 80, 200]), (4, 1))[None, :, :, None]
    doubled, halved = (applied(Resize(size), image, one_hot(1), None)[0] for size in (8, 2))
    np.testing.assert_allclose(doubled[0, 5, :, 0], [0, 10, 30, 50, 70, 110, 170, 200], atol=TOLERANCE)
    np.testing.assert_allclose(halved[0, 1, :, 0], [(3 * 40 + 80) / 7, (40 + 3 * 80 + 3 * 200) / 7], atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("sides", [(32, 32), (32, 45), (45, 32)])
def test_images_of_the_size_stay(sides, dtype):
    images = images_of(sides, dtype)
    out, _ = applied(Resize(32), images, one_hot(2), None)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, images.astype(np.float32))


def align_corners(after, scale):
    return np.arange(after) * ((after * scale - 1) / (after - 1))


WRONG = {
    # what: (how, the sizes of 32 pixels that show it)
    "corners aligned": ({"places": align_corners}, (224, 33, 20)),
    "no half pixels": ({"places": lambda after, scale: np.arange(after) * scale}, (224, 33, 20)),
    "no antialias": ({"antialias": False}, (31, 20)),
    "nearest": ({"shape": lambda x: (x > -0.5) & (x <= 0.5), "antialias": False}, (224, 33, 20)),
    "means of what is covered": ({"shape": lambda x: np.abs(x) <= 0.5}, (224, 33, 20)),
    "from twice as far": ({"shape": lambda x: triangle(x / 2)}, (224, 33, 20)),
    "black around": ({"normalised": False}, (224, 33, 20)),
}


@pytest.mark.once
@pytest.mark.parametrize(("other", "sizes"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_resize_is_far_off(other, sizes):
    """So the comparisons above would see each of these mistakes."""
    images = images_of((32, 32))
    for size in sizes:
        error = resized(images, size, size, **other) - resized(images, size, size)
        assert np.abs(error).max() > 1000 * TOLERANCE, size


# --- CenterCrop ---

CORNERS = [
    # image, size, top and left: half of what is left over, of two whole numbers as near the even one
    ((32, 32), 31, (0, 0)),  # 0.5
    ((33, 33), 32, (0, 0)),  # 0.5
    ((33, 33), 30, (2, 2)),  # 1.5
    ((32, 32), 32, (0, 0)),
    ((32, 32), 28, (2, 2)),
    ((33, 33), 31, (1, 1)),
    ((35, 38), 30, (2, 4)),  # 2.5 and 4
    ((34, 37), 30, (2, 4)),  # 2 and 3.5
    ((41, 30), 30, (6, 0)),  # 5.5 and 0
]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("sides", "size", "corner"), CORNERS, ids=str)
def test_center_crop_is_torchvisions_window(sides, size, corner, dtype):
    (top, left), images, labels = corner, images_of(sides, dtype), one_hot(2)
    out, out_labels = applied(CenterCrop(size), images, labels, None)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, images[:, top : top + size, left : left + size])
    np.testing.assert_array_equal(out_labels, labels)


@pytest.mark.parametrize(("sides", "size"), [((32, 32), 33), ((32, 40), 33), ((40, 32), 40)])
def test_a_crop_larger_than_the_image_is_refused(sides, size):
    crop, message = CenterCrop(size), f"{size}.*{sides[0]}.*{sides[1]}.*crop"
    with pytest.raises(InputError, match=message) as drawing:
        crop.draw(rng(), 2, (*sides, 3))
    with pytest.raises(InputError, match=message) as applying:
        applied(crop, images_of(sides), one_hot(2), None)
    assert "\n" not in str(drawing.value) + str(applying.value)


# --- Both ---


@pytest.mark.parametrize("transform", [Resize(8), CenterCrop(8)], ids=["Resize", "CenterCrop"])
def test_nothing_is_drawn(transform):
    """What comes after draws what it would without."""
    generator = rng()
    assert transform.draw(generator, 2, (12, 9, 3)) is None
    assert generator.random() == rng().random()


@pytest.mark.parametrize("transform", [Resize, CenterCrop])
@pytest.mark.parametrize("size", [0, -1, 2.5, 32.0, "32", None, (32, 32), float("nan")], ids=repr)
def test_a_size_that_is_no_number_of_pixels_is_refused(transform, size):
    with pytest.raises(InputError, match=transform.__name__) as caught:
        transform(size)
    assert repr(size) in str(caught.value)
    assert "\n" not in str(caught.value)


def split(count):
    return Split(images_of((32, 32), np.uint8).repeat(count // 2, 0), np.arange(count) % 10, 10)


@pytest.mark.parametrize("padding", [0, 4])
def test_batches_go_through_all_transforms(padding):
    batches = Batches(split(6), 4, [RandomCrop(32, padding), Resize(40), CenterCrop(36)], shuffle=False)
    for step, chosen in enumerate((slice(0, 4), slice(4, 6))):
        images, labels = map(ops.convert_to_numpy, batches[step])
        assert images.shape == (len(labels), 36, 36, 3)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(labels, np.eye(10)[:6][chosen])
        if not padding:  # there is only one window
            expected = resized(batches.split.images[chosen], 40, 40)[:, 2:38, 2:38]
            np.testing.assert_allclose(images, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.once
def test_batches_refuse_a_crop_larger_than_the_images_at_once():
    with pytest.raises(InputError, match=r"41.*40"):
        Batches(split(6), 4, [Resize(40), CenterCrop(41)])


# --- Inside models ---

SIZES, NORMALISED = {"resize": 64, "center_crop": 56}, {"mean": MEAN, "std": STD}
LOGITS = 2e-5  # of the largest: float32 through 20 layers, of images that differ by 1e-6; measured 1e-6


def by_hand(images, after=(64, 64), corner=(4, 4), shape=(56, 56)):
    """What the network is given; without arguments, behind SIZES and NORMALISED."""
    (top, left), (height, width) = corner, shape
    return (resized(images, *after)[:, top : top + height, left : left + width] / 255 - MEAN) / STD


def network_images(model, images, kind="stock"):
    """What all that is before the first convolution makes of images."""
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    front = keras.Model(model.input, first.input)
    return logits(kcifar.accelerate(front) if kind == "accelerated" else front, images)


def error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.once
def test_the_network_is_the_one_without_resizing():
    """By its arguments alone: it starts with the same values, and gives the logits of what was resized before."""
    images = images_of((32, 32), np.uint8)
    model = build("resnet18", **SIZES, **NORMALISED, seed=4)
    plain = build("resnet18", input_shape=(56, 56, 3), seed=4)
    assert model.input_shape == (None, 32, 32, 3)
    learned = [layer for layer in model.layers if not isinstance(layer, layers.Normalization)]
    values = [weight for layer in learned for weight in layer.get_weights()]
    for one, other in zip(values, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    expected = plain.predict(by_hand(images), verbose=0)
    assert error(model.predict(images, verbose=0), expected) < LOGITS
    assert error(plain.predict(by_hand(images, corner=(5, 4)), verbose=0), expected) > 100 * LOGITS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sides", "arguments", "by_rule"),
    [
        ((32, 32), SIZES, {}),
        ((40, 64), {"resize": 24}, {"after": (24, 38), "corner": (0, 0), "shape": (24, 38)}),
        # 11 and 0.5
        ((53, 37), {"resize": 50, "center_crop": 49}, {"after": (71, 50), "corner": (11, 0), "shape": (49, 49)}),
        # 1.5 and 1
        ((33, 32), {"center_crop": 30}, {"after": (33, 32), "corner": (2, 1), "shape": (30, 30)}),
    ],
    ids=str,
)
def test_a_model_follows_the_rules_of_the_transforms(sides, arguments, by_rule, kind):
    images = images_of(sides, np.uint8)
    model = build("tutorial_net", input_shape=(*sides, 3), **arguments, **NORMALISED)
    found = network_images(model, images, kind)
    np.testing.assert_allclose(found, by_hand(images, **by_rule), rtol=0, atol=TOLERANCE / 255 / min(STD))


def test_without_normalisation_values_of_any_range_are_resized():
    """The caller has normalised them; here of one channel."""
    images = np.random.default_rng(5).normal(size=(2, 32, 32, 1)).astype(np.float32)
    found = network_images(build("tutorial_net", input_shape=(32, 32, 1), resize=40, center_crop=36), images)
    np.testing.assert_allclose(found, resized(images, 40, 40)[:, 2:38, 2:38], rtol=0, atol=TOLERANCE / 32)


@pytest.fixture(params=["bfloat16", None], ids=["by precision", "by Keras's policy"])
def precision(request):
    """The argument of `build` with which layers have the policy `mixed_bfloat16`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if request.param else "mixed_bfloat16")
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_resizing_and_normalisation_stay_float32(kind, precision):
    """Of 150 to 153, between which bfloat16 has whole numbers only."""
    images = np.uint8(150 + images_of((32, 32), np.uint8) // 64)
    model, expected = build("tutorial_net", precision=precision, **SIZES, **NORMALISED), by_hand(images)
    found, brighter = (network_images(model, images + np.uint8(more), kind) for more in (0, 1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # values near 1, by 150 before
    np.testing.assert_allclose(brighter - found, np.broadcast_to(1 / 255 / np.array(STD), found.shape), atol=2e-5)
    raw = torch.tensor(expected * STD + MEAN).mul(255).bfloat16().double().numpy()
    for wrong in ((raw / 255 - MEAN) / STD, torch.tensor(expected).bfloat16().double().numpy()):
        assert np.abs(wrong - expected).max() > 1e-3
    assert logits(model, images).dtype == np.float32


def scaled(model):
    """The model with other values everywhere and logits near 1."""
    head = randomised(model).layers[-1]
    head.set_weights([weight / 20 for weight in head.get_weights()])
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_is_that_of_the_call(kind):
    """Inference unless asked for: layers that change images have Keras's default of training for all behind them."""
    images = images_of((32, 32), np.uint8)
    model = scaled(build("resnet20", **SIZES, **NORMALISED))
    plain = scaled(build("resnet20", input_shape=(56, 56, 3)))
    model = kcifar.accelerate(model) if kind == "accelerated" else model
    for mode in ({}, {"training": False}, {"training": True}, {}):
        expected = logits(plain, np.float32(by_hand(images)), **mode)
        assert error(logits(model, images, **mode), expected) < LOGITS, mode


def test_a_file_opens_in_inference_mode(tmp_path):
    images = images_of((32, 32), np.uint8)
    model = scaled(build("elu_cnn", resize=24, center_crop=21, **NORMALISED))  # it has BatchNorm
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert error(logits(again, images), logits(model, images, training=False)) < LOGITS


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 56, "center_crop": 57}, "57.*56.*crop"),
        ({"center_crop": 33}, "33.*32.*crop"),
        ({"resize": 24, "center_crop": 30, "input_shape": (32, 64, 3)}, "30.*24.*48.*crop"),
        *[({"resize": size}, "resize is") for size in (0, -1, 64.5, (64, 64), "64")],
        *[({"center_crop": size}, "center_crop is") for size in (0, -4, 2.5)],
        *[
            ({"name": "densenet121"} | sizes, "28.*cannot be built|cannot be built.*28")
            for sizes in ({"resize": 28}, {"center_crop": 28}, {"resize": 64, "center_crop": 28})
        ],
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**{"name": "resnet20"} | arguments)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)  # Keras's colours
