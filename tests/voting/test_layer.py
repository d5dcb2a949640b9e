"""The voting layer and the ensemble model against loops in float64, by hand, and on the other backend."""

import json
import os
import subprocess
import sys
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from kcifar import InputError
from kcifar.voting import Voting, ensemble

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Float32 rounds each weight, each product and each partial sum of at most 7 by 6e-8 of it; all are at most 1.
TOLERANCE = 1e-6


def voted(probabilities, mode, weights=None):
    return keras.ops.convert_to_numpy(Voting(mode, weights)(np.float32(probabilities)))


def reference(probabilities, mode, weights=None):
    """The vote of (members, batch, classes) by its definition, in exact fractions of the float32 numbers."""
    members, batch, classes = np.shape(probabilities)
    weights = [Fraction(weight) for weight in (weights or [1] * members)]
    weights = [weight / sum(weights) for weight in weights]
    rows = []
    for image in range(batch):
        given = [[Fraction(float(value)) for value in probabilities[member][image]] for member in range(members)]
        mean = [sum(w * row[k] for w, row in zip(weights, given, strict=True)) for k in range(classes)]
        votes = [Fraction(0)] * classes
        for weight, row in zip(weights, given, strict=True):
            votes[row.index(max(row))] += weight
        tied = [k for k in range(classes) if votes[k] == max(votes)]
        joint, means = sum(votes[k] for k in tied), sum(mean[k] for k in tied)
        hard = [joint * mean[k] / means if k in tied else votes[k] for k in range(classes)]
        rows.append(mean if mode == "soft" else hard)
    return rows


def drawn(members, batch, classes, seed, dyadic):
    """Probabilities; if dyadic multiples of 1/8, of which many are equal, and all sums of them exact."""
    rng = np.random.default_rng(seed)
    if dyadic:
        return rng.multinomial(8, np.full(classes, 1 / classes), (members, batch)) / 8
    logits = rng.normal(size=(members, batch, classes)) * 2
    return np.float32(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))


WEIGHTS = {
    "equal": lambda members: None,
    "powers of two": lambda members: [2**place for place in range(members)],
    "1, 2, 3, …": lambda members: list(range(1, members + 1)),
    "some 0": lambda members: [0, *range(1, members)],
    "large": lambda members: [1000 + 7 * place for place in range(members)],
}


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("dyadic", [True, False])
def test_a_vote_is_that_of_its_definition(dyadic, weights, mode):
    """Also where classes tie, for a member or for all of them."""
    for members in (2, 3, 4, 7):
        probabilities, given = drawn(members, 60, 4, members, dyadic), weights(members)
        found, expected = voted(probabilities, mode, given), reference(probabilities, mode, given)
        np.testing.assert_allclose(found, np.float64(expected), atol=TOLERANCE)
        np.testing.assert_allclose(found.sum(1), 1, atol=TOLERANCE)
        assert found.dtype == np.float32
        assert found.min() >= 0
        for row, chosen in zip(expected, found.argmax(1), strict=True):
            largest, second = sorted(row)[:-3:-1]
            assert chosen == row.index(largest) or largest - second < TOLERANCE


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
def test_of_just_equal_classes_the_first_is_voted_for(weights, mode):
    """Eighths times whole numbers are exact, so classes that are equal by the definition can be equal in float32."""
    for members in (2, 3, 4, 5, 7):
        probabilities, given = drawn(members, 60, 4, members, dyadic=True), weights(members)
        expected = [row.index(max(row)) for row in reference(probabilities, mode, given)]
        assert voted(probabilities, mode, given).argmax(1).tolist() == expected


# --- By hand ---

TO_0, TO_1 = [0.5, 0.25, 0.25], [0.25, 0.75, 0]


