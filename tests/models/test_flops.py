"""The arithmetic of models against counts by hand, and against torch's counter of what runs."""

import keras
import pytest
import torch
from keras import layers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_torch import tutorial_net
from kcifar import models
from kcifar.models.flops import flops

pytestmark = pytest.mark.once  # no backend computes anything


def test_tutorial_net_by_hand():
    convolutions = 28 * 28 * 6 * 5 * 5 * 3 + 10 * 10 * 16 * 5 * 5 * 6
    dense = 400 * 120 + 120 * 84 + 84 * 10
    forward = 2 * (convolutions + dense)
    assert flops(models.build("tutorial_net")) == (forward, 3 * forward)


def airbench94_by_hand(side):
    first = side - 1  # pixels behind the 2×2 convolution
    second, third, fourth = first // 2, first // 4, first // 8
    return 2 * (
        first**2 * 24 * 2 * 2 * 3
        + 9 * (first**2 * 24 * 64 + second**2 * 64 * 64)
        + 9 * (second**2 * 64 * 256 + third**2 * 256 * 256)
        + 9 * (third**2 * 256 * 256 + fourth**2 * 256 * 256)
        + 256 * 10
    )


@pytest.mark.parametrize("side", [32, 28, 24])
def test_airbench94_by_hand(side):
    forward = airbench94_by_hand(side)
    assert flops(models.build("airbench94"), (side, side, 3)) == (forward, 3 * forward)


def test_as_torch_counts_what_runs():
    """Its backward pass lacks the gradient of the images, which training does not need and the usual count has."""
    net, images = tutorial_net(), torch.zeros(1, 3, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        net(images).sum().backward()
    assert flops(models.build("tutorial_net"))[1] == counter.get_total_flops()


def nested():
    """(a model with a graph in which is another one, its multiply-adds, those in front of the last layer)."""
    inner = keras.Sequential([layers.SeparableConv2D(4, 3), layers.Flatten(), layers.Dense(5)])
    image = keras.Input((8, 8, 3))
    graph = keras.Model(image, inner(layers.DepthwiseConv2D(3, padding="same")(layers.BatchNormalization()(image))))
    image = keras.Input((8, 8, 3))
    front = 64 * 9 * 3 + 36 * (9 * 3 + 3 * 4) + 144 * 5
    return keras.Model(image, layers.Dense(2)(graph(image))), front + 10, front


def test_models_in_models_and_frozen_layers():
    model, whole, front = nested()
    assert flops(model) == (2 * whole, 6 * whole)
    model.layers[1].trainable = False  # nothing in front of the last layer is trained
    assert flops(model) == (2 * whole, 2 * whole + 4 * (whole - front))
    model.layers[1].trainable = True
    model.layers[1].layers[-1].layers[0].trainable = False  # a frozen layer behind a trained one
    assert flops(model) == (2 * whole, 6 * whole)


def test_a_frozen_stem_has_no_backward_pass():
    model = models.build("resnet20")
    forward, training = flops(model)
    models.freeze(model, ["stem", "layer1"])
    stem = 2 * 32 * 32 * 9 * 16 * (3 + 6 * 16)
    assert flops(model) == (forward, training - 2 * stem)


def test_a_compiled_model_is_counted_as_another():
    """Whatever it was compiled with, which nobody but its maker can make again."""

    class Own(keras.losses.Loss):
        def call(self, labels, logits):
            return logits

    model = models.build("tutorial_net")
    counted = flops(model)
    model.compile("sgd", Own())
    assert flops(model) == counted


def test_what_is_not_known_is_not_guessed():
    image = keras.Input((8, 8, 3))
    assert flops(keras.Model(image, layers.Conv2DTranspose(2, 3)(image))) == (None, None)
