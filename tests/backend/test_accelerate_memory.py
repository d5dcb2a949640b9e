"""`kcifar.accelerate`: no layer overwrites memory that another one, an output or the caller still reads."""

import numpy as np
import pytest
import torch
from keras import layers, ops

from tests.accelerate_twins import (
    ODD,
    around,
    array_of,
    arrays_of,
    assert_twins_agree,
    conv,
    image_model,
    normal,
    twins,
)

pytestmark = pytest.mark.once


def skip_around_an_activation(image):
    x = conv()(image)
    return layers.Add()([x, conv()(layers.Activation("relu")(x))])


def skip_that_joins_first(image):
    x = conv()(image)
    return layers.Add()([layers.ELU()(x), x])


def output_before_the_activation(image):
    x = conv()(image)
    return [x, layers.Activation("relu")(x)]


def output_before_batch_norm(image):
    x = conv()(image)
    return [x, layers.BatchNormalization()(x), layers.ReLU()(x)]


def activations_of_the_input(image):
    return [layers.Activation("relu")(image), layers.ELU()(image), image]


def two_activations(image):
    return layers.Activation("elu")(layers.Activation("tanh")(conv()(image)))


def three_activations_with_outputs(image):
    a = layers.Activation("relu")(conv()(image))
    b = layers.Activation("elu")(a)
    return [a, b, layers.Activation("sigmoid")(b)]


def two_activations_of_one_tensor(image):
    x = conv()(image)
    return layers.Add()([layers.Activation("relu")(x), layers.Activation("elu")(x)])


def relu_after_add(image):
    return layers.ReLU()(layers.Add()([conv()(image), image]))


def relu_after_add_that_is_used_again(image):
    total = layers.Add()([conv()(image), image])
    return layers.Add()([conv()(layers.ReLU()(total)), total])


def relu_after_batch_norm(image):
    return layers.Activation("relu")(layers.BatchNormalization()(conv()(image)))


def relu_after_batch_norm_that_is_used_again(image):
    x = layers.BatchNormalization()(conv()(image))
    return layers.Multiply()([layers.Activation("relu")(x), x])


def activation_after_dropout(image):
    x = layers.Dropout(0.5, seed=1)(conv()(image))
    return [layers.Activation("elu")(x), layers.Activation("relu")(layers.Dropout(0.5, seed=2)(image))]


def activation_after_dropout_of_nothing(image):
    x = conv()(image)
    return [layers.Activation("elu")(layers.Dropout(0.0)(x)), x]


def activation_after_flatten(image):
    x = conv()(image)
    return [layers.Activation("relu")(layers.Flatten()(x)), layers.ReLU()(layers.Flatten()(image)), x]


def activation_after_reshape_of_a_skip(image):
    x = conv()(image)
    return layers.Add()([layers.Activation("elu")(layers.Reshape((9, 7, 4))(x)), layers.Reshape((9, 7, 4))(x)])


def activation_after_linear_layers(image):
    x = conv()(image)
    y = layers.Activation("relu")(layers.Activation("linear")(layers.Identity()(x)))
    return [layers.Add()([y, x]), layers.ReLU()(layers.Activation("linear")(image))]


def activation_in_the_layer_and_after_it(image):
    x = conv(activation="elu")(image)
    return [layers.Activation("relu")(x), x]


def activation_after_concatenate_of_one_branch_used_again(image):
    a, b = conv()(image), conv()(image)
    return [layers.ReLU()(layers.Concatenate()([a, b])), a, b]


def activation_after_an_operation(image):
    x = conv()(image)
    y = x + 0.5
    return [layers.Activation("relu")(y), y, x, layers.Activation("relu")(ops.reshape(x, (-1, 252)))]


def activation_after_padding_by_nothing(image):
    x = layers.ReLU()(layers.ZeroPadding2D(0)(image))
    return [x, layers.ReLU()(layers.Cropping2D(0)(image)), layers.ReLU()(layers.Reshape(ODD)(image))]


def activations_of_merges_of_the_input(image):
    doubled = layers.ReLU()(layers.Concatenate()([image, image]))
    return [doubled, layers.ReLU()(layers.Add()([image, image])), layers.ELU()(layers.Multiply()([image, image]))]


def activations_of_pools_used_again(image):
    x = layers.MaxPooling2D(1)(conv()(image))
    y = layers.GlobalAveragePooling2D()(x)
    return [layers.ReLU()(x), x, layers.ReLU()(y), y]


def activations_of_merges_of_one(image):
    x, y = conv()(image), layers.ReLU()(layers.Multiply()([image]))
    return [x, layers.ReLU()(layers.Multiply()([x])), layers.ELU()(layers.Add()([x])), y]


def merges_that_broadcast(image):
    x, row, pixel = conv()(image), image[:, :1], image[:, :1, :1]
    sums = [layers.Add()([pixel, row, x]), layers.Add()([x, pixel, row]), layers.Multiply()([row, x])]
    return [layers.ReLU()(total) for total in sums]


def one_tensor_twice_as_output(image):
    x = layers.Activation("relu")(conv()(image))
    return [x, x]


def add_of_a_tensor_to_itself(image):
    x = conv()(image)
    return layers.ReLU()(layers.Add()([x, x]))


def batch_norm_of_an_activation_used_again(image):
    x = layers.Activation("elu")(conv()(image))
    return layers.Add()([layers.BatchNormalization()(x), x])


def pool_of_an_activation_used_again(image):
    x = layers.Activation("relu")(conv()(image))
    return [layers.MaxPooling2D()(x), layers.AveragePooling2D(2)(x), layers.GlobalAveragePooling2D()(x), x]


ALIASING = [
    value
    for value in list(globals().values())
    if getattr(value, "__code__", None) is not None and value.__code__.co_varnames[:1] == ("image",)
]


@pytest.mark.parametrize("graph", ALIASING, ids=lambda graph: graph.__name__)
def test_no_activation_overwrites_what_another_reads(graph):
    assert_twins_agree(lambda: image_model(graph), arrays_of([ODD]))


def test_activations_of_different_layers_on_one_array_that_the_caller_keeps():
    _, fast = twins(lambda: around(lambda: layers.Activation("relu"), [ODD], False))
    array = arrays_of([ODD])
    before = array.copy()
    for _ in range(2):
        fast.predict(array, verbose=0)
        fast(array)
        fast(torch.from_numpy(array))
    assert np.array_equal(array, before)


def test_outputs_of_earlier_calls_stay():
    _, fast = twins(lambda: around(lambda: layers.Activation("relu"), [ODD], True))
    first = fast(normal(4, *ODD))
    before = array_of(first)
    fast(normal(4, *ODD, seed=2))
    fast(normal(4, *ODD, seed=3), training=True)
    assert np.array_equal(array_of(first), before)
