"""SAM and ASAM of any model, optimizer, noise and precision: by plain steps of Keras at w and at w + ε."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import kcifar
from kcifar.training import SGD, SharpnessAware
from tests.sharpness_steps import (
    COUNT,
    HIDDEN_LAYER,
    KINDS,
    SECOND,
    STEP_TOLERANCE,
    XY,
    Own,
    PlainSteps,
    X,
    Y,
    assert_same_bits,
    assert_same_logs,
    assert_steps,
    bits,
    chain,
    copies,
    crossentropy,
    drawn,
    largest_difference,
    normal,
    policy_model,
    scaled,
    with_dropout,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def own():
    """A model whose graph Keras does not know."""
    model = Own()
    model(normal(1, 6))
    return drawn(model)


def noisy():
    """A penalty on a kernel and one on an activation, seeded noise and dropout."""
    penalised = layers.Dense(5, "tanh", kernel_regularizer="l2", activity_regularizer="l2")
    return drawn(
        keras.Sequential(
            [
                keras.Input((6,)),
                layers.GaussianNoise(0.5, seed=3),
                penalised,
                layers.Dropout(0.5, seed=4),
                layers.BatchNormalization(),
                layers.Dense(3),
            ]
        )
    )


def branching():
    """Two inputs and two outputs by name, a layer used twice, a model in the model."""
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    twice = layers.Dense(6, activation="tanh")
    within = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.BatchNormalization()])
    x = layers.Concatenate()([twice(twice(a)), within(b)])
    return drawn(keras.Model({"a": a, "b": b}, {"one": layers.Dense(3)(x), "two": layers.Dense(1)(x)}))


def partly_frozen():
    """A list of two inputs; a layer and a BatchNorm that are not trained."""
    a, b = keras.Input((6,)), keras.Input((4,))
    x = layers.Dense(5, activation="tanh", trainable=False)(layers.Concatenate()([a, b]))
    x = layers.BatchNormalization(trainable=False)(layers.Dense(5, activation="tanh")(x))
    return drawn(keras.Model([a, b], layers.Dense(3)(x)))


def all_kinds():
    """Layers called as other layers' weights are, kernels of other names, a bias of rank 2, halves of BatchNorm."""
    x = keras.Input((4, 4, 2))
    h = layers.DepthwiseConv2D(3, padding="same", activation="tanh", name="bias")(x)
    h = layers.SeparableConv2D(4, 3, padding="same", use_bias=False, activation="tanh", name="gamma")(h)
    h = layers.BatchNormalization(scale=False, name="kernel")(h)
    h = layers.Reshape((2, 8, 4))(h)
    h = layers.GlobalAveragePooling1D()(layers.Reshape((2, 32))(h))
    h = layers.Reshape((8, 4))(h)
    h = layers.EinsumDense("abc,bcd->abd", (8, 2), bias_axes="bd", activation="tanh", name="offset")(h)
    h = layers.BatchNormalization(center=False)(layers.Flatten()(h))
    return drawn(keras.Model(x, layers.Dense(3, name="beta")(h)))


MODELS = {
    "noise and penalties": (noisy, crossentropy(), XY | {"sample_weight": np.linspace(0, 3, COUNT)}),
    "branches": (
        branching,
        {"one": crossentropy(), "two": "mean_squared_error"},
        {"x": {"a": X, "b": SECOND}, "y": {"one": Y, "two": Y[:, :1]}},
    ),
    "frozen layers": (
        partly_frozen,
        crossentropy(),
        {"x": [X, SECOND], "y": Y, "class_weight": {0: 3.0, 1: 0.1, 2: 1.0}},
    ),
    "a subclass": (own, crossentropy(), XY),
}


@pytest.mark.parametrize("name", MODELS)
def test_sam_takes_the_gradient_at_the_worst_point_of(name):
    assert_steps(*MODELS[name], rho=0.5)


