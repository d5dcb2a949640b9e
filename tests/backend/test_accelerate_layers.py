"""`kcifar.accelerate`: an accelerated layer computes, learns and draws what the stock layer does, one by one."""

from itertools import product

import keras
import numpy as np
import pytest
from keras import layers, ops

import kcifar
from tests.accelerate_twins import (
    EVEN,
    ODD,
    around,
    array_of,
    arrays_of,
    assert_agree,
    assert_same_array,
    assert_twins_agree,
    conv,
    filled,
    image_model,
    name_of,
    normal,
    observed,
    twins,
    without_onednn,
)

pytestmark = pytest.mark.once


def doubled_tanh(x):
    return ops.tanh(2 * x)


SIZES = {"7x9": ODD, "8x8": EVEN}
PADDINGS = ("same", "valid")


def convolutions():
    for size, kernel, strides, padding, groups in product(SIZES, (1, 2, 3, 5), (1, 2), PADDINGS, (1, 2)):
        yield size, {"filters": 6, "kernel_size": kernel, "strides": strides, "padding": padding, "groups": groups}
    for size, kernel, padding, groups in product(SIZES, (2, 3), PADDINGS, (1, 2)):
        yield size, {"filters": 6, "kernel_size": kernel, "dilation_rate": 2, "padding": padding, "groups": groups}
    for activation, use_bias in product((None, "relu", "elu", "softmax", doubled_tanh), (True, False)):
        yield "7x9", {"filters": 6, "kernel_size": 3, "activation": activation, "use_bias": use_bias}
    yield "7x9", {"filters": 6, "kernel_size": (1, 3), "strides": (2, 1), "padding": "same"}
    yield "7x9", {"filters": 6, "kernel_size": 3, "dilation_rate": (1, 2), "padding": "same"}


def depthwise():
    for size, multiplier, strides, padding in product(SIZES, (1, 2), (1, 2), PADDINGS):
        yield size, {"kernel_size": 3, "depth_multiplier": multiplier, "strides": strides, "padding": padding}
    for activation, use_bias in product((None, "relu", "softmax"), (True, False)):
        yield "7x9", {"kernel_size": 3, "activation": activation, "use_bias": use_bias}
    yield "8x8", {"kernel_size": 5, "strides": 2, "padding": "same"}
    yield "8x8", {"kernel_size": 3, "dilation_rate": 2, "padding": "same"}


def pools():
    for size, pool, strides, padding in product(SIZES, (2, 3), (None, 1, 2, 3), PADDINGS):
        yield size, {"pool_size": pool, "strides": strides, "padding": padding}
    yield "7x9", {"pool_size": (1, 3), "strides": (2, 1), "padding": "same"}


