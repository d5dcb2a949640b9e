"""Sharpness against SAM's step and a Hessian that are written out, in float64."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch.nn import functional

import kcifar
from kcifar import InputError
from kcifar.data import Split
from kcifar.evaluation.models import load_model
from kcifar.evaluation.sharpness import sharpness

CLASSES = 4
COUNT, BATCH = 230, 90  # three batches, the last one smaller
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
    """(the loss as a function of all trainable values in one vector, that vector), in float64.

    The function also takes which images, and then computes in training mode, by their own statistics.
    """
    values = [torch.tensor(ops.convert_to_numpy(v), dtype=torch.float64) for v in model.trainable_variables]
    colours = torch.tensor(data.images, dtype=torch.float64).mean((1, 2)) / 255
    mean, variance = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(VARIANCE, dtype=torch.float64)

    def loss(vector, chosen=None):
        kernel, bias, gamma, beta, head, head_bias = (
            part.view(v.shape) for part, v in zip(vector.split([v.numel() for v in values]), values, strict=True)
        )
        x, labels, used = torch.tanh(colours @ kernel + bias), torch.tensor(data.labels), (mean, variance)
        if chosen is not None:
            x, labels = x[chosen], labels[chosen]
            used = x.mean(0), x.var(0, unbiased=False)
        x = (x - used[0]) / (used[1] + 1e-3).sqrt() * gamma + beta
        return functional.cross_entropy(x @ head + head_bias, labels, label_smoothing=smoothing)

    return loss, torch.cat([v.flatten() for v in values])


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_increase_and_eigenvalue_are_those_of_the_hessian_written_out(accelerated, smoothing):
    model, data = small_model(), split()
    if accelerated:
        kcifar.accelerate(model)
    loss, point = reference(model, data, smoothing)
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point)).numpy()
    top = eigenvalues[np.abs(eigenvalues).argmax()]
    increase = 0.0
    for first in range(0, COUNT, BATCH):
        chosen = slice(first, first + BATCH)
        gradient = torch.autograd.functional.jacobian(lambda vector, chosen=chosen: loss(vector, chosen), point)
        uphill = loss(point + 0.3 * gradient / gradient.norm(), chosen) - loss(point, chosen)
        increase += uphill * len(data.labels[chosen]) / COUNT

    before = [np.array(weight) for weight in model.get_weights()]
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    found = sharpness(model, data, crossentropy, rho=0.3, batch_size=BATCH)
    # Sums of float32, and a power method that ends when an iteration changes its value by less than 1e-3 of itself.
    np.testing.assert_allclose(found.loss, loss(point), rtol=1e-5)
    np.testing.assert_allclose(found.increase, increase, rtol=1e-4)
    np.testing.assert_allclose(found.eigenvalue, top, rtol=5e-3)
    assert found.converged
    assert found.iterations > 2
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("seed", [None, 3])
def test_sams_step_sees_one_dropout_mask_and_leaves_the_model_as_it_was(seed):
    """Of dropout alone: the loss, w·z and hardly more, is higher by ρ·‖z‖ where both passes have the mask of z."""
    image = keras.Input((32, 32, 3))
    x = layers.Dropout(0.5, seed=seed)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    model = keras.Model(image, layers.Dense(1, use_bias=False)(x))
    data = split(1)
    before = [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]
    found = sharpness(model, data, lambda labels, z: ops.mean(z + 1e-6 * z**2), rho=0.5, batch_size=1)
    pixels = (data.images / 255 / 0.5) ** 2
    # Of 3,072 pixels about half are kept; another mask moves the loss by far more than ρ.
    assert found.increase == pytest.approx(0.5 * (pixels.sum() / 2) ** 0.5, rel=0.1)
    for one, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(variable))


@pytest.mark.once
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


@pytest.mark.parametrize("wrong", [{"rho": 0}, {"rho": -1.0}, {"rho": np.nan}, {"images": 0}, {"batch_size": 0}])
def test_what_is_not_above_0_is_refused(wrong):
    with pytest.raises(InputError, match="expected all above 0"):
        sharpness(small_model(), split(), keras.losses.CategoricalCrossentropy(from_logits=True), **wrong)