def test_asam_scales_kernels_and_scales_alone():
    images = {"x": normal(COUNT, 4, 4, 2, seed=24), "y": Y}
    assert_steps(all_kinds, crossentropy(), images, rho=1.0, adaptive=True, eta=0.1)


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.5, epsilon=0.01, global_clipnorm=0.3),
    "sgd": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5), nesterov=True, momentum=0.9, weight_decay=0.1
    ),
    "own_adam": lambda: kcifar.training.Adam(0.05, l2=0.1, epsilon=0.01),
}


@pytest.fixture(scope="module")
def plain_steps():
    return PlainSteps(chain(*HIDDEN_LAYER), crossentropy(), XY)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_the_optimizer_gets_the_gradient_at_the_worst_point(make_optimizer, plain_steps):
    """Three steps; Adam's ε of 0.01 keeps it from passing on the rounding of small gradients whole."""
    model, optimizer = chain(*HIDDEN_LAYER)(), make_optimizer()
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(make_optimizer(), crossentropy())
    ours = [keras.Variable(value) for value in copies(model.trainable_variables)]
    for step in range(3):
        at_w, at_worst = plain_steps.gradients_of_sam(copies(ours), rho=0.5)
        assert largest_difference(at_w, at_worst) > 0.01, "the gradients hardly differ"
        optimizer.apply([ops.convert_to_tensor(g, "float32") for g in at_worst], ours)
        trained.train_on_batch(**XY)
        # Each step adds its own error to those before.
        assert largest_difference(copies(model.trainable_variables), copies(ours)) < (step + 1) * STEP_TOLERANCE


def test_frozen_layers_do_not_change():
    model = chain(*HIDDEN_LAYER, layers.BatchNormalization, *HIDDEN_LAYER)()
    trained = SharpnessAware(model, rho=0.5)
    model.layers[0].trainable = False  # after it was wrapped
    model.layers[1].trainable = False
    trained.compile(SGD(0.1, momentum=0.9, l2=0.1), crossentropy())
    before = [bits(layer) for layer in model.layers]
    trained.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    after = [bits(layer) for layer in model.layers]
    for place in (0, 1):
        assert_same_bits(after[place], before[place])
    for place in (2, 3):
        assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(after[place], before[place], strict=True))


# --- Dropout: the same masks in both passes ---

NOISES = {
    "seeded dropout": lambda: [layers.Dropout(0.5, seed=7)],
    "two dropouts": lambda: [layers.Dropout(0.3), layers.Dropout(0.3)],
    "spatial dropout": lambda: [layers.Reshape((8, 4)), layers.SpatialDropout1D(0.5), layers.Flatten()],
    "noise": lambda: [layers.GaussianNoise(1.0)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))
def test_both_passes_see_the_same_mask_and_the_next_batch_another(noise, kind):
    """A linear model shows both masks: the reported loss is w·z for the first one's z, the update is the second's z."""
    model = keras.Sequential([keras.Input((32,)), *noise(), layers.Dense(1, use_bias=False)])
    model.set_weights([normal(32, 1, seed=31)])
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(1.0), lambda y_true, y_pred: ops.mean(y_pred))
    x, seen = normal(3, 32, seed=32), []
    for _ in range(6):
        (before,) = copies(model.weights)
        trained.reset_metrics()
        loss = float(trained.train_on_batch(x, np.zeros((3, 1), np.float32), return_dict=True)["loss"])
        z = before - copies(model.weights)[0]
        # Sums of 96 terms of size 1 in float32, and z read off weights of size 6: 1e-5. Two masks differ by about 1.
        assert loss == pytest.approx((before * z).sum(), abs=1e-4)
        seen.append((loss, before, z))
    other_masks = [abs(loss - (before * z).sum()) for (loss, before, _), (*_, z) in itertools.pairwise(seen)]
    assert min(other_masks) > 1e-3
    assert np.abs(seen[0][2] - seen[1][2]).max() > 0.1


