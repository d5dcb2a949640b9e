"""tutorial_net and elu_cnn: sizes by hand, the same networks in PyTorch, initial distributions, and their files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import ops
from scipy import stats
from torch.nn import functional

from kcifar import InputError
from kcifar.models import build

OTHER = "jax" if keras.backend.backend() == "torch" else "torch"
ROOT = Path(__file__).parents[2]
NAMES = ("tutorial_net", "elu_cnn", "resnet18")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CHANCE = 1e-6  # a right distribution fails at one seed in a million; the seeds are fixed


def python(program, *arguments, backend, path=()):
    """The last line that a fresh interpreter prints."""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    # In a folder without kcifar: `-c` puts the current one on the path.
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def randomised(model, seed=0):
    """The model with every weight and moving statistic drawn anew, of sizes that keep the activations near 1."""
    rng = np.random.default_rng(seed)

    def value(variable):
        if variable.path.endswith("variance") or variable.path.endswith("gamma"):
            return rng.uniform(0.5, 2, variable.shape)
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        return rng.normal(0, fan_in**-0.5, variable.shape)

    learned = [layer for layer in model.layers if not isinstance(layer, keras.layers.Normalization)]
    for layer in learned:
        layer.set_weights([value(variable) for variable in layer.weights])
    return model


def noise(count=8, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 32, 32, 3)).astype(np.float32)


def bytes_of_images(count=8, seed=2):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def logits(model, images, **arguments):
    return ops.convert_to_numpy(model(images, **arguments))


# The networks in PyTorch, from a model's variables. Float64, so that all rounding is ours.


def variables(model):
    return iter([torch.tensor(weight, dtype=torch.float64) for weight in model.get_weights()])


def conv(x, kernel, bias, padding):
    return functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=padding)


def flatten(x):
    return x.permute(0, 2, 3, 1).flatten(1)  # Keras's order: channels last


def tutorial_net_in_torch(model, images):
    w, x = variables(model), torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2)
    for _ in range(2):
        x = functional.max_pool2d(functional.relu(conv(x, next(w), next(w), 0)), 2)
    x = flatten(x)
    for _ in range(2):
        x = functional.relu(x @ next(w) + next(w))
    return (x @ next(w) + next(w)).numpy()


def elu_cnn_in_torch(model, images, training=False):
    """Logits, and the moving statistics afterwards: eight arrays."""
    w, x = variables(model), torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2)
    moved = []

    def norm(x):
        gamma, beta, mean, variance = (next(w) for _ in range(4))
        moved.extend([mean, variance])
        return functional.batch_norm(x, mean, variance, gamma, beta, training=training, momentum=0.1, eps=1e-5)

    for pool in (False, True, True):
        x = norm(functional.elu(conv(x, next(w), next(w), 1)))
        if pool:
            x = functional.max_pool2d(x, 2)
    x = norm(functional.elu(flatten(x) @ next(w) + next(w)))
    return (x @ next(w) + next(w)).numpy(), [statistic.numpy() for statistic in moved]


# float32 through five layers of sums of up to 4,096 terms near 1: a few 1e-6 of logits near 1.
LOGITS = 2e-5


def test_tutorial_net_is_the_tutorials():
    model = randomised(build("tutorial_net"))
    np.testing.assert_allclose(model.predict(noise(), verbose=0), tutorial_net_in_torch(model, noise()), atol=LOGITS)


def test_elu_cnn_is_report_bs():
    """Order of the layers, same padding, ε of BatchNorm: any other gives other logits."""
    model = randomised(build("elu_cnn", dropout=0.5))
    np.testing.assert_allclose(model.predict(noise(), verbose=0), elu_cnn_in_torch(model, noise())[0], atol=LOGITS)


def test_elu_cnn_normalises_by_the_batch_in_training():
    """Without dropout. The moving variance takes the batch's biased variance; torch's takes n/(n−1) of that."""
    model = randomised(build("elu_cnn", dropout=0.0))
    images = noise(64)
    expected, moved = elu_cnn_in_torch(model, images, training=True)
    before = [w for layer in model.layers if "BatchNorm" in type(layer).__name__ for w in layer.get_weights()[2:]]
    np.testing.assert_allclose(logits(model, images, training=True), expected, atol=1e-4)  # divides by the batch's σ
    after = [w for layer in model.layers if "BatchNorm" in type(layer).__name__ for w in layer.get_weights()[2:]]
    counts = [64 * 32 * 32, 64 * 32 * 32, 64 * 16 * 16, 64]
    for i, ours in enumerate(after):
        share, n = moved[i] - 0.9 * before[i], counts[i // 2]
        torchs = 0.9 * before[i] + share * ((n - 1) / n if i % 2 else 1)
        np.testing.assert_allclose(ours, torchs, rtol=1e-5, atol=1e-5)


def test_batch_norm_has_torchs_constants():
    norms = [layer for layer in build("elu_cnn").layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [(layer.momentum, layer.epsilon) for layer in norms] == [(0.9, 1e-5)] * 4


def test_the_layers_are_in_report_bs_order():
    kinds = [
        type(layer).__name__ for layer in build("elu_cnn").layers if not isinstance(layer, keras.layers.InputLayer)
    ]
    block = ["Conv2D", "Activation", "BatchNormalization"]
    head = ["Flatten", "Dense", "Activation", "Dropout", "BatchNormalization", "Dense"]
    assert kinds == [*block, *block, "MaxPooling2D", *block, "MaxPooling2D", *head]


def test_tutorial_net_has_62006_parameters():
    dense = 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    assert build("tutorial_net").count_params() == (3 * 25 * 6 + 6) + (6 * 25 * 16 + 16) + dense == 62_006


def test_elu_cnn_has_435142_parameters():
    convolutions = (3 * 9 * 16 + 16) + (16 * 9 * 32 + 32) + (32 * 9 * 64 + 64)
    norms = 4 * (16 + 32 + 64 + 100)
    dense = 4096 * 100 + 100 + 100 * 10 + 10
    model = build("elu_cnn")
    assert model.count_params() == convolutions + norms + dense == 435_142
    assert sum(np.prod(w.shape) for w in model.trainable_variables) == 435_142 - norms // 2


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_logits(name):
    model = randomised(build(name, classes=7))
    out = logits(model, 10 * noise())
    assert out.shape == (8, 7)
    assert out.min() < 0
    assert np.abs(out.sum(axis=1) - 1).min() > 1e-3
    assert model.output_shape == (None, 7)


@pytest.mark.parametrize("name", NAMES)
def test_other_image_sizes_and_channels(name):
    assert build(name, input_shape=(48, 40, 1)).output_shape == (None, 10)


@pytest.mark.once
@pytest.mark.parametrize(("stem", "first_kernel"), [("imagenet", 7), ("cifar", 3)])
def test_resnet18_has_the_published_size(stem, first_kernel):
    """11,689,512 parameters with 1,000 classes in torchvision; another stem changes its kernel alone."""
    model = build("resnet18", classes=1000, stem=stem)
    trained = sum(np.prod(w.shape) for w in model.trainable_variables)
    assert trained == 11_689_512 + (first_kernel**2 - 7**2) * 3 * 64


# Precision


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_of_the_layers_between_normalisation_and_logits(name):
    before = keras.config.dtype_policy().name
    model = build(name, mean=MEAN, std=STD, precision="bfloat16")
    assert keras.config.dtype_policy().name == before
    first, *between, last = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert first.compute_dtype == last.compute_dtype == "float32"
    assert {layer.compute_dtype for layer in between} == {"bfloat16"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    exact = build(name, mean=MEAN, std=STD, precision="float32")
    out, expected = logits(model, bytes_of_images()), logits(exact, bytes_of_images())
    assert out.dtype == np.float32
    # bfloat16 rounds each value by up to 1/256 of itself.
    np.testing.assert_allclose(out, expected, rtol=0, atol=0.05 * np.abs(expected).max())
    assert np.abs(out - expected).max() > 0


# Dropout


def test_dropout_is_in_the_head_alone():
    """At evaluation it does nothing; in training it changes the logits; its rate is the option."""
    rates = [layer.rate for layer in build("elu_cnn", dropout=0.3).layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.3]
    default = [layer.rate for layer in build("elu_cnn").layers if isinstance(layer, keras.layers.Dropout)]
    assert default == [0.5]


def test_no_dropout_makes_training_repeatable():
    model = build("elu_cnn", dropout=0.0)
    np.testing.assert_array_equal(logits(model, noise(), training=True), logits(model, noise(), training=True))
    model = build("elu_cnn", dropout=0.5)
    assert np.abs(logits(model, noise(), training=True) - logits(model, noise(), training=True)).max() > 0.1


# Initial values


def weighted(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)]


def test_tutorial_net_starts_uniform():
    """Kernels and biases in ±1/√fan_in: 20 seeds together, since a bias has few values."""
    models = [weighted(build("tutorial_net", seed=seed)) for seed in range(20)]
    for layers, fan_in in zip(zip(*models, strict=True), (75, 150, 400, 120, 84), strict=True):
        bound = fan_in**-0.5
        for i in range(2):
            values = np.concatenate([layer.get_weights()[i].ravel() for layer in layers]).astype(np.float64)
            assert np.abs(values).max() <= bound * (1 + 1e-6)
            assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > CHANCE


def test_elu_cnn_starts_he_normal():
    """Standard deviation √(2/fan_in), not cut off at 2 σ as Keras's `he_normal` is; biases 0."""
    for layer, fan_in in zip(weighted(build("elu_cnn")), (27, 144, 288, 4096, 100), strict=True):
        kernel, bias = layer.get_weights()
        values = kernel.ravel().astype(np.float64) / (2 / fan_in) ** 0.5
        assert stats.kstest(values, stats.norm.cdf).pvalue > CHANCE
        # n values: the standard deviation within 5.5 of its standard errors.
        assert abs(values.std() - 1) < 5.5 / (2 * values.size) ** 0.5
        assert not bias.any()
    largest = np.abs(weighted(build("elu_cnn"))[3].get_weights()[0]).max() / (2 / 4096) ** 0.5
    assert 4 < largest < 6.5  # of 409,600 normal values


