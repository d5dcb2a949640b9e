"""`kcifar.accelerate` in float64, and in bfloat16, where it is as exact as stock."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import kcifar
from tests.accelerate_twins import (
    EVEN,
    ODD,
    TOLERANCE,
    around,
    array_of,
    arrays_of,
    assert_twins_agree,
    filled,
    name_of,
    normal,
    observed,
    twins,
)

pytestmark = pytest.mark.once

TOLERANCE_FLOAT64 = 1e-13  # TOLERANCE with roundings of 1.1e-16 for 6e-8, rounded up

# Stock Keras on torch computes some float64 layers in float32 (its result type of two float64 is float32); the rest
# hold float64 on both sides.
FLOAT64 = [
    (layers.Conv2D, ODD, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}, TOLERANCE_FLOAT64),
    (layers.Conv2D, EVEN, {"filters": 6, "kernel_size": 2, "activation": "relu"}, TOLERANCE_FLOAT64),
    (layers.DepthwiseConv2D, ODD, {"kernel_size": 3}, TOLERANCE_FLOAT64),
    (layers.MaxPooling2D, ODD, {"padding": "same"}, TOLERANCE_FLOAT64),
    (layers.AveragePooling2D, ODD, {"pool_size": 2, "padding": "same"}, TOLERANCE_FLOAT64),
    (layers.Activation, ODD, {"activation": "elu"}, TOLERANCE_FLOAT64),
    (layers.Rescaling, ODD, {"scale": 1 / 255}, TOLERANCE_FLOAT64),
    (layers.Dropout, ODD, {"rate": 0.4, "seed": 3}, TOLERANCE_FLOAT64),
    (layers.BatchNormalization, ODD, {}, TOLERANCE),
    (layers.BatchNormalization, (6,), {}, TOLERANCE),
    (layers.Dense, (6,), {"units": 5, "activation": "elu"}, TOLERANCE),
    (layers.GlobalAveragePooling2D, ODD, {}, TOLERANCE),
    (layers.Normalization, ODD, {"mean": [0.1, 0.2, 0.3, 0.4], "variance": [0.5, 1.0, 2.0, 0.1]}, TOLERANCE),
]


@pytest.fixture
def float64_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("kind", "shape", "arguments", "tolerance"), FLOAT64, ids=name_of)
def test_float64_is_as_in_stock(kind, shape, arguments, tolerance, float64_policy):
    within = len(shape) == 3  # a convolution around it
    assert_twins_agree(
        lambda: around(
            lambda: kind(**arguments), [shape], within and kind is not layers.GlobalAveragePooling2D, "float64"
        ),
        arrays_of([shape], dtype=np.float64),
        tolerance,
    )


def test_a_float64_layer_in_a_float32_model():
    def make():
        image = keras.Input(ODD)
        x = layers.Conv2D(4, 3, dtype="float64")(layers.Conv2D(4, 1)(image))
        x = layers.BatchNormalization(dtype="float64")(x)
        return keras.Model(image, layers.Activation("relu")(x))

    assert_twins_agree(make, arrays_of([ODD]))


# Two bfloat16 values next to each other differ by 2⁻⁷ at most, a rounding is off by 2⁻⁸: results of the same quality
# may differ by one in the last place, once.
BFLOAT16_FACTOR, BFLOAT16_SLACK = 1.1, 2.0**-8


def assert_no_further_from_float64(make, inputs, slack=BFLOAT16_SLACK):
    """`make(policy)` gives the model; errors are of the largest magnitude of the float64 model's tensor."""
    exact = filled(make("float64"))
    policies = ("mixed_bfloat16", "mixed_bfloat16")
    stock, fast = (filled(make(policy)) for policy in policies)
    for model in (stock, fast):
        exact.set_weights(model.get_weights())
    kcifar.accelerate(fast)
    for training_ in (False, True):
        got, expected = observed(fast, inputs, training_), observed(stock, inputs, training_)
        reference = observed(exact, inputs, training_)
        assert got.keys() == expected.keys() == reference.keys()
        for key, value in expected.items():
            assert got[key].dtype == value.dtype, key
            assert_closer(key, array_of(got[key]), array_of(value), array_of(reference[key]), slack)


def assert_closer(key, got, expected, reference, slack):
    scale = np.abs(reference).max()
    error, allowed = (np.abs(value - reference).max() / scale for value in (got, expected))
    message = f"{key}: {error:.2g} from float64, stock {allowed:.2g}, the largest is {scale:.2g}"
    assert error <= BFLOAT16_FACTOR * allowed + slack, message