def test_a_tiny_rho_is_plain_training_with_the_same_masks():
    """ρ = 1e-6 moves gradients of size 1 by some 1e-6; four steps of rate 0.1, so 1e-5. Other masks: far more."""
    runs, plain = [], with_dropout()
    start = bits(plain)
    for model in (SharpnessAware(with_dropout(), rho=1e-6), plain, plain):
        if len(runs) < 2:
            model.compile(SGD(0.1), crossentropy())
        model.set_weights(start)
        for _ in range(4):
            model.train_on_batch(X, Y)
        runs.append(copies(model.weights))
    assert largest_difference(runs[0], runs[1]) < 1e-5
    assert largest_difference(runs[2], runs[1]) > 1e-2  # the same model, whose masks went on


# --- What is reported ---


def reporting(around):
    """A compiled model with a metric of each kind; one that counts shows a pass that is counted twice."""
    trained = around(chain(*HIDDEN_LAYER, layers.BatchNormalization)())
    trained.compile(
        SGD(0.5),
        crossentropy(),
        metrics=["accuracy", keras.metrics.TruePositives(thresholds=0.0, name="hits")],
        weighted_metrics=[keras.metrics.MeanSquaredError()],
    )
    return trained


def test_loss_and_metrics_are_those_a_plain_model_has_at_the_same_weights():
    """ρ = 2 makes them quite others in the second pass."""
    sharp, plain = reporting(lambda model: SharpnessAware(model, rho=2.0)), reporting(lambda model: model)
    weights = np.linspace(0.2, 2, COUNT)
    seen = []
    for _ in range(2):
        plain.set_weights(bits(sharp))
        for model in (sharp, plain):
            model.reset_metrics()
        first = slice(0, 6)
        logs = [m.train_on_batch(X[first], Y[first], weights[first], return_dict=True) for m in (sharp, plain)]
        assert_same_logs(*logs)
        seen.append(float(logs[0]["loss"]))
    assert abs(seen[1] / seen[0] - 1) > 0.01  # it does follow the weights
    # A whole epoch at weights that stay.
    plain.set_weights(bits(sharp))
    for model in (sharp, plain):
        model.optimizer.learning_rate = 0.0
    logs = [m.fit(X, Y, batch_size=6, shuffle=False, verbose=0, sample_weight=weights).history for m in (sharp, plain)]
    assert_same_logs(*({name: value for name, (value,) in log.items()} for log in logs))


# Products are rounded to 8 bits (bfloat16) or 11 (float16); ε reaches them through kernels of as many bits, where one
# that lies near the middle of two values may fall to the other side.
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 1e-2), ("mixed_float16", 2e-3)])
def test_in_mixed_precision_the_gradient_is_that_at_the_worst_point(policy, tolerance):
    assert_steps(policy_model(policy), crossentropy(), XY, tolerance=tolerance, shows=5 * tolerance, rho=2.0)


def test_a_model_in_float16_trains_and_an_overflow_changes_no_weight_and_halves_the_scale():
    """As in a plain model: targets of 1e5 make gradients that float16, which ends at 65504, cannot hold."""
    counters = []
    for around in (lambda model: SharpnessAware(model, rho=0.05), lambda model: model):
        model = policy_model("mixed_float16")()
        trained = around(model)
        trained.compile(SGD(0.1, momentum=0.9, l2=1e-3), "mean_squared_error")
        assert isinstance(trained.optimizer, keras.optimizers.LossScaleOptimizer)
        first = float(trained.train_on_batch(X, Y, return_dict=True)["loss"])
        assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
        start = copies(model.trainable_variables)
        scale = float(trained.optimizer.dynamic_scale)
        trained.train_on_batch(X, 1e5 * Y)
        assert_same_bits(copies(model.trainable_variables), start)
        assert float(trained.optimizer.dynamic_scale) == scale / 2
        for _ in range(20):
            trained.reset_metrics()
            last = float(trained.train_on_batch(X, Y, return_dict=True)["loss"])
        assert last < 0.5 * first
        counters.append([float(ops.convert_to_numpy(v)) for v in trained.optimizer.variables if not v.shape])
    assert counters[0] == counters[1], "counters and scales of the optimizer differ from a plain model's"


