"""The mean of models' weights: BatchNorm's statistics against NumPy, everything else exactly."""

import keras
import numpy as np
import pytest
from keras import layers

from kcifar import InputError, models
from kcifar.voting import soup

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIDE, CHANNELS, WIDTH = 4, 2, 3
MOMENTUM, EPSILON = 0.9, 1e-3


def net(seed, dropout=0.0, width=WIDTH):
    """Two BatchNorms, the second of what the first gives; all weights drawn anew."""
    image = layers.Input((SIDE, SIDE, CHANNELS))
    x = layers.Conv2D(width, 1, name="conv")(image)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name="norm1")(x)
    x = layers.Flatten()(layers.Activation("tanh")(x))
    x = layers.Dropout(dropout, seed=3)(x) if dropout else x
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name="norm2")(layers.Dense(5, name="hidden")(x))
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.3, 1.2, variable.shape) * rng.choice([-1, 1], variable.shape))
    for norm in ("norm1", "norm2"):
        model.get_layer(norm).moving_variance.assign(rng.uniform(0.5, 2, model.get_layer(norm).moving_variance.shape))
    return model


def batches(count=3, size=6):
    """Batches that differ in mean and spread, so that the mean of their variances is not that of all images."""
    rng = np.random.default_rng(9)
    return [
        (np.float32(rng.normal(place, 1 + place, (size, SIDE, SIDE, CHANNELS))), np.zeros((size, 4), "float32"))
        for place in range(count)
    ]


def weights(model):
    return {variable.path: np.array(keras.ops.convert_to_numpy(variable), "float64") for variable in model.weights}


def normed(x, gamma, beta, seen):
    axes = tuple(range(x.ndim - 1))
    seen.append((x.mean(axes), x.var(axes)))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPSILON) * gamma + beta


def statistics_of(values, images):
    """[(mean, biased variance)] of what reaches the two BatchNorms in training mode."""
    seen, x = [], images.astype("float64") @ values["conv/kernel"][0, 0] + values["conv/bias"]
    x = np.tanh(normed(x, values["norm1/gamma"], values["norm1/beta"], seen)).reshape(len(images), -1)
    normed(x @ values["hidden/kernel"] + values["hidden/bias"], values["norm2/gamma"], values["norm2/beta"], seen)
    return seen


# A statistic is a mean of some 100 float32 numbers that are exact to some 1e-6 of the largest.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("members", [2, 3])
def test_a_soup_is_the_mean_with_statistics_of_its_own(members):
    nets = [net(seed) for seed in range(members)]
    before = [weights(model) for model in nets]
    found = weights(soup(nets, batches()))
    mean = {name: np.mean([values[name] for values in before], axis=0) for name in before[0]}
    for name in mean:
        if "moving" not in name:
            # float64 means, rounded once
            np.testing.assert_array_equal(found[name], np.float32(mean[name]), err_msg=name)
    seen = [statistics_of(mean, images) for images, _ in batches()]
    for place, norm in enumerate(("norm1", "norm2")):
        for which, name in enumerate(("moving_mean", "moving_variance")):
            expected = np.mean([of_batch[place][which] for of_batch in seen], axis=0)
            np.testing.assert_allclose(found[f"{norm}/{name}"], expected, **TOLERANCE)
            # what plausible mistakes would give
            blended = 0.9 * mean[f"{norm}/{name}"] + 0.1 * expected
            for wrong in (mean[f"{norm}/{name}"], seen[-1][place][which], blended):
                assert np.abs(wrong - expected).max() > 1e-2
    images = np.concatenate([images for images, _ in batches()])
    assert np.abs(statistics_of(mean, images)[0][1] - found["norm1/moving_variance"]).max() > 1e-2


def test_variance_of_a_batch_by_hand():
    """Values 0, 0, 0, 4 in one batch and 2, 2, 2, 2 in the other: means 1 and 2, variances 3 and 0."""
    image = layers.Input((1, 1, 1))
    model = keras.Model(image, layers.BatchNormalization(name="norm")(image))
    pixels = [np.float32(values).reshape(4, 1, 1, 1) for values in ([0, 0, 0, 4], [2, 2, 2, 2])]
    found = soup([model, model], [(each, None) for each in pixels]).get_layer("norm")
    assert float(found.moving_mean[0]) == pytest.approx(1.5, rel=1e-6)
    assert float(found.moving_variance[0]) == pytest.approx(1.5, rel=1e-6)