def test_batch_norm_starts_as_the_identity():
    for layer in build("elu_cnn").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            assert (gamma == 1).all()
            assert (variance == 1).all()
            assert not beta.any()
            assert not mean.any()


@pytest.mark.parametrize("name", NAMES)
def test_layers_draw_apart(name):
    """No two kernels begin with the same numbers (in units of their scale)."""
    starts = [np.sort(layer.get_weights()[0].ravel()[:20]) for layer in weighted(build(name))]
    scaled = {tuple(np.round(start / np.abs(start).max(), 4)) for start in starts}
    assert len(scaled) == len(starts) >= 5


FINGERPRINTS = """
import hashlib, json
from kcifar.models import build
found = {}
for name in ("tutorial_net", "elu_cnn"):
    for seed in (0, 1, 42):
        weights = build(name, seed=seed).get_weights()
        found[f"{name} {seed}"] = hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.once
def test_the_same_seed_is_the_same_model_on_both_backends(capsys):
    """sha256 of all initial weights, here and in a process of the other backend."""
    theirs = json.loads(python(FINGERPRINTS, backend=OTHER, path=[ROOT]))
    for _ in range(2):  # the second time too: nothing is drawn from a generator that goes on
        exec(FINGERPRINTS, {})
        assert json.loads(capsys.readouterr().out) == theirs
    assert len(set(theirs.values())) == 6


# Normalisation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_with_mean_and_std_a_model_takes_raw_pixels(name, dtype):
    raw, plain = build(name, mean=MEAN, std=STD), build(name)
    randomised(raw)
    plain.set_weights([w for layer in weighted_and_norms(raw) for w in layer.get_weights()])
    images = bytes_of_images()
    normalised = ((images / 255.0 - MEAN) / STD).astype(np.float32)
    # Inputs near 2 that were rounded once more or less: 1e-6 of the logits.
    np.testing.assert_allclose(logits(raw, images.astype(dtype)), logits(plain, normalised), atol=LOGITS)
    np.testing.assert_allclose(raw.predict(images, verbose=0), logits(plain, normalised), atol=LOGITS)


def weighted_and_norms(model):
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.Normalization)]


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_is_one_layer_and_not_trained(name):
    raw, plain = build(name, mean=MEAN, std=STD), build(name)
    assert len(raw.trainable_variables) == len(plain.trainable_variables)
    assert len(raw.layers) == len(plain.layers) + 1


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_changes_no_initial_weight(name):
    """So that two recipes which differ in mean and std alone differ in nothing else."""
    raw, plain = build(name, mean=MEAN, std=STD), build(name)
    for ours, theirs in zip(raw.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


# What they are made of


@pytest.mark.parametrize("name", NAMES)
def test_models_are_functional_and_of_stock_layers(name):
    model = build(name, mean=MEAN, std=STD)
    assert type(model) is keras.src.models.functional.Functional
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tutorialnet"}, "tutorial_net"),
        ({"name": "elu_cn"}, "elu_cnn"),
        ({"name": "zzz"}, "tutorial_net.*elu_cnn|elu_cnn.*tutorial_net"),
        ({"name": "elu_cnn", "dropot": 0.1}, "dropout"),
        ({"name": "tutorial_net", "dropout": 0.5}, "dropout"),
        ({"name": "elu_cnn", "dropout": 1.5}, "1.5"),
        ({"name": "elu_cnn", "dropout": -0.1}, "-0.1"),
        ({"name": "tutorial_net", "input_shape": (8, 8, 3)}, "8"),
        ({"name": "elu_cnn", "input_shape": (2, 2, 3)}, "2"),
        ({"name": "elu_cnn", "mean": MEAN}, "std"),
        ({"name": "elu_cnn", "std": STD}, "mean"),
        ({"name": "elu_cnn", "mean": (0.5, 0.5), "std": (0.5, 0.5)}, "3 channels"),
        ({"name": "elu_cnn", "mean": MEAN, "std": (0.2, 0.0, 0.2)}, "positive"),
        ({"name": "elu_cnn", "mean": 0.5, "std": 0.5}, "3 channels"),
        ({"name": "elu_cnn", "dropout": "a"}, "dropout"),
        ({"name": "elu_cnn", "seed": -1}, "seed"),
        ({"name": "elu_cnn", "classes": 0}, "classes"),
        ({"name": "elu_cnn", "precision": "float16"}, "float32.*bfloat16"),
        ({"name": "resnet18", "stem": "imagenette"}, "'imagenet' or 'cifar'"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
