"""`kcifar.accelerate` on keras.applications: deep nets with skips, dense blocks, depthwise convolutions and gates."""

import functools

import keras
import numpy as np
import pytest
import torch
from keras import layers

import kcifar
from tests.accelerate_twins import (
    array_of,
    weights_file,
)

pytestmark = pytest.mark.once

SHAPE, CLASSES, BATCH = (64, 64, 3), 10, 4
NETS = ["ResNet50", "DenseNet121", "MobileNetV2", "EfficientNetB0"]
BRIGHTEST = {"EfficientNetB0": 255.0}  # the largest value of an image, which is 1 for the others

# All of the largest magnitude of the tensor. Each is about three times the error of a mere reordering, that of stock
# logits, gradients and statistics against stock ones of the same images in another order.
# ResNet50 in training: 8e-5, as 53 layers of batch statistics over as few as 16 values magnify each rounding.
LOGITS = 3e-4
# With ELU for ReLU: 2e-5 in the logits, and 3e-5 in a gradient against its own largest value or, as many are zero but
# for rounding, a tenth of the largest of all.
SMOOTH_LOGITS, SMOOTH_GRADIENTS, GRADIENT_FLOOR = 1e-4, 1e-4, 0.1
# With ReLU: 3e-2 of the norm of all gradients, as a value that rounding moves across zero switches a whole path.
ALL_GRADIENTS = 0.1
STATISTICS = 5e-6  # 1.4e-6, those near zero against 0.1


def images_for(name):
    return np.random.default_rng(0).uniform(0, BRIGHTEST.get(name, 1.0), (BATCH, *SHAPE)).astype(np.float32)


def stock_model(name, smooth=False):
    keras.utils.set_random_seed(1)  # of the initial values, and of the layers that drop blocks
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=SHAPE, classes=CLASSES, classifier_activation=None)
    return keras.models.clone_model(model, clone_function=with_elu) if smooth else model


def with_elu(layer):
    relu = isinstance(layer, layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
    return layers.Activation("elu", name=layer.name) if relu else type(layer).from_config(layer.get_config())


def moved_to(images, model):
    """Gives the model moving statistics of these images, so that inference keeps activations near 1."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    with torch.no_grad():
        model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


@functools.lru_cache(maxsize=len(NETS))  # a test goes through all
def made(name, smooth):
    """(stock, its variables' values), and the accelerated likewise; of the same weights and seeds of dropout."""
    models = [stock_model(name, smooth) for _ in range(2)]
    seeds = [array_of(variable.value) for variable in models[0].non_trainable_variables]
    moved_to(images_for(name), models[0])
    for variable, value in zip(models[0].non_trainable_variables, seeds, strict=True):
        if "float" not in variable.dtype:
            variable.assign(value)  # what it has drawn
    models[1].set_weights(models[0].get_weights())
    kcifar.accelerate(models[1])
    return [(model, [(variable, array_of(variable.value)) for variable in model.variables]) for model in models]


def twins(name, smooth=False):
    """(stock, accelerated), as they were made."""
    for _, values in made(name, smooth):
        for variable, value in values:
            variable.assign(value)
    return [model for model, _ in made(name, smooth)]


def step(model, images, training):
    """(logits, gradients of all weights, all other variables afterwards)."""
    keras.utils.set_random_seed(2)  # of the dropout before the logits, which draws from torch's global generator
    model.zero_grad()
    logits = model(images, training=training)
    noise = np.random.default_rng(1).normal(size=(BATCH, CLASSES))
    (logits * torch.from_numpy(noise).to(logits)).sum().backward()
    gradients = [array_of(variable.value.grad) for variable in model.trainable_variables]
    return array_of(logits), gradients, [array_of(variable.value) for variable in model.non_trainable_variables]


def error(got, expected, floor=0.0):
    return np.abs(got - expected).max() / max(np.abs(expected).max(), floor)


def error_of_all(got, expected):
    return np.sqrt(
        sum(((a - b) ** 2).sum() for a, b in zip(got, expected, strict=True)) / sum((b**2).sum() for b in expected)
    )


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", NETS)
def test_a_net_is_the_stock_net(name, training):
    """Training draws the masks of stock: EfficientNet drops half a dozen of its blocks at random."""
    stock, fast = twins(name)
    got, expected = (step(model, images_for(name), training) for model in (fast, stock))
    assert error(got[0], expected[0]) <= LOGITS
    assert error_of_all(got[1], expected[1]) <= ALL_GRADIENTS
    for variable, ours, theirs in zip(stock.non_trainable_variables, got[2], expected[2], strict=True):
        if "float" in variable.dtype:
            assert error(ours, theirs, 0.1) <= STATISTICS, variable.path
        else:  # what dropout draws from
            assert np.array_equal(ours, theirs), variable.path


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", NETS)
def test_each_gradient_is_that_of_stock(name, training):
    """With ELU for ReLU, so that the gradient is continuous and rounding stays rounding."""
    stock, fast = twins(name, smooth=True)
    got, expected = (step(model, images_for(name), training) for model in (fast, stock))
    assert error(got[0], expected[0]) <= SMOOTH_LOGITS
    floor = GRADIENT_FLOOR * max(np.abs(gradient).max() for gradient in expected[1])
    for variable, ours, theirs in zip(stock.trainable_variables, got[1], expected[1], strict=True):
        assert error(ours, theirs, floor) <= SMOOTH_GRADIENTS, variable.path


@pytest.mark.parametrize("name", NETS)
def test_a_training_step_is_that_of_stock(name):
    images, labels = images_for(name), np.arange(BATCH)
    models = twins(name, smooth=True)
    for model in models:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, metrics=["accuracy"])
    reached = []
    for model in models:
        keras.utils.set_random_seed(2)
        reached.append([model.train_on_batch(images, labels) for _ in range(2)])
    expected, got = reached
    assert np.allclose(got, expected, rtol=SMOOTH_LOGITS)


@pytest.mark.parametrize("name", NETS)
def test_acceleration_does_not_change_the_saved_weights(name, tmp_path):
    model, path = stock_model(name), tmp_path / "net.weights.h5"
    model.save_weights(path)
    stock = weights_file(path.read_bytes())
    kcifar.accelerate(model).save_weights(path)
    assert weights_file(path.read_bytes()) == stock
    path.unlink()  # of up to 100 MB