def test_the_models_that_are_given_are_unchanged_and_the_soup_is_new():
    nets = [net(seed) for seed in range(2)]
    before = [weights(model) for model in nets]
    found = soup(nets, batches(1))
    for model, values in zip(nets, before, strict=True):
        assert all(np.array_equal(array, values[name]) for name, array in weights(model).items())
        assert model.get_layer("norm1").momentum == MOMENTUM
    found.set_weights([0 * array for array in found.get_weights()])
    assert np.array_equal(weights(nets[0])["conv/kernel"], before[0]["conv/kernel"])


def test_a_frozen_batchnorm_has_statistics_of_its_own_too():
    nets, frozen = ([net(seed) for seed in range(2)] for _ in range(2))
    for model in frozen:
        model.get_layer("norm1").trainable = False
    found, expected = soup(frozen, batches()), weights(soup(nets, batches()))
    assert all(np.array_equal(values, expected[name]) for name, values in weights(found).items())
    assert not found.get_layer("norm1").trainable


def test_momentum_is_as_before_and_the_soup_predicts_and_saves(tmp_path):
    nets = [net(seed) for seed in range(2)]
    found = soup(nets, batches(2))
    assert [found.get_layer(norm).momentum for norm in ("norm1", "norm2")] == [MOMENTUM, MOMENTUM]
    images = batches(1)[0][0]
    found.save(tmp_path / "soup.keras")
    again = keras.saving.load_model(tmp_path / "soup.keras")
    assert again.get_layer("norm2").momentum == MOMENTUM
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(model(images)) for model in (found, again)), atol=1e-6)


def test_equal_models_are_their_mean():
    """Without BatchNorm nothing is estimated, so it is the model itself, to the bit."""
    model = keras.Sequential([layers.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])
    found = soup([model, keras.models.clone_model(model)], [])
    assert found.count_params() == model.count_params()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    again = soup([model, copy, copy], [])
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), model.get_weights(), strict=True))


def test_dropout_is_active_while_statistics_are_found():
    """It spreads what comes to norm2: the variance is larger than without."""
    with_dropout = weights(soup([net(0, dropout=0.6), net(1, dropout=0.6)], batches(2, 64)))
    without = weights(soup([net(0), net(1)], batches(2, 64)))
    np.testing.assert_allclose(with_dropout["norm1/moving_variance"], without["norm1/moving_variance"], **TOLERANCE)
    assert (with_dropout["norm2/moving_variance"] > 1.2 * without["norm2/moving_variance"]).all()


@pytest.mark.once
def test_a_network_of_kcifar():
    """BatchNorms in residual blocks, all of them found: none keeps what it had."""
    nets = [models.build("resnet20", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), seed=seed) for seed in range(2)]
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    found = soup(nets, [(images, None)])
    norms = [layer for layer in found._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert len(norms) >= 19
    for norm in norms:
        assert np.abs(keras.ops.convert_to_numpy(norm.moving_mean)).max() > 0
    # Statistics of just these images: in inference they give what they give in training.
    outputs = [keras.ops.convert_to_numpy(found(images, training=training)) for training in (False, True)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-3)


# --- Rejected ---


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_models(count):
    with pytest.raises(InputError, match=f"average of {count} models"):
        soup([net(0)] * count, batches(1))


@pytest.mark.parametrize(
    "other",
    [
        lambda: net(1, width=4),
        lambda: keras.Sequential([layers.Input((SIDE, SIDE, CHANNELS)), layers.Flatten(), layers.Dense(4)]),
    ],
    ids=["wider", "another"],
)
def test_models_of_different_architectures(other):
    with pytest.raises(InputError, match=r"models 1 and 3 are of different architectures"):
        soup([net(0), net(1), other()], batches(1))
