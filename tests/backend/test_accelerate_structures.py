"""`kcifar.accelerate`: models of every structure: nested, shared, of several inputs, of classes that override Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kcifar
from tests.accelerate_twins import (
    ODD,
    any_size,
    array_of,
    arrays_of,
    assert_twins_agree,
    called,
    conv,
    filled,
    image_model,
    masked,
    nested,
    normal,
    operations,
    sequential,
    several_inputs,
    shared_model,
    small_net,
    subclassed,
)

pytestmark = pytest.mark.once


class Scaled(layers.Layer):
    """Of a kind that no accelerator knows."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x, training=None):
        return x * self.scale * (2.0 if training else 1.0)


class WithoutShapes(layers.Layer):
    """Keeps Keras from seeing a Sequential as a graph."""

    def call(self, x):
        return x * 2

    def compute_output_spec(self, *args, **kwargs):
        raise NotImplementedError


class ConvPlusOne(layers.Conv2D):
    def call(self, x):
        return super().call(x) + 1


class StandardisedConv(layers.Conv2D):
    """Overrides the hook that Keras documents for it."""

    def convolution_op(self, x, kernel):
        return super().convolution_op(x, kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True))


class NormPlusOne(layers.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=training, mask=mask) + 1


class ActivationTwice(layers.Activation):
    def call(self, x):
        return 2 * super().call(x)


class DenseInHalf(layers.Dense):
    @property
    def kernel(self):
        return super().kernel * 0.5