@pytest.mark.parametrize(
    ("members", "weights", "soft", "hard"),
    [
        # Two of three vote for class 0, whose mean is not the largest.
        ([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0, 0.9, 0.1]], None, [1 / 3, 1.7 / 3, 0.1], [2 / 3, 1 / 3, 0]),
        # One vote each for 0 and 1: both votes divided as 0.7 to 0.9, of 1.6.
        ([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3]], None, [0.35, 0.45, 0.2], [0.4375, 0.5625, 0]),
        # Three ways, in their means' proportions: 1.0, 1.1 and 0.9, of 3.
        ([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.2, 0.3, 0.5]], None, [1 / 3, 1.1 / 3, 0.3], [1 / 3, 1.1 / 3, 0.3]),
        # 2 votes for 0, 2 for 1, one for 2, which keeps its fifth; 0 and 1 divide 0.8 as 1.75 to 2.25.
        ([TO_0, TO_0, TO_1, TO_1, [0.25, 0.25, 0.5]], None, [0.35, 0.45, 0.2], [0.35, 0.45, 0.2]),
        # Weights 3 to 1: the one outvotes the other. In another unit the same.
        ([[0.75, 0.25], [0, 1]], [3, 1], [0.5625, 0.4375], [0.75, 0.25]),
        ([[0.75, 0.25], [0, 1]], [0.3, 0.1], [0.5625, 0.4375], [0.75, 0.25]),
        # 1 + 2 against 3 is a tie: means (0.5·3 + 0.25·3)/6 and (0.25·3 + 0.75·3)/6.
        ([TO_0, TO_0, TO_1], [1, 2, 3], [0.375, 0.5, 0.125], [3 / 7, 4 / 7, 0]),
        # A weight of 0 has no say, a member that is undecided votes for the first of its best.
        ([[0.0, 1.0], [0.5, 0.5]], [0, 1], [0.5, 0.5], [1, 0]),
        # Equal means of tied classes: equal shares.
        ([[0.75, 0.25], [0.25, 0.75]], None, [0.5, 0.5], [0.5, 0.5]),
    ],
)
def test_by_hand(members, weights, soft, hard):
    probabilities = np.float64(members)[:, None]
    np.testing.assert_allclose(voted(probabilities, "soft", weights), [soft], atol=TOLERANCE)
    np.testing.assert_allclose(voted(probabilities, "hard", weights), [hard], atol=TOLERANCE)


# --- The layer as a layer ---


def test_the_layer_can_be_made_again_from_its_configuration():
    layer = Voting("hard", [1, 2, 3])
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))
    assert type(again) is Voting
    assert again.get_config() == layer.get_config()
    assert keras.saving.get_registered_object("kcifar>Voting") is Voting
    probabilities = np.float32(drawn(3, 5, 4, 1, dyadic=False))
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(probabilities)) for each in (layer, again)))
    assert layer.compute_output_shape((3, None, 4)) == (None, 4)
    assert layer.count_params() == 0


def test_the_layer_votes_in_float32_whatever_it_is_given():
    found = Voting()(keras.ops.cast(drawn(3, 5, 4, 1, dyadic=True), "bfloat16"))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "medium"}, "mode of voting is 'medium'"),
        ({"weights": [1, -1]}, "weights are .*-1"),
        ({"weights": [1, float("nan")]}, "weights are .*nan"),
        ({"weights": [0, 0]}, "weights are .*not all 0"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(InputError, match=said):
        Voting(**arguments)
    for mode in ("soft", "hard"):
        with pytest.raises(InputError, match=said):
            ensemble([classifier(4), classifier(4)], **{"mode": mode} | arguments)


def test_wrong_inputs():
    with pytest.raises(InputError, match="each of 3 members"):
        Voting(weights=[1, 2])(np.full((3, 4, 2), 0.5, "float32"))
    with pytest.raises(InputError, match="each of 2 members"):
        ensemble([classifier(4), classifier(4)], weights=[1, 2, 3])
    with pytest.raises(InputError, match="members, batch, classes"):
        Voting()(np.full((3, 2), 0.5, "float32"))


# --- Ensembles ---


def convolutional(seed):
    """Logits of 32×32 pixels, normalised by channel, with BatchNorm."""
    image = layers.Input((32, 32, 3))
    x = layers.Normalization(mean=[120, 110, 100], variance=[60**2, 61**2, 62**2])(image)
    x = layers.Conv2D(3, 5, 4, kernel_initializer=keras.initializers.GlorotUniform(seed))(x)
    x = layers.Flatten()(layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    model = keras.Model(image, layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed))(x))
    gamma, beta, *_ = model.get_layer("norm").get_weights()
    model.get_layer("norm").set_weights([gamma * 1.5, beta + 0.1, beta + 0.2, gamma * 0.7])
    return model


def linear(size, seed, activation=None, name=None):
    """A sequential model of pixels scaled to 0–1."""
    start = keras.initializers.RandomNormal(0, 8 / size, seed=seed)
    steps = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(4, activation, kernel_initializer=start)]
    return keras.Sequential([layers.Input((size, size, 3)), *steps], name=name)


def scaled(images, side):
    """Bilinear, with antialiasing where it shrinks: Pillow's, of each float channel."""
    if side == images.shape[1]:
        return np.float32(images)
    channels = [[Image.fromarray(np.float32(image[..., k])) for k in range(3)] for image in images]
    resized = [[np.array(c.resize((side, side), Image.Resampling.BILINEAR)) for c in image] for image in channels]
    return np.stack([np.stack(image, -1) for image in resized])