def test_an_overflow_in_either_pass_changes_no_weight():
    """A unit of one input of 1, target 0: g = 2·w, at w + 100 it is 2·(w + 100); by 2¹⁵ float16 holds 2 at most."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    finally:
        keras.config.set_dtype_policy(before)
    trained = SharpnessAware(model, rho=100.0)
    trained.compile(SGD(1e-4), keras.losses.MeanSquaredError(reduction="sum"))
    trained.optimizer.build(model.trainable_variables)
    batch = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    for start in (5.0, 0.5):  # only the first overflows in the first pass
        model.set_weights([np.full((1, 1), start)])
        trained.optimizer.dynamic_scale.assign(2.0**15)
        trained.train_on_batch(*batch)
        np.testing.assert_array_equal(model.get_weights()[0], np.float32(start))
        assert float(trained.optimizer.dynamic_scale) == 2.0**14
        for _ in range(10):
            trained.train_on_batch(*batch)
        # Six more halvings, until 2·105·2⁸ is below 65504, and four steps.
        assert float(trained.optimizer.dynamic_scale) == 2.0**8
        expected = start
        for _ in range(4):
            expected -= 1e-4 * 2 * (expected + 100)
        # Each moves by 0.02, of a gradient and a weight of 11 bits: 2e-5.
        assert model.get_weights()[0].item() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def three_steps():
    """A function: (losses, weights) of three steps of ASAM under a loss scale, under no loss scale for None."""
    make = chain(*HIDDEN_LAYER, layers.BatchNormalization)
    start, models = bits(make()), {}
    for name, optimizer in (("plain", SGD(0.1, l2=0.01)), ("scaled", scaled(SGD(0.1, l2=0.01)))):
        models[name] = SharpnessAware(make(), rho=0.5, adaptive=True)
        models[name].compile(optimizer, crossentropy())
        optimizer.build(models[name].trainable_variables)

    def steps(scale):
        trained = models["scaled" if scale else "plain"]
        trained.set_weights(start)
        if scale:
            trained.optimizer.dynamic_scale.assign(scale)
        trained.reset_metrics()
        losses = [float(trained.train_on_batch(X, Y, return_dict=True)["loss"]) for _ in range(3)]
        return losses, copies(trained.weights)

    return steps


# 2¹⁰⁰ is one whose square float32 cannot hold, though nothing in the steps of a plain model overflows at it.
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**15, 2.0**30, 2.0**100], ids="{:.3g}".format)
def test_a_loss_scale_does_not_change_the_steps(scale, three_steps):
    """A power of two changes no bit of a gradient: only the norm's 1e-12 could feel it, or another order of sums."""
    (losses, weights), (of_scale, under_scale) = three_steps(None), three_steps(scale)
    assert of_scale == pytest.approx(losses, rel=1e-6)
    assert largest_difference(under_scale, weights) < 1e-6


def test_a_loss_scale_does_not_change_the_step_of_a_tiny_gradient():
    """g = 2e-9·(0.6, 0.8)·w: the 1e-12 beside its norm counts for 5e-4, in the loss's own units."""
    moved = []
    for optimizer in (SGD(1e8), scaled(SGD(1e8), initial_scale=2.0**15)):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
        model.set_weights([np.float32([[0.0], [0.0]])])
        trained = SharpnessAware(model, rho=1.0)
        trained.compile(optimizer, lambda y_true, y_pred: 1e-9 * ops.mean(ops.square(y_pred - y_true)))
        trained.train_on_batch(np.float32([[0.6, 0.8]]), np.float32([[1.0]]))
        moved.append(copies(model.weights)[0].ravel())
    # r = −1, ‖g‖ = 2e-9, ε = −(0.6, 0.8)/(1 + 5e-4), the residual there is −1 − 1/1.0005, and w = 0.2·1.9995·x
    expected = 0.2 * (1 + 1 / 1.0005) * np.array([0.6, 0.8])
    np.testing.assert_allclose(moved[0], expected, rtol=1e-5)  # without the 1e-12 it is 2.5e-4 more
    np.testing.assert_allclose(moved[1], expected, rtol=1e-5)