class DoubledSequential(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


class DoubledFunctional(keras.Model):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


def sequential_in_sequential():
    inner = keras.Sequential([conv(), layers.Activation("elu"), layers.BatchNormalization()])
    return keras.Sequential([keras.Input(ODD), inner, layers.GlobalAveragePooling2D(), layers.Dense(3)])


def functional_that_overrides_call():
    image = keras.Input(ODD)
    return DoubledFunctional(image, layers.ReLU()(layers.BatchNormalization()(conv()(image))))


def sequential_that_overrides_call():
    return DoubledSequential([keras.Input(ODD), conv(), layers.Activation("elu")])


def models_that_override_call():
    first, second = functional_that_overrides_call(), sequential_that_overrides_call()
    return image_model(lambda image: layers.Dense(3)(second(first(image))))


def augmenting():
    def graph(image):
        x = layers.RandomTranslation(0.2, 0.2, seed=2)(layers.RandomFlip(seed=1)(image))
        return layers.ReLU()(conv()(x))

    return image_model(graph)


def images_in_time():
    def graph(image):
        x = layers.TimeDistributed(layers.Conv2D(3, 3, padding="same", activation="relu"))(image)
        return layers.TimeDistributed(layers.GlobalAveragePooling2D())(layers.TimeDistributed(layers.MaxPooling2D())(x))

    return image_model(graph, (3, *ODD))


def nested_and_activated():
    net = small_net()

    def graph(image):
        x = net(image)
        return [layers.Activation("tanh")(x), x, net(layers.Activation("elu")(image))]

    return image_model(graph)


def subclassed_in_functional():
    inner = subclassed()
    return image_model(lambda image: layers.Activation("relu")(inner(conv()(image))))


def unknown_layer():
    return image_model(lambda image: layers.Activation("relu")(Scaled()(conv()(image))))


def unknown_layer_with_skip():
    def graph(image):
        x = conv()(image)
        return [layers.ReLU()(layers.BatchNormalization()(Scaled()(x))), x]

    return image_model(graph)


def overriding_subclasses():
    def graph(image):
        x = NormPlusOne()(StandardisedConv(4, 3)(ConvPlusOne(4, 3, activation="relu")(image)))
        return DenseInHalf(3)(ActivationTwice("elu")(layers.Flatten()(x)))

    return image_model(graph)


def without_shapes():
    return keras.Sequential([conv(), WithoutShapes(), layers.BatchNormalization(), layers.ReLU()])


def sequential_without_a_graph():
    return called(without_shapes())


class HoldsSequential(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner, self.out = without_shapes(), layers.Dense(3)

    def call(self, x, training=None):
        return self.out(self.inner(x, training=training))


def sequential_without_a_graph_in_a_model():
    return called(HoldsSequential())


def wrapped_layers():
    def graph(image):
        x = layers.TimeDistributed(layers.Dense(4, activation="relu"))(layers.Reshape((7, 36))(image))
        return layers.Bidirectional(layers.GRU(3))(x)

    return image_model(graph)


def spectral_norm():
    return image_model(lambda image: layers.ReLU()(layers.SpectralNormalization(conv())(image)))


def dict_inputs():
    model = several_inputs()
    inputs = dict(zip(("image", "table"), model.inputs, strict=True))
    return keras.Model(inputs, {"pooled": model.outputs[0], "gate": model.outputs[1]})


def shared_layer():
    left, right = keras.Input(ODD), keras.Input(ODD)
    layer, act = conv(activation="relu"), layers.Activation("tanh")
    return keras.Model([left, right], layers.Add()([act(layer(left)), act(layer(layer(right)))]))


def training_given():
    def graph(image):
        x = layers.BatchNormalization()(conv()(image), training=False)
        x = layers.Dropout(0.5, seed=1)(x, training=True)
        return layers.BatchNormalization()(x, training=True)

    return image_model(graph)


def masked_batch_norm():
    sequence = keras.Input((6, 4))
    x = layers.BatchNormalization()(layers.Masking()(sequence))
    return keras.Model(sequence, layers.GlobalAveragePooling1D()(x))


def attention():
    def graph(image):
        x = layers.Reshape((63, 4))(layers.LayerNormalization()(image))
        return layers.MultiHeadAttention(2, 3)(x, x)

    return image_model(graph)


def lora():
    model = sequential()
    model.layers[-1].enable_lora(2)
    return model


def padding_before_convolutions():
    """Padding that a convolution can do itself, and padding that it cannot."""

    def graph(image):
        pad, wide = layers.ZeroPadding2D, layers.ZeroPadding2D((3, 1))
        even = conv(4, 3, strides=2, padding="valid")(pad(1)(image))
        depthwise = layers.DepthwiseConv2D(3)(wide(image))
        odd = conv(4, 3, padding="valid")(pad(((0, 1), (0, 1)))(image))
        twice = conv(4, 3, padding="same")(pad(1)(image))
        shared = pad(2)(image)
        pads = pad(1)(pad(1)(image))
        with_activation = conv(4, 3, padding="valid")(layers.Activation("elu")(pad(1)(image)))
        pooled = layers.MaxPooling2D(3, 2)(pad(1)(image))
        others = conv(4, 3, padding="valid")(shared), layers.BatchNormalization()(shared)
        seen = pad(1)(image)
        return [
            even,
            depthwise,
            odd,
            twice,
            *others,
            conv(padding="valid")(pads),
            with_activation,
            pooled,
            seen,
            conv(padding="valid")(seen),
        ]

    return image_model(graph)


OF_ONE_IMAGE = [
    padding_before_convolutions,
    sequential,
    sequential_in_sequential,
    nested,
    nested_and_activated,
    subclassed,
    subclassed_in_functional,
    unknown_layer,
    unknown_layer_with_skip,
    overriding_subclasses,
    wrapped_layers,
    spectral_norm,
    operations,
    training_given,
    attention,
    lora,
    models_that_override_call,
    functional_that_overrides_call,
    sequential_that_overrides_call,
    augmenting,
    sequential_without_a_graph,
    sequential_without_a_graph_in_a_model,
]
IMAGE, PAIR, IMAGE_AND_TABLE = arrays_of([ODD]), arrays_of([ODD, ODD]), arrays_of([ODD, (5,)])
STRUCTURES = {make.__name__: (make, IMAGE) for make in OF_ONE_IMAGE} | {
    "nested_frozen": (lambda: nested(frozen=True), IMAGE),
    "nested_in_inference": (lambda: nested(training=False), IMAGE),
    "several_inputs": (several_inputs, IMAGE_AND_TABLE),
    "dict_inputs": (dict_inputs, dict(zip(("image", "table"), IMAGE_AND_TABLE, strict=True))),
    "shared_layer": (shared_layer, PAIR),
    "shared_model": (shared_model, PAIR),
    "masked": (masked, np.random.default_rng(0).integers(0, 9, (4, 6)).astype(np.int32)),
    "masked_batch_norm": (masked_batch_norm, normal(4, 6, 4) * np.float32(np.arange(6) < 4)[:, None]),
    "any_size": (any_size, arrays_of([(5, 6, 4)])),
    "images_in_time": (images_in_time, arrays_of([(3, *ODD)])),
}


@pytest.mark.filterwarnings("ignore:.*RNN module weights:UserWarning")  # Keras's own GRU on a GPU
@pytest.mark.parametrize(("make", "inputs"), STRUCTURES.values(), ids=STRUCTURES)
def test_a_structure_is_the_stock_structure(make, inputs):
    assert_twins_agree(make, inputs)


def test_a_subclass_runs_its_own_call():
    """By hand: the accelerated subclass is one above the stock convolution."""
    model = kcifar.accelerate(filled(image_model(lambda image: ConvPlusOne(4, 3)(image))))
    stock = filled(image_model(lambda image: layers.Conv2D(4, 3)(image)))
    x = normal(4, *ODD)
    assert np.abs(array_of(model(x)) - 1 - array_of(stock(x))).max() < 1e-5  # values near 1: a few roundings


class NormGiven(layers.Layer):
    """Gives the layer in it a `training` of its own."""

    def __init__(self, given, **arguments):
        super().__init__(**arguments)
        self.given = given
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x, training=self.given)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("within", [False, True])
def test_a_layer_given_training_and_those_behind_it_train_as_in_stock(given, within):
    def graph(image):
        x = conv()(image)
        x = NormGiven(given)(x) if within else layers.BatchNormalization()(x, training=given)
        return layers.BatchNormalization()(conv()(x))

    assert_twins_agree(lambda: image_model(graph), arrays_of([ODD]))