def each_apart(models, sides, images):
    """The probabilities of each member on its own, (members, n, classes)."""
    found = []
    for place, (model, side) in enumerate(zip(models, sides, strict=True)):
        outputs = np.float64(keras.ops.convert_to_numpy(model(scaled(images, side), training=False)))
        powers = np.exp(outputs - outputs.max(1, keepdims=True))
        found.append(outputs if place in (1, 3) else powers / powers.sum(1, keepdims=True))
    return np.stack(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with images and ensembles as files, and what these give by their members apart, and themselves."""
    folder = tmp_path_factory.mktemp("ensembles")
    # Another architecture, normalisation, input size and output; names that recur.
    models = [convolutional(0), linear(16, 1, "softmax", "same"), linear(40, 2, name="same"), linear(32, 3, "softmax")]
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.save(folder / "images.npy", np.float32(images))
    apart, expected, found = each_apart(models, [32, 16, 40, 32], images), {}, {}
    for mode, weights in (("soft", None), ("soft", [1, 2, 3, 4]), ("hard", [1, 2, 3, 4])):
        name = f"{mode}{'-weighted' * bool(weights)}"
        model = ensemble(models, mode, weights)
        found[name] = keras.ops.convert_to_numpy(model(np.float32(images)))
        expected[name] = np.float64(reference(apart, mode, weights))
        model.save(folder / f"{name}.keras")
    return folder, expected, found, apart


# A logit of some 3 is a sum of 3,000 products in float32, off by some 1e-6 of it; probabilities by a quarter of that.
FORWARD = 1e-5


def test_an_ensemble_is_the_vote_of_its_members_apart(built):
    _, expected, found, apart = built
    assert len({tuple(row) for row in apart.argmax(-1)}) == 4  # the members do differ
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, expected[name], atol=FORWARD, err_msg=name)
        assert probabilities.dtype == np.float32


IN_PLAIN_KERAS = """
import sys
import numpy as np, keras
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
def found(name):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    return keras.ops.convert_to_numpy(model(images))
soft = {name: found(name) for name in ("soft", "soft-weighted")}
assert not any(name.split(".")[0] == "kcifar" for name in sys.modules)
from kcifar.voting import Voting
hard = {"hard-weighted": found("hard-weighted")}
np.savez(f"{folder}/found.npz", **soft, **hard, backend=keras.backend.backend())
"""


def test_saved_files_give_the_same_votes_on_the_other_backend(built):
    """Those of soft votes in a process that never imports kcifar."""
    folder, expected, *_ = built
    other = {"torch": "jax", "jax": "torch"}[keras.backend.backend()]
    environment = {**os.environ, "KERAS_BACKEND": other, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    subprocess.run([sys.executable, "-c", IN_PLAIN_KERAS, folder], env=environment, cwd=folder, check=True)
    with np.load(folder / "found.npz") as found:
        assert found["backend"] == other
        for name, probabilities in expected.items():
            np.testing.assert_allclose(found[name], probabilities, atol=FORWARD, err_msg=name)
            first, second = np.sort(probabilities, axis=1).T[:-3:-1]
            assert (first - second).min() > 2 * FORWARD  # so the votes have to be the same too
            np.testing.assert_array_equal(found[name].argmax(1), probabilities.argmax(1))


def test_an_ensemble_of_smaller_images():
    model = ensemble([linear(16, 1), linear(16, 1, "softmax")], image_shape=(16, 16, 3))
    assert model.input_shape == (None, 16, 16, 3)
    assert not any(isinstance(layer, layers.Resizing) for layer in model.layers)
    images = np.float32(np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3)))
    alone = keras.ops.convert_to_numpy(linear(16, 1, "softmax")(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), alone, atol=FORWARD)


def test_an_ensemble_takes_what_its_members_take():
    grey = [
        keras.Sequential([layers.Input((20, 24, 1)), layers.GlobalAveragePooling2D(), layers.Dense(4)])
        for _ in range(2)
    ]
    model = ensemble(grey)
    assert model.input_shape == (None, 20, 24, 1)
    assert not any(isinstance(layer, layers.Resizing) for layer in model.layers)
    with pytest.raises(InputError, match="1 and 3 channels"):
        ensemble([grey[0], classifier(4)])
    assert ensemble([classifier(4), linear(16, 1)]).input_shape == (None, 32, 32, 3)  # of different sizes


def classifier(classes):
    return keras.Sequential([layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(classes)])


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (lambda: [], "no members"),
        (lambda: [classifier(4)], "one member"),
        (lambda: [classifier(4), classifier(3)], "4, 3 classes"),
        (lambda: [classifier(4), keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(2, 3)])], "member 2"),
        (lambda: [keras.Sequential([layers.Input((9,)), layers.Dense(4)]), classifier(4)], "member 1"),
        (lambda: [classifier(4), classifier(4), "runs/seed2"], "member 3"),
    ],
)
def test_wrong_members(models, said):
    with pytest.raises(InputError, match=said):
        ensemble(models())