def layer_cases():
    """(class, shapes of the inputs, arguments)."""
    cases = [(layers.Conv2D, SIZES[size], arguments) for size, arguments in convolutions()]
    cases += [(layers.DepthwiseConv2D, SIZES[size], arguments) for size, arguments in depthwise()]
    for kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        cases += [(kind, SIZES[size], arguments) for size, arguments in pools()]
    cases += [
        (layers.SeparableConv2D, ODD, {"filters": 5, "kernel_size": 3}),
        (layers.SeparableConv2D, EVEN, {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
        (layers.SeparableConv2D, ODD, {"filters": 5, "kernel_size": 3, "depth_multiplier": 2, "activation": "relu"}),
        (layers.Conv2DTranspose, ODD, {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
        (layers.ZeroPadding2D, ODD, {"padding": ((1, 0), (2, 3))}),
        (layers.ZeroPadding2D, ODD, {}),
        (layers.Cropping2D, ODD, {"cropping": ((1, 0), (2, 3))}),
        (layers.UpSampling2D, ODD, {}),
        (layers.Normalization, ODD, {"mean": [0.1, 0.2, 0.3, 0.4], "variance": [0.5, 1.0, 2.0, 0.1]}),
        (layers.Normalization, ODD, {"axis": None, "mean": 0.5, "variance": 2.0}),
        (layers.Normalization, ODD, {"mean": [0.1] * 4, "variance": [0.5, 1.0, 2.0, 0.1], "invert": True}),
        (layers.Rescaling, ODD, {"scale": 1 / 255, "offset": -0.5}),
        (layers.Rescaling, ODD, {"scale": [1.0, 2.0, 3.0, 4.0]}),
        (layers.Reshape, ODD, {"target_shape": (9, -1, 2)}),
        (layers.Reshape, (6,), {"target_shape": (3, 2)}),
        (layers.Permute, ODD, {"dims": (3, 1, 2)}),
        (layers.Flatten, ODD, {}),
        (layers.Flatten, (6,), {}),
        (layers.Dropout, ODD, {"rate": 0.4, "seed": 3}),
        (layers.Dropout, ODD, {"rate": 0.4, "seed": 3, "noise_shape": (None, 1, 1, 4)}),
        (layers.Dropout, (6,), {"rate": 0.4, "seed": 3}),
        (layers.Dropout, ODD, {"rate": 0.0}),
        (layers.SpatialDropout2D, ODD, {"rate": 0.4, "seed": 3}),
        (layers.GaussianNoise, ODD, {"stddev": 0.4, "seed": 3}),
        (layers.LayerNormalization, ODD, {}),
        (layers.GroupNormalization, ODD, {"groups": 2}),
        (layers.PReLU, ODD, {"shared_axes": (1, 2)}),
        (layers.Softmax, ODD, {}),
        (layers.Softmax, ODD, {"axis": 1}),
        (layers.LeakyReLU, ODD, {}),
        (layers.LeakyReLU, ODD, {"negative_slope": 0.05}),
        (layers.ELU, ODD, {}),
        (layers.ELU, ODD, {"alpha": 0.5}),
    ]
    cases += [
        (kind, ODD, {"keepdims": keepdims})
        for kind in (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
        for keepdims in (False, True)
    ]
    cases += [
        (layers.ReLU, ODD, arguments)
        for arguments in (
            {},
            {"max_value": 6},
            {"negative_slope": 0.1},
            {"threshold": 0.5},
            {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.3},
        )
    ]
    names = "relu elu sigmoid tanh silu gelu softmax hard_sigmoid relu6 selu softplus leaky_relu log_softmax linear"
    cases += [(layers.Activation, ODD, {"activation": name}) for name in [*names.split(), doubled_tanh]]
    for shape in ((6,), (5, 6), ODD):
        cases += [(layers.Dense, shape, {"units": 5, "activation": name}) for name in (None, "relu", doubled_tanh)]
    cases += [(layers.Dense, (6,), {"units": 5, "use_bias": False, "activation": "softmax"})]
    for shape in ((6,), ODD, (5, 6)):
        cases += [
            (layers.BatchNormalization, shape, arguments)
            for arguments in (
                {},
                {"scale": False},
                {"center": False},
                {"scale": False, "center": False},
                {"momentum": 0.5, "epsilon": 1e-5},
                {"momentum": 0.0},
                {"trainable": False},
            )
        ]
    cases += [(layers.BatchNormalization, ODD, {"axis": axis}) for axis in (1, 2, 3)]
    for kind, arguments in (
        (layers.Conv2D, {"filters": 6, "kernel_size": 3, "padding": "same", "activation": "relu"}),
        (layers.DepthwiseConv2D, {"kernel_size": 3, "strides": 2, "padding": "same"}),
        (layers.SeparableConv2D, {"filters": 6, "kernel_size": 3}),
        (layers.MaxPooling2D, {"padding": "same"}),
        (layers.AveragePooling2D, {"pool_size": 2, "padding": "same"}),
        (layers.GlobalAveragePooling2D, {}),
        (layers.GlobalMaxPooling2D, {}),
        (layers.ZeroPadding2D, {}),
        (layers.Flatten, {}),
    ):
        cases.append((kind, EVEN, arguments | {"data_format": "channels_first"}))
    return cases


@pytest.mark.parametrize("within", [False, True], ids=["alone", "within"])
@pytest.mark.parametrize(("kind", "shape", "arguments"), layer_cases(), ids=name_of)
def test_a_layer_is_the_stock_layer(kind, shape, arguments, within):
    # A deviation of four rows may come out small, and its inverse then makes the most of every rounding.
    batch = 32 if kind is layers.BatchNormalization else 4
    assert_twins_agree(lambda: around(lambda: kind(**arguments), [shape], within), arrays_of([shape], batch))


class Holding(keras.Model):
    """A layer in a model that is no graph."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x + 0.1)


@pytest.mark.parametrize(("kind", "shape", "arguments"), layer_cases(), ids=name_of)
def test_a_layer_in_a_model_of_its_own_call_is_the_stock_layer(kind, shape, arguments):
    images = arrays_of([shape], 32 if kind is layers.BatchNormalization else 4)

    def make():
        layer = kind(**arguments)
        layer.build((None, *shape))  # within a call stock Keras loses a Normalization's constants
        model = Holding(layer)
        model(images)
        return model

    stock, fast = twins(make)
    with without_onednn():  # a convolution in such a model runs as stock in both
        assert_agree(observed(fast, images, True), observed(stock, images, True))


PAIR, GATE = [ODD, ODD], [ODD, (1, 1, 4)]
MERGES = [
    (layers.Add, {}, PAIR),
    (layers.Add, {}, [ODD, ODD, ODD]),
    (layers.Add, {}, GATE),
    (layers.Add, {}, [(1, 1, 4), (1, 1, 4), ODD]),
    (layers.Add, {}, [(7, 1, 4), (1, 9, 4), (1, 1, 1)]),
    (layers.Multiply, {}, [(1, 1, 4), ODD, (7, 9, 1)]),
    (layers.Multiply, {}, [(4,), ODD]),
    (layers.Multiply, {}, PAIR),
    (layers.Multiply, {}, GATE),
    (layers.Multiply, {}, GATE[::-1]),
    (layers.Subtract, {}, PAIR),
    (layers.Average, {}, PAIR),
    (layers.Maximum, {}, PAIR),
    (layers.Concatenate, {}, [ODD, (7, 9, 2)]),
    (layers.Concatenate, {"axis": 1}, [ODD, (3, 9, 4), ODD]),
    (layers.Concatenate, {"axis": -2}, [ODD, (7, 2, 4)]),
    (layers.Add, {}, [(6,), (6,)]),
    (layers.Concatenate, {}, [(6,), (2,)]),
]


@pytest.mark.parametrize("within", [False, True], ids=["alone", "within"])
@pytest.mark.parametrize(("kind", "arguments", "shapes"), MERGES, ids=name_of)
def test_a_merge_is_the_stock_merge(kind, arguments, shapes, within):
    assert_twins_agree(lambda: around(lambda: kind(**arguments), shapes, within), arrays_of(shapes))


@pytest.mark.parametrize("kind", [layers.MaxPooling2D, layers.AveragePooling2D, layers.GlobalMaxPooling2D])
def test_pools_of_negative_values_do_not_see_the_padding(kind):
    arguments = {} if kind is layers.GlobalMaxPooling2D else {"pool_size": 3, "strides": 2, "padding": "same"}
    assert_twins_agree(lambda: around(lambda: kind(**arguments), [ODD], False), arrays_of([ODD]) - 5)


@pytest.mark.parametrize("kind", [layers.MaxPooling2D, layers.AveragePooling2D, layers.Flatten, layers.Activation])
def test_a_convolution_feeds_what_follows(kind):
    arguments = {layers.Activation: {"activation": "relu"}, layers.AveragePooling2D: {"pool_size": 2}}.get(kind, {})

    def make():
        image = keras.Input(ODD)
        x = layers.Conv2D(5, 3, padding="same")(image)
        return keras.Model(image, layers.Dense(3)(layers.Flatten()(kind(**arguments)(x))))

    assert_twins_agree(make, arrays_of([ODD]))


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4)], ids=str)
def test_batch_norm_of_one_value_per_channel(shape):
    assert_twins_agree(lambda: around(layers.BatchNormalization, [shape], False), arrays_of([shape], batch=1))


@pytest.mark.parametrize("shape", [(4,), ODD], ids=str)
def test_several_calls_before_one_backward_pass(shape):
    assert_twins_agree(lambda: around(layers.BatchNormalization, [shape], True), arrays_of([shape]), calls=3)


KINKS = np.resize(np.float32([-6, -3, -1, -0.0, 0.0, 0.5, 1, 3, 6, 7]), (2, *ODD))
BENT = [
    *((layers.Activation, {"activation": name}) for name in ("relu", "relu6", "elu", "hard_sigmoid", "hard_silu")),
    *((layers.Activation, {"activation": name}) for name in ("leaky_relu", "selu", "hard_tanh", "soft_shrink")),
    *((layers.ReLU, arguments) for arguments in ({}, {"max_value": 6}, {"negative_slope": 0.1}, {"threshold": 0.5})),
    *((layers.ReLU, arguments) for arguments in ({"max_value": 3}, {"max_value": 6, "negative_slope": 0.1})),
    *((layers.LeakyReLU, {"negative_slope": slope}) for slope in (0.3, 0.0)),
    *((layers.ELU, {"alpha": alpha}) for alpha in (1.0, 0.5)),
    (layers.MaxPooling2D, {"padding": "same"}),
    (layers.MaxPooling2D, {"pool_size": 3, "strides": 1, "padding": "same"}),
    (layers.GlobalMaxPooling2D, {}),
]


@pytest.mark.parametrize("values", [KINKS, np.zeros_like(KINKS)], ids=["kinks", "zeros"])
@pytest.mark.parametrize(("kind", "arguments"), BENT, ids=name_of)
def test_gradients_where_there_are_several(kind, arguments, values):
    """At a bend, and of a maximum that several values share, the gradient goes where stock sends it."""
    assert_twins_agree(lambda: around(lambda: kind(**arguments), [ODD], False), values)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (layers.ZeroPadding2D, {}),
        (layers.Flatten, {}),
        (layers.Reshape, {"target_shape": (-1,)}),
        (layers.Activation, {"activation": "relu"}),
        (layers.ReLU, {}),
        (layers.Rescaling, {"scale": 1 / 255}),
        (layers.GlobalMaxPooling2D, {}),
        (layers.Normalization, {"axis": None, "mean": 120.0, "variance": 2500.0}),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_whole_numbers_are_taken_as_in_stock(kind, arguments, dtype):
    images = np.random.default_rng(0).integers(0, 200, (2, *ODD)).astype(dtype)
    assert_twins_agree(lambda: around(lambda: kind(**arguments), [ODD], False, dtype), images)


def test_batch_norm_used_twice_in_one_graph():
    def make():
        image, norm = keras.Input(ODD), layers.BatchNormalization(momentum=0.8)
        return keras.Model(image, norm(layers.Conv2D(4, 3, activation="relu")(norm(image))))

    assert_twins_agree(make, arrays_of([ODD]))


BEFORE_DROPOUT = {
    "input": lambda image: image,
    "convolution": lambda image: conv()(image),
    "to_one_channel": lambda image: conv(1)(image),
    "of_one_channel": lambda image: conv(3)(conv(1)(image)),
    "depthwise": lambda image: layers.DepthwiseConv2D(3)(image),
    "separable": lambda image: layers.SeparableConv2D(4, 3)(image),
    "strided": lambda image: conv(5, 3, strides=2)(image),
    "pointwise": lambda image: conv(5, 1)(image),
    "grouped": lambda image: conv(4, 3, groups=2)(image),
    "batch_norm": lambda image: layers.BatchNormalization()(image),
    "padding": lambda image: layers.ZeroPadding2D(1)(image),
    "add": lambda image: layers.Add()([conv()(image), image]),
    "gate": lambda image: layers.Multiply()([layers.GlobalAveragePooling2D(keepdims=True)(image), conv()(image)]),
    "global": lambda image: layers.GlobalAveragePooling2D(keepdims=True)(conv()(image)),
    "concatenate": lambda image: layers.Concatenate()([conv(2)(image), image]),
    "concatenate_rows": lambda image: layers.Concatenate(axis=1)([conv(4)(image), image]),
    "activation": lambda image: layers.Activation("softmax")(conv()(image)),
    "normalization": lambda image: layers.Normalization(axis=None, mean=0.1, variance=2.0)(image),
    "rescaling": lambda image: layers.Rescaling(2.0)(conv()(image)),
    "permute": lambda image: layers.Permute((2, 1, 3))(conv()(image)),
    "reshape": lambda image: layers.Reshape((9, 7, 4))(conv()(image)),
    "flatten": lambda image: layers.Flatten()(conv()(image)),
    "dense": lambda image: layers.Dense(5, activation="relu")(layers.Flatten()(image)),
}


@pytest.mark.parametrize("before", BEFORE_DROPOUT.values(), ids=BEFORE_DROPOUT)
def test_dropout_without_a_seed_draws_what_stock_draws(before):
    """From torch's global generator, in the order in which the values lie in memory."""

    def outputs(change):
        keras.utils.set_random_seed(4)
        model = change(filled(image_model(lambda image: layers.Dropout(0.5)(before(image)))))
        keras.utils.set_random_seed(5)
        images = normal(4, *ODD)
        return {f"call {call}": model(images, training=True) for call in range(2)}

    assert_agree(outputs(kcifar.accelerate), outputs(lambda model: model))


POOLS = {
    "max_pool": lambda image: layers.MaxPooling2D()(conv()(image)),
    "average_pool": lambda image: layers.AveragePooling2D(2)(conv()(image)),
    "padded_pool": lambda image: layers.MaxPooling2D(padding="same")(image),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_dropout_without_a_seed_keeps_half_of_a_pool(pool):
    """Not the values that stock keeps, as it draws in the order of memory."""
    keras.utils.set_random_seed(4)
    model = image_model(lambda image: layers.Dropout(0.5)(pool(image)), (64, 64, 4))
    model, images = kcifar.accelerate(filled(model)), np.ones((16, 64, 64, 4), np.float32)
    pooled, dropped = (array_of(model(images, training=training)) for training in (False, True))
    kept = dropped != 0
    deviation = 0.5 / kept.size**0.5
    assert abs(kept.mean() - 0.5) <= 6 * deviation
    assert_same_array(dropped[kept], 2 * pooled[kept])
