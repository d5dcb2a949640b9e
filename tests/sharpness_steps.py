"""Steps of SharpnessAware against plain steps of Keras at w and at w + ε, and small models for its tests."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kcifar.training import SharpnessAware

ON_TORCH = keras.backend.backend() == "torch"
KINDS = ["stock", "accelerated"] if ON_TORCH else ["stock"]


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one_hot(count, classes, seed=2):
    return np.eye(classes, dtype=np.float32)[np.random.default_rng(seed).integers(0, classes, count)]


def copies(variables):
    """Float64 copies: `get_weights` on torch shows the memory of the variables themselves."""
    return [np.array(ops.convert_to_numpy(variable), np.float64) for variable in variables]


def bits(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_same_bits(got, expected):
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"weight {i}")


def assert_same_logs(got, expected):
    # The same sums of the same values, perhaps in another order.
    assert {name: float(value) for name, value in got.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-6
    )


def crossentropy():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


# The gradients of the expectation are read off plain steps of rate 1, w − (w − g), which float32 rounds by 6e-8 of w;
# ε is as exact; the second gradient passes both on. Sums of some ten terms, so 1e-5 of the largest weight is ample.
STEP_TOLERANCE = 1e-5
STEP_SHOWS = 1e-3  # SAM's step must differ by this from a plain one, else the comparison says nothing


class PlainSteps:
    """Gradients of a stock model at any weights, read off Keras's plain SGD of rate 1."""

    def __init__(self, make, loss, batch):
        self.model = make()
        self.batch = batch
        self.model.compile(keras.optimizers.SGD(1.0), loss)
        self.names = [variable.path.split("/")[-1] for variable in self.model.trainable_variables]
        self.losses = []
        # Seeds too: every gradient is taken with the first masks.
        self.start = [np.array(ops.convert_to_numpy(variable)) for variable in self.model.variables]

    def gradients_at(self, values):
        """Of the trainable variables; the model's weights are afterwards as the step left them."""
        for variable, start in zip(self.model.variables, self.start, strict=True):
            variable.assign(start)
        for variable, value in zip(self.model.trainable_variables, values, strict=True):
            variable.assign(value.astype(np.float32))
        before = copies(self.model.trainable_variables)
        self.model.reset_metrics()
        self.losses.append(float(self.model.train_on_batch(**self.batch, return_dict=True)["loss"]))
        return [w - moved for w, moved in zip(before, copies(self.model.trainable_variables), strict=True)]

    def gradients_of_sam(self, values, rho, adaptive=False, eta=0.01):
        """(gradients at w, gradients at w + ε)."""
        self.losses = []
        first = self.gradients_at(values)
        self.after_first = copies(self.model.weights)
        scales = [
            np.abs(w) + eta if adaptive and ("kernel" in name or name == "gamma") else np.ones_like(w)
            for name, w in zip(self.names, values, strict=True)
        ]
        length = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(scales, first, strict=True))) + 1e-12
        worst = [w + rho * t**2 * g / length for w, t, g in zip(values, scales, first, strict=True)]
        return first, self.gradients_at(worst)


def largest_difference(got, expected):
    """Of the largest magnitude in any of the arrays."""
    assert len(got) == len(expected)
    largest = max(np.abs(array).max() for array in expected)
    return max(np.abs(one - other).max() for one, other in zip(got, expected, strict=True)) / largest


def assert_steps(make, loss, batch, tolerance=STEP_TOLERANCE, shows=STEP_SHOWS, accumulate=1, **arguments):
    """One step of rate 0.5 of `make()` around which SharpnessAware is put, whose batches are in parts."""
    model = make()
    values = copies(model.trainable_variables)
    plain = PlainSteps(make, loss, batch)
    assert largest_difference(copies(plain.model.variables), copies(model.variables)) == 0, (
        "two models of `make` differ"
    )
    at_w, at_worst = plain.gradients_of_sam(values, **arguments)
    trained = SharpnessAware(model, accumulate=accumulate, **arguments)
    trained.compile(keras.optimizers.SGD(0.5), loss)
    logs = trained.train_on_batch(**batch, return_dict=True)
    expected = [w - 0.5 * g for w, g in zip(values, at_worst, strict=True)]
    by_plain = [w - 0.5 * g for w, g in zip(values, at_w, strict=True)]
    assert largest_difference(by_plain, expected) > shows
    assert largest_difference(copies(model.trainable_variables), expected) < tolerance
    for variable, after in zip(model.weights, plain.after_first, strict=True):
        if not variable.trainable:
            # A moving statistic after one step from the same weights: only the order of sums may differ.
            np.testing.assert_allclose(copies([variable])[0], after, rtol=tolerance, atol=tolerance)
    assert float(logs["loss"]) == pytest.approx(plain.losses[0], rel=tolerance)
    assert abs(plain.losses[1] / plain.losses[0] - 1) > shows


def drawn(model, seed=5):
    """The model with every weight drawn anew, moving statistics and seeds as they were."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "moving" not in variable.name and "float" in variable.dtype:
            fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
            variable.assign(rng.normal(size=variable.shape) * fan_in**-0.5 + variable.name.endswith("gamma"))
    return model


def chain(*middle, width=6, classes=3):
    return lambda: drawn(keras.Sequential([keras.Input((width,)), *[make() for make in middle], layers.Dense(classes)]))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="tanh")
        self.norm = layers.BatchNormalization()
        self.last = layers.Dense(3)

    def call(self, x, training=None):
        return self.last(self.norm(self.hidden(x), training=training))


COUNT = 12
X, Y = normal(COUNT, 6, seed=21), one_hot(COUNT, 3, seed=22)
XY = {"x": X, "y": Y}
SECOND = normal(COUNT, 4, seed=23)
HIDDEN_LAYER = (lambda: layers.Dense(5, activation="tanh"),)


def with_dropout():
    return chain(*HIDDEN_LAYER, lambda: layers.Dropout(0.5, seed=7), layers.BatchNormalization)()


def policy_model(policy):
    """A function that makes a small model of this policy, whose logits are float32."""

    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((6,))
            hidden = layers.BatchNormalization()(layers.Dense(5, activation="tanh")(x))
            return drawn(keras.Model(x, layers.Dense(3, dtype="float32")(hidden)))
        finally:
            keras.config.set_dtype_policy(before)

    return make


def scaled(optimizer, **arguments):
    return keras.optimizers.LossScaleOptimizer(optimizer, **arguments)