BFLOAT16 = [
    (layers.Conv2D, ODD, {"filters": 6, "kernel_size": 3, "padding": "same"}),
    (layers.Conv2D, EVEN, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "elu"}),
    (layers.Conv2D, ODD, {"filters": 6, "kernel_size": 1, "groups": 2, "use_bias": False}),
    (layers.DepthwiseConv2D, ODD, {"kernel_size": 3}),
    (layers.DepthwiseConv2D, EVEN, {"kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2}),
    (layers.BatchNormalization, ODD, {}),
    (layers.BatchNormalization, ODD, {"scale": False, "center": False, "momentum": 0.5}),
    (layers.BatchNormalization, (6,), {}),
    (layers.Dense, (6,), {"units": 5}),
    (layers.Dense, (5, 6), {"units": 5, "activation": "relu"}),
    (layers.MaxPooling2D, ODD, {"padding": "same"}),
    (layers.AveragePooling2D, ODD, {"pool_size": 3, "strides": 2, "padding": "same"}),
    (layers.GlobalAveragePooling2D, ODD, {}),
    (layers.GlobalMaxPooling2D, ODD, {}),
    (layers.Activation, ODD, {"activation": "elu"}),
    (layers.Activation, ODD, {"activation": "softmax"}),
    (layers.Normalization, ODD, {"mean": [0.1, 0.2, 0.3, 0.4], "variance": [0.5, 1.0, 2.0, 0.1]}),
    (layers.Rescaling, ODD, {"scale": 0.3, "offset": 0.1}),
]


@pytest.mark.parametrize(("kind", "shape", "arguments"), BFLOAT16, ids=name_of)
def test_bfloat16_is_as_exact_as_in_stock(kind, shape, arguments):
    # Inputs that bfloat16 holds: a pool then finds the same largest value in every precision.
    images = array_of(torch.from_numpy(arrays_of([shape])).bfloat16()).astype(np.float32)

    def make(policy):
        image = keras.Input(shape)
        return keras.Model(image, kind(**arguments, dtype=keras.DTypePolicy(policy))(image))

    assert_no_further_from_float64(make, images)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [ODD, (6,)], ids=str)
def test_batch_norm_far_from_zero_is_as_exact_as_in_stock(shape, policy):
    """The mean is 50 deviations: E[x²] − E[x]² would lose 2500 times the rounding of a float32, for example.

    The reference is the definition in float64, as stock Keras computes a float64 BatchNorm with float32 means.
    """

    def make():
        image = keras.Input(shape)
        return keras.Model(image, layers.BatchNormalization(dtype=keras.DTypePolicy(policy))(image))

    stock, fast = twins(make)
    images = array_of(torch.from_numpy(50 + normal(64, *shape)).bfloat16()).astype(np.float32)
    gamma, beta, mean, variance = (torch.tensor(array, dtype=torch.float64) for array in stock.get_weights())
    gamma.requires_grad_(), beta.requires_grad_()
    x, axes = torch.tensor(images, dtype=torch.float64, requires_grad=True), tuple(range(len(shape)))
    now, spread = x.mean(axes), x.var(axes, correction=0)
    y = (x - now) / torch.sqrt(spread + 1e-3) * gamma + beta
    noise = np.random.default_rng(100).normal(size=images.shape)
    (y * ops.convert_to_tensor(noise, policy.removeprefix("mixed_")).double().cpu()).sum().backward()
    exact = [y, x.grad, gamma.grad, beta.grad, gamma, beta, 0.99 * mean + 0.01 * now, 0.99 * variance + 0.01 * spread]
    got, expected = observed(fast, images, True), observed(stock, images, True)
    # The float32 slack is of the rounding of 50 against a deviation of 1.
    slack = 2.0**-17 if policy == "float32" else BFLOAT16_SLACK
    for (key, value), reference in zip(expected.items(), exact, strict=True):
        assert_closer(key, array_of(got[key]), array_of(value), array_of(reference), slack)


def test_a_bfloat16_net_as_a_whole():
    def make(policy):
        policy = keras.DTypePolicy(policy)
        image = keras.Input(EVEN)
        x = layers.Conv2D(8, 3, padding="same", dtype=policy)(image)
        x = layers.BatchNormalization(dtype=policy)(layers.Activation("elu", dtype=policy)(x))
        x = layers.AveragePooling2D(2, dtype=policy)(x)
        x = layers.Dense(6, dtype=policy)(layers.Flatten(dtype=policy)(x))
        return keras.Model(image, layers.Dense(3, dtype="float32" if policy.name != "float64" else policy)(x))

    # Roundings of four layers, which fall differently once one of them does.
    assert_no_further_from_float64(make, normal(16, *EVEN), 4 * BFLOAT16_SLACK)


def test_mixed_policies_give_the_types_of_stock():
    def make():
        image = keras.Input(ODD)
        x = layers.Conv2D(4, 3, dtype="mixed_bfloat16")(image)
        y = layers.ReLU(dtype="float32")(x)
        z = layers.BatchNormalization(dtype="bfloat16")(y)
        return keras.Model(image, [x, y, z, layers.Activation("relu", dtype="mixed_float16")(z)])

    stock, fast = twins(make)
    for training_ in (False, True):
        seen, expected = (observed(model, normal(4, *ODD), training_) for model in (fast, stock))
        assert {key: value.dtype for key, value in seen.items()} == {k: value.dtype for k, value in expected.items()}
        assert [x.dtype for x in fast.outputs] == [x.dtype for x in stock.outputs]
