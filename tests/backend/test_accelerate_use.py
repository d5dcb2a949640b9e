"""`kcifar.accelerate`: an accelerated model in use, with other inputs, within others, and changed afterwards."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import kcifar
from tests.accelerate_twins import (
    ODD,
    Subclassed,
    any_size,
    assert_agree,
    assert_twins_agree,
    conv,
    filled,
    image_model,
    normal,
    observed,
    sequential,
    small_net,
    twins,
)

pytestmark = pytest.mark.once


def test_bytes_into_a_normalization():
    """Integers up to 255, which the stock model takes as they are."""

    def graph(image):
        x = layers.Normalization(mean=[100.0, 120.0, 110.0], variance=[50.0**2, 60.0**2, 55.0**2])(image)
        return layers.ReLU()(conv()(x))

    images = np.random.default_rng(0).integers(0, 256, (4, 7, 9, 3)).astype(np.uint8)
    assert_twins_agree(lambda: image_model(graph, (7, 9, 3)), images)
    assert_twins_agree(lambda: image_model(graph, (7, 9, 3), dtype="uint8"), images)


def test_an_adapted_normalization():
    images = 5 + 3 * normal(16, *ODD)

    def make():
        layer = layers.Normalization()
        layer.adapt(images)
        return image_model(lambda image: conv()(layer(image)))

    stock, fast = make(), kcifar.accelerate(make())
    fast.set_weights(stock.get_weights())
    assert_agree(observed(fast, images, True), observed(stock, images, True))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches_of_other_sizes(batch):
    stock, fast = twins(sequential)
    for count in (4, batch, 4):
        images = normal(count, *ODD)
        assert_agree(observed(fast, images, False), observed(stock, images, False))


def test_images_of_other_sizes():
    stock, fast = twins(any_size)
    for shape in ((7, 9, 4), (8, 8, 4), (1, 1, 4), (7, 9, 4)):
        images = normal(16, *shape)
        assert_agree(observed(fast, images, True), observed(stock, images, True))


def test_inputs_in_another_memory_order():
    stock, fast = twins(sequential)
    transposed = torch.from_numpy(normal(4, 4, 7, 9)).permute(0, 2, 3, 1)
    strided = torch.from_numpy(normal(8, 7, 9, 4))[::2]
    expanded = torch.from_numpy(normal(1, 7, 9, 4)).expand(4, 7, 9, 4)
    for images in (transposed, strided, expanded):
        assert_agree({"output": fast(images)}, {"output": stock(images)})


def test_inputs_that_stock_converts():
    stock, fast = twins(sequential)
    images = normal(4, *ODD)
    for given in (images, images.astype(np.float64), (10 * images).astype(np.int32), torch.from_numpy(images).half()):
        assert_agree({"output": fast(given)}, {"output": stock(given)})


@pytest.mark.parametrize("shape", [(4, 7, 9, 3), (4, 7, 7, 4), (4, 9), (4, 2, 7, 9, 4)], ids=str)
@pytest.mark.parametrize("make", [sequential, small_net], ids=["sequential", "functional"])
def test_wrong_inputs_are_refused_as_in_stock(make, shape):
    outcomes = []
    for model in twins(make):
        try:
            outcomes.append(tuple(model(np.zeros(shape, np.float32)).shape))
        except (ValueError, RuntimeError):
            outcomes.append("refused")
    assert outcomes[1] == outcomes[0]


def test_layers_and_parts_of_an_accelerated_model_are_of_use():
    stock, fast = twins(sequential)
    images = normal(4, *ODD)
    for cut in (0, 1, 2, 5):
        part = keras.Model(fast.inputs, fast.layers[cut].output)
        expected = keras.Model(stock.inputs, stock.layers[cut].output)
        assert_agree(observed(part, images, True), observed(expected, images, True))
    assert_agree({"output": fast.layers[0](images)}, {"output": stock.layers[0](images)})


def test_an_accelerated_model_within_a_new_one():
    def wrapped(net):
        image = keras.Input(ODD)
        return filled(keras.Model(image, layers.Dense(2)(net(layers.ReLU()(conv()(image))))), 5)

    stock, fast = (wrapped(net) for net in twins(sequential))
    for training_ in (False, True):
        images = normal(4, *ODD)
        assert_agree(observed(fast, images, training_), observed(stock, images, training_))
    kcifar.accelerate(fast)
    assert_agree(observed(fast, images, True), observed(stock, images, True))


def assign(variable, factor, shift):
    variable.assign(variable * factor + shift)


CHANGES = {
    "set_weights": lambda model: filled(model, 3),
    "assign_kernel": lambda model: assign(model.layers[0].kernel, 2, 0),
    "assign_mean": lambda model: assign(model.layers[1].moving_mean, 1, 1),
    "freeze_norm": lambda model: setattr(model.layers[1], "trainable", False),
    "freeze": lambda model: setattr(model, "trainable", False),
    "momentum": lambda model: setattr(model.layers[1], "momentum", 0.5),
    "rate": lambda model: setattr(model.layers[4], "rate", 0.1),
    "activation": lambda model: setattr(model.layers[5], "activation", keras.activations.tanh),
    "activation_of_conv": lambda model: setattr(model.layers[0], "activation", keras.activations.elu),
    "lora": lambda model: filled(model.layers[6].enable_lora(2) or model, 4),
    "pop": lambda model: model.pop(),
    "add": lambda model: filled(model.add(layers.Dense(2, activation="relu")) or model, 4),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_after_acceleration_is_seen(change):
    stock, fast = twins(sequential)
    images = normal(4, *ODD)
    observed(fast, images, True), observed(stock, images, True)
    change(stock), change(fast)
    for training_ in (False, True, False):
        assert_agree(observed(fast, images, training_), observed(stock, images, training_))


def changeable():
    image = keras.Input((9, 9, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.MaxPooling2D(2, padding="same", name="max")(x)
    x = layers.AveragePooling2D(2, padding="same", name="mean")(layers.LeakyReLU(name="leaky")(x))
    x = layers.DepthwiseConv2D(2, padding="same", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ZeroPadding2D(1, name="zeros")(x))
    return keras.Model(image, layers.Dropout(0.5, seed=1, name="dropout")(layers.Dense(3, name="dense")(x)))


SETTINGS = [
    *[("conv", name, value) for name, value in (("padding", "valid"), ("strides", (2, 2)), ("dilation_rate", (2, 2)))],
    *[("norm", "epsilon", 0.5), ("norm", "momentum", 0.5), ("relu", "negative_slope", 0.5), ("relu", "max_value", 0.5)],
    *[("leaky", "negative_slope", 0.5), ("max", "pool_size", (3, 3)), ("max", "strides", (1, 1))],
    *[("mean", "padding", "valid"), ("depthwise", "strides", (2, 2)), ("depthwise", "padding", "valid")],
    *[("zeros", "padding", ((2, 0), (0, 1))), ("dropout", "rate", 0.1), ("dense", "use_bias", False)],
]


@pytest.mark.parametrize(("layer", "name", "value"), SETTINGS, ids=str)
def test_a_setting_changed_after_acceleration_is_seen(layer, name, value):
    stock, fast = twins(changeable)
    images = normal(4, 9, 9, 4)
    before = observed(stock, images, True)["output 0 of call 0"]
    observed(fast, images, True)
    for model in (stock, fast):
        setattr(model.get_layer(layer), name, value)
    for training_ in (True, False):
        expected = observed(stock, images, training_)
        assert_agree(observed(fast, images, training_), expected)
    assert name == "momentum" or not torch.equal(before, expected["output 0 of call 0"])


def replace_call(layer, function):
    """As people patch one layer, for instance to have dropout in inference too."""
    stock = type(layer).call
    layer.call = lambda *args, **kwargs: function(lambda *a, **k: stock(layer, *a, **k), *args, **kwargs)


CALLS = {
    "conv": lambda stock, x: 2 * stock(x),
    "norm": lambda stock, x, training=None, mask=None: stock(x, training=True),
    "dropout": lambda stock, x, training=None: stock(x, training=True),
    "dense": lambda stock, x, training=None: ops.relu(stock(x)),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("layer", CALLS)
def test_a_call_that_was_replaced_is_called(layer, when):
    stock, fast = (changeable() for _ in range(2))
    filled(stock), filled(fast)
    images, before = normal(4, 9, 9, 4), None
    if when == "after":
        kcifar.accelerate(fast)
        before = observed(stock, images, False)["output 0 of call 0"]
        observed(fast, images, False)
    for model in (stock, fast):
        replace_call(model.get_layer(layer), CALLS[layer])
    kcifar.accelerate(fast)
    expected = observed(stock, images, False)
    assert_agree(observed(fast, images, False), expected)
    assert before is None or not torch.equal(before, expected["output 0 of call 0"])


def test_a_models_call_that_was_replaced_is_called():
    stock, fast = (filled(changeable()) for _ in range(2))
    for model in (stock, fast):
        replace_call(model, lambda call, x, training=None, mask=None: 2 * call(x, training=training))
    kcifar.accelerate(fast)
    images = normal(4, 9, 9, 4)
    assert_agree(observed(fast, images, True), observed(stock, images, True))


def test_a_stateless_call_uses_the_values_it_is_given():
    stock, fast = twins(sequential)
    other = filled(sequential(), 3)
    trainable, rest = (
        [v.value for v in values] for values in (other.trainable_variables, other.non_trainable_variables)
    )
    for training_ in (False, True):
        (got, state), (expected, wanted) = (
            model.stateless_call(trainable, rest, ops.convert_to_tensor(normal(4, *ODD)), training=training_)
            for model in (fast, stock)
        )
        assert_agree({"output": got}, {"output": expected})
        assert_agree(dict(enumerate_names(state)), dict(enumerate_names(wanted)))
    assert_agree(observed(fast, normal(4, *ODD), False), observed(stock, normal(4, *ODD), False))


def enumerate_names(tensors):
    return [(f"state {i}", tensor) for i, tensor in enumerate(tensors)]


def test_inference_without_gradients():
    stock, fast = twins(sequential)
    images = normal(4, *ODD)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_agree({"output": fast(images)}, {"output": stock(images)})
            assert_agree({"output": fast(images, training=True)}, {"output": stock(images, training=True)})
    assert_agree(observed(fast, images, True), observed(stock, images, True))


def test_accelerating_returns_the_same_object_and_twice_is_harmless():
    stock, model = filled(sequential()), filled(sequential())
    kind = type(model)
    assert kcifar.accelerate(model) is model
    assert kcifar.accelerate(model) is model
    assert isinstance(model, kind)
    for training_ in (False, True):
        images = normal(4, *ODD)
        assert_agree(observed(model, images, training_), observed(stock, images, training_))


@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([conv(), layers.ReLU()])])
def test_an_unbuilt_model_is_refused(make):
    with pytest.raises(kcifar.InputError, match="buil"):
        kcifar.accelerate(make())
