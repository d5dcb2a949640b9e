"""airbench94 and its whitening against a plain PyTorch program of the published network; identity start; freezing."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

from benchmarks import airbench94 as published
from kcifar import InputError, models

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pixels(count=40, side=32, seed=0):
    """Smooth images, whose neighbouring pixels are alike as in photos, and some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return (0.9 * coarse + 0.1 * rng.uniform(0, 255, coarse.shape)).astype(np.uint8)


def normalised(images):
    return torch.tensor((images / 255 - np.array(MEAN)) / np.array(STD)).permute(0, 3, 1, 2).float()


def build(**options):
    return models.build("airbench94", mean=MEAN, std=STD, **options)


def to_torch(model):
    """The published network with the model's weights."""
    net = published.Net()
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    blocks = net.blocks.modules()
    theirs = [module for module in blocks if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d))]
    with torch.no_grad():
        for module in (net.whitening, *(m for m in theirs if isinstance(m, torch.nn.Conv2d))):
            layer = convolutions.pop(0)
            module.weight.copy_(torch.tensor(ops.convert_to_numpy(layer.kernel)).permute(3, 2, 0, 1))
            if module.bias is not None:
                module.bias.copy_(torch.tensor(ops.convert_to_numpy(layer.bias)))
        for module in (m for m in theirs if isinstance(m, torch.nn.BatchNorm2d)):
            module.bias.copy_(torch.tensor(ops.convert_to_numpy(norms.pop(0).beta)))
        net.head.weight.copy_(torch.tensor(ops.convert_to_numpy(model.get_layer("head_dense").kernel)).T)
    return net


def test_logits_in_training_are_the_published_networks():
    model, images = build(), pixels()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.beta.assign(np.random.default_rng(1).normal(size=layer.beta.shape))
    logits = ops.convert_to_numpy(model(images, training=True))
    with torch.no_grad():
        expected = to_torch(model)(normalised(images)).numpy()
    # Six convolutions in float32, whose sums are in another order.
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.once
def test_parameters_trained_and_in_all():
    model = build()
    models.whiten(model, pixels())
    trained = 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 256 * 10
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == trained == 1_971_352
    assert [layer.name.split("_")[0] for layer in model.layers[2:]] == (
        ["stem"] * 2 + ["layer1"] * 7 + ["layer2"] * 7 + ["layer3"] * 7 + ["head"] * 3
    )


@pytest.mark.once
def test_convolutions_start_as_the_identity_on_their_channels():
    model, seen = build(widths=(32, 16)), np.random.default_rng(0).normal(size=(2, 5, 5, 24)).astype("float32")
    conv = model.get_layer("layer1_conv1")
    np.testing.assert_allclose(ops.convert_to_numpy(conv(seen))[..., :24], seen, rtol=1e-6)
    narrower = model.get_layer("layer2_conv1")
    wide = np.concatenate([seen, seen[..., :8]], axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(narrower(wide)), wide[..., :16], rtol=1e-6)
    others = ops.convert_to_numpy(conv.kernel)[..., 24:]
    bound = 1 / np.sqrt(9 * 24)
    assert -bound < others.min() < -0.95 * bound
    assert 0.95 * bound < others.max() < bound
    config = model.get_layer("layer1_conv1").get_config()["kernel_initializer"]
    assert (config["module"], config["class_name"]) == ("keras.initializers", "RandomUniform")


@pytest.mark.once
def test_saved_opens_in_plain_keras(tmp_path):
    model, images = build(widths=(8, 8)), pixels(4)
    model.save(tmp_path / "net.keras")
    opened = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(opened(images)), ops.convert_to_numpy(model(images)))


def test_whitening_is_the_published_one():
    """The same filters but for their order and sign; eigenvalues of these patches are far apart."""
    model, images, net = build(widths=(8,)), pixels(), published.Net()
    conv = models.whiten(model, images)
    net.whiten(normalised(images))
    ours = ops.convert_to_numpy(conv.kernel).transpose(3, 2, 0, 1).reshape(24, 12)
    theirs = net.whitening.weight.numpy().reshape(24, 12)
    np.testing.assert_array_equal(ours[12:], -ours[:12])
    signs = np.sign((ours[:12] * theirs[:12]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours[:12] * signs, theirs[:12], atol=1e-3 * np.abs(theirs).max())
    assert (ours[range(12), np.abs(ours[:12]).argmax(axis=1)] > 0).all()


def test_what_whitening_gives_is_white():
    model, images = build(widths=(8,)), pixels()
    conv = models.whiten(model, images, epsilon=1e-9)
    seen = ops.convert_to_numpy(keras.Model(model.input, conv.output)(images)).reshape(-1, 24)[:, :12].astype(float)
    np.testing.assert_allclose(seen.T @ seen / len(seen), np.eye(12), atol=2e-3)


@pytest.mark.once
def test_whitening_is_frozen_but_for_its_bias():
    model = build(widths=(8,))
    conv = models.whiten(model, pixels())
    assert [v.path for v in conv.trainable_variables] == ["stem_conv/bias"]
    assert not ops.convert_to_numpy(conv.bias).any()
    before = ops.convert_to_numpy(conv.kernel)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.train_on_batch(pixels(8), np.eye(10)[np.arange(8)])
    np.testing.assert_array_equal(ops.convert_to_numpy(conv.kernel), before)
    assert ops.convert_to_numpy(conv.bias).any()


def _without_convolution():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))


CONSTANT = np.full((40, 32, 32, 3), 255, np.uint8) * np.linspace(0, 1, 40)[:, None, None, None]
REFUSED = {
    "another number of filters": (
        lambda: models.whiten(models.build("resnet20"), pixels()),
        "has 16 filters; exp.* 54",
    ),
    "no convolution": (lambda: models.whiten(_without_convolution(), pixels()), "no convolution"),
    "constant images": (lambda: models.whiten(build(), CONSTANT), "constant"),
    "black images": (lambda: models.whiten(build(), 0 * CONSTANT), "constant"),
    "not finite": (
        lambda: models.whiten(build(), np.where(pixels() > 250, np.float32(np.nan), pixels())),
        "not finite",
    ),
    "too few patches": (
        lambda: models.whiten(build(input_shape=(4, 4, 3), widths=(8,)), pixels(1)[:, :4, :4]),
        "1 images have 9 patches, of 12 values",
    ),
    "epsilon of 0": (lambda: models.whiten(build(), pixels(), epsilon=0), "above 0"),
    "no widths": (lambda: build(widths=()), "widths"),
    "activation": (lambda: build(activation="swosh"), "'silu', 'gelu', 'relu'"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
