"""Sharpness against a Hessian that is written out, in float64."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch.nn import functional

import kcifar
from kcifar import InputError
from kcifar.data import Split
from kcifar.training import sharpness
from kcifar.training.evaluation import load_model

CLASSES = 4
COUNT = 230  # three batches, the last one smaller
MEAN, VARIANCE = [0.3, 0.5, 0.6], [0.4, 0.5, 0.7]


def split(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    shades = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(-20, 21, (count, 32, 32, 3))
    return Split(np.clip(shades + noise, 0, 255).astype(np.uint8), rng.integers(0, CLASSES, count), CLASSES)


def small_model():
    """Mean colour, a dense layer with BatchNorm, and a head; its variables drawn."""
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(3, activation="tanh")(x)
    x = layers.BatchNormalization(epsilon=1e-3)(x)
    model = keras.Model(image, layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 1, v.shape) + (1 if v.name == "gamma" else 0) for v in model.weights])
    model.layers[-2].moving_mean.assign(MEAN)
    model.layers[-2].moving_variance.assign(VARIANCE)
    return model


def reference(model, data, smoothing=0.0):
    """(the loss as a function of all trainable values in one vector, that vector), in float64."""
    values = [torch.tensor(ops.convert_to_numpy(v), dtype=torch.float64) for v in model.trainable_variables]
    colours = torch.tensor(data.images, dtype=torch.float64).mean((1, 2)) / 255
    mean, variance = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(VARIANCE, dtype=torch.float64)

    def loss(vector):
        kernel, bias, gamma, beta, head, head_bias = (
            part.view(v.shape) for part, v in zip(vector.split([v.numel() for v in values]), values, strict=True)
        )
        x = (torch.tanh(colours @ kernel + bias) - mean) / (variance + 1e-3).sqrt() * gamma + beta
        return functional.cross_entropy(x @ head + head_bias, torch.tensor(data.labels), label_smoothing=smoothing)

    return loss, torch.cat([v.flatten() for v in values])


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_increase_and_eigenvalue_are_those_of_the_hessian_written_out(accelerated, smoothing):
    model, data = small_model(), split()
    if accelerated:
        kcifar.accelerate(model)
    loss, point = reference(model, data, smoothing)
    gradient = torch.autograd.functional.jacobian(loss, point)
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point)).numpy()
    top = eigenvalues[np.abs(eigenvalues).argmax()]
    uphill = loss(point + 0.3 * gradient / gradient.norm()) - loss(point)

    before = model.get_weights()
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    found = sharpness(model, data, crossentropy, rho=0.3)
    # Sums of float32, and a power method that ends when an iteration changes its value by less than 1e-3 of itself.
    np.testing.assert_allclose(found.loss, loss(point), rtol=1e-5)
    np.testing.assert_allclose(found.increase, uphill, rtol=1e-4)
    np.testing.assert_allclose(found.eigenvalue, top, rtol=5e-3)
    assert found.converged
    assert found.iterations > 2
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_the_first_images_are_those_that_count():
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    all_of_few = sharpness(small_model(), split(100), crossentropy)
    data = split(100)
    more = Split(np.concatenate([data.images, 255 - data.images]), np.concatenate([data.labels] * 2), CLASSES)
    assert sharpness(small_model(), more, crossentropy, images=100) == all_of_few
    assert sharpness(small_model(), more, crossentropy).loss != all_of_few.loss


def test_a_run_in_bfloat16_is_looked_at_in_float32(tmp_path):
    model = kcifar.models.build("elu_cnn", mean=(0.5,) * 3, std=(0.25,) * 3, precision="bfloat16")
    model.save(tmp_path / "best.keras")
    assert load_model(tmp_path / "best.keras").get_layer("conv1").compute_dtype == "bfloat16"
    exact = load_model(tmp_path / "best.keras", float32=True)
    same = kcifar.models.build("elu_cnn", mean=(0.5,) * 3, std=(0.25,) * 3)
    same.set_weights(model.get_weights())
    pixels = split(4).images
    np.testing.assert_allclose(exact.predict(pixels, verbose=0), same.predict(pixels, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"rho": 0}, {"rho": -1.0}, {"rho": np.nan}, {"images": 0}])
def test_what_is_not_above_0_is_refused(wrong):
    with pytest.raises(InputError, match="expected both above 0"):
        sharpness(small_model(), split(), keras.losses.CategoricalCrossentropy(from_logits=True), **wrong)
