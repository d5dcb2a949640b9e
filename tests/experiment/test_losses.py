"""AsymmetricLoss as a loss of Keras and of recipes, and what it refuses."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from torch.nn import functional

import kcifar
from kcifar import InputError
from kcifar.augment import MixUp
from kcifar.data import Batches, Split
from kcifar.experiment import components
from kcifar.recipe import Component
from kcifar.training import SGD, Adam, AsymmetricLoss
from tests.training.test_losses import (
    BATCH,
    CLASSES,
    LABELS,
    MIXED,
    ON_TORCH,
    RANDOM,
    ROWS,
    TOLERANCE,
    assert_equal_to,
    ours,
    reference,
    theirs,
)

# --- As a loss of Keras ---


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, BATCH)], ids=["alike", "weighted"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None])
def test_reductions_and_weights_of_samples(reduction, weights):
    each, _ = theirs(reference, ROWS, RANDOM, 1, 2, 0.1)
    weighted_each = each if weights is None else weights * each
    total = BATCH if weights is None or reduction != "mean_with_sample_weight" else weights.sum()
    expected = {"sum": weighted_each.sum(), "none": weighted_each, None: weighted_each}
    loss = AsymmetricLoss(1, 2, reduction=reduction)
    got = ops.convert_to_numpy(loss(LABELS, RANDOM, sample_weight=weights))
    np.testing.assert_allclose(got, expected.get(reduction, weighted_each.sum() / total), rtol=TOLERANCE)


def test_bfloat16_logits_are_computed_in_float32():
    logits = ops.cast(RANDOM, "bfloat16")
    got, gradient = ours(AsymmetricLoss(1, 2), ROWS, logits)
    exact = ops.convert_to_numpy(ops.cast(logits, "float32"))
    np.testing.assert_array_equal(got, ours(AsymmetricLoss(1, 2), ROWS, exact)[0])
    assert got.dtype == np.float32
    # The gradient alone goes back to bfloat16, which has 8 bits.
    expected = theirs(reference, ROWS, exact, 1, 2, 0.1)[1]
    np.testing.assert_allclose(np.float32(gradient), expected, rtol=2**-8, atol=TOLERANCE)


OWN = {"gamma_pos": 1.5, "gamma_neg": 2, "label_smoothing": 0.2, "from_logits": False, "reduction": "sum", "name": "a"}


def test_a_config_makes_the_same_loss():
    loss = AsymmetricLoss(**OWN)
    config = loss.get_config()
    assert config == OWN
    again = AsymmetricLoss.from_config(json.loads(json.dumps(config)))
    through_keras = keras.losses.deserialize(keras.losses.serialize(loss))
    expected = float(loss(LABELS, MIXED))
    for one in (again, through_keras):
        assert type(one) is AsymmetricLoss
        assert one.get_config() == config
        assert float(one(LABELS, MIXED)) == expected


def linear(activation=None, dtype="float32"):
    model = keras.Sequential([keras.Input((CLASSES,)), layers.Dense(CLASSES, activation=activation, dtype=dtype)])
    model.set_weights([np.eye(CLASSES, dtype=np.float32), np.zeros(CLASSES, np.float32)])
    return model


def test_a_compiled_model_that_was_saved_has_it_again(tmp_path):
    """Where `AsymmetricLoss` has been imported."""
    model = linear()
    model.compile(SGD(0.0), AsymmetricLoss(1, 2, 0.3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = theirs(reference, ROWS, RANDOM, 1, 2, 0.3)[0].mean()
    assert float(loaded.train_on_batch(RANDOM, LABELS)) == pytest.approx(expected, rel=TOLERANCE)


def batches():
    """Two of 20 images, mixed; each class a colour under noise."""
    labels = np.arange(40) % CLASSES
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 200]])[labels][:, None, None]
    noise = np.random.default_rng(3).integers(0, 50, (40, 32, 32, 3))
    return Batches(Split(np.uint8(colours + noise), labels, CLASSES), 20, [MixUp(0.4)], seed=4)


def image_model():
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(layers.AveragePooling2D(32)(layers.Rescaling(1 / 128, -1)(image)))
    model = keras.Model(image, layers.Dense(CLASSES)(layers.Dense(16, "tanh")(x)))
    rng = np.random.default_rng(5)
    model.set_weights([0.5 * rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("kind", ["stock", "accelerated"] if ON_TORCH else ["stock"])
def test_fit_on_mixed_batches(kind):
    """Ten epochs bring the loss down; an eleventh at rate 0 logs the mean of λ·L(a) + (1 − λ)·L(b) by the reference."""
    model, mixed = image_model(), batches()
    if kind == "accelerated":
        kcifar.accelerate(model)
    model.compile(Adam(0.03), AsymmetricLoss(1, 2))
    losses = model.fit(mixed, epochs=10, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    model.optimizer.learning_rate = 0.0
    (last,) = model.fit(mixed, shuffle=False, verbose=0).history["loss"]
    again, means = batches(), []
    again.epoch = 10
    for x, y in (map(ops.convert_to_numpy, again[step]) for step in range(2)):
        logits = model.predict_on_batch(x)
        of_class = [theirs(reference, np.tile(row, (20, 1)), logits, 1, 2, 0.1)[0] for row in np.eye(CLASSES)]
        means.append((y.T * of_class).sum(0).mean())
    # Two programs of one model: their logits may differ by some 1e-6.
    assert last == pytest.approx(np.mean(means), rel=1e-5)


# --- What is refused ---


@pytest.mark.parametrize(
    ("argument", "value"),
    [(name, value) for name in ("gamma_pos", "gamma_neg") for value in (-1, -1e-3, float("nan"), float("inf"))]
    + [("label_smoothing", value) for value in (-0.1, 1, 1.5, float("nan"))],
)
def test_an_argument_outside_its_range_is_refused(argument, value):
    with pytest.raises(InputError) as caught:
        AsymmetricLoss(**{argument: value})
    assert f"{argument}={value}" in str(caught.value)
    assert "\n" not in str(caught.value)


MISFITS = [((5,), (6, 4)), ((5, 1), (6, 4)), ((6, 3), (6, 4)), ((6, 4, 1), (6, 4)), ((6, 1, 4), (6, 4)), ((), (6, 4))]
MISFITS += [((6,), (6,)), ((6,), (6, 1)), ((2, 3), (2, 3, 4)), ((2, 3, 4), (2, 3, 4)), ((6,), ())]


@pytest.mark.parametrize(("targets", "predictions"), MISFITS, ids=str)
def test_shapes_that_do_not_fit_are_refused(targets, predictions):
    with pytest.raises(InputError) as caught:
        AsymmetricLoss()(np.zeros(targets, np.float32), np.full(predictions, 2, np.float32))
    assert "\n" not in str(caught.value)
    assert all(str(shape) in str(caught.value) for shape in (targets, predictions))
    assert "(batch, classes)" in str(caught.value)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_class_numbers_that_do_not_exist_are_refused(wrong):
    with pytest.raises(InputError, match=f"expected from 0 to {CLASSES - 1}") as caught:
        AsymmetricLoss()(np.array([0, wrong, 1]), RANDOM[:3])
    assert str(wrong) in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_probabilities_where_logits_were_said_are_refused(dtype):
    """Bfloat16 has 8 bits, so that rows sum to 1 within half a percent."""
    probabilities = ops.cast(ops.softmax(ops.cast(RANDOM, dtype)), dtype)
    with pytest.raises(InputError, match="from_logits=False") as caught:
        AsymmetricLoss()(LABELS, probabilities)
    assert "softmax" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert np.isfinite(float(AsymmetricLoss(from_logits=False)(LABELS, probabilities)))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_softmax_in_the_model_is_refused_in_fit_but_in_a_step_that_jax_compiles(dtype):
    model, loss = linear("softmax", dtype), AsymmetricLoss()
    if ON_TORCH:
        model.compile(Adam(0.1), loss)
        with pytest.raises(InputError, match="softmax"):
            model.fit(RANDOM, LABELS, verbose=0)
    else:
        import jax

        within = jax.jit(lambda x: loss(LABELS, model(x)))
        assert np.isfinite(within(RANDOM))
        with pytest.raises(InputError, match="softmax"):  # it was not taken as seen
            loss(LABELS, model(RANDOM))


NO_PROBABILITIES = {
    "none below 0": np.abs(RANDOM),
    "2 for the label": 2 * ROWS,
    "one row that sums to 1": np.concatenate([ROWS[:1], np.abs(RANDOM[1:])]),
    "all rows but one that sum to 1": np.concatenate([ROWS[1:], np.abs(RANDOM[:1])]),
    "sums of 1, some below 0": RANDOM - RANDOM.mean(axis=1, keepdims=True) + np.float32(1 / CLASSES),
}


@pytest.mark.parametrize("logits", NO_PROBABILITIES.values(), ids=list(NO_PROBABILITIES))
def test_logits_that_are_no_probabilities_pass(logits):
    assert_equal_to(ours(AsymmetricLoss(), ROWS, logits), theirs(reference, ROWS, logits, 0, 4, 0.1))


# --- The losses of recipes ---


@pytest.mark.parametrize("s", [0.0, 0.2])
def test_label_smoothing_of_a_recipe_is_torchs_on_mixed_batches(s):
    def crossentropy(z, y):
        return functional.cross_entropy(z, y, label_smoothing=s, reduction="none")

    loss = components.loss(Component("CategoricalCrossentropy", **{"label_smoothing": s} if s else {}))
    assert loss.reduction == "sum_over_batch_size"
    assert_equal_to(ours(loss, MIXED, RANDOM), theirs(crossentropy, MIXED, RANDOM))


@pytest.mark.parametrize("arguments", [{}, {"gamma_pos": 1.5, "gamma_neg": 2.0, "label_smoothing": 0.2}], ids=str)
def test_the_asymmetric_loss_of_a_recipe(arguments):
    loss = components.loss(Component("AsymmetricLoss", **arguments))
    assert type(loss) is AsymmetricLoss
    assert loss.get_config() == AsymmetricLoss(**arguments).get_config()
