"""ResNet-20, -56 and -18 and WRN-28 against networks written out in PyTorch from the papers; sizes by hand; files."""

import functools

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from scipy import stats
from torch.nn import functional

import kcifar
from kcifar import InputError
from kcifar.models import build
from tests.models.test_small_networks import CHANCE, MEAN, STD, logits, randomised
from tests.residual_networks import Net, resnet, resnet_for_cifar, wrn28
from tests.sharpness_steps import KINDS, ON_TORCH, copies, crossentropy, normal, one_hot

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = 10

# name and stem: (the network in PyTorch, images, seed of the weights and of the images)
# Images are small and the seeds such that no ReLU has an input so near 0 that float32 might take its other side: where
# few terms are summed, the gradient would be another.
CASES = {
    "resnet20": (lambda net, x: resnet_for_cifar(net, x, 3), (4, 8, 8, 3), 7),
    "resnet56": (lambda net, x: resnet_for_cifar(net, x, 9), (4, 8, 8, 3), 14),
    "wrn28_2": (lambda net, x: wrn28(net, x, 2), (4, 8, 8, 3), 6),
    "resnet18 cifar": (lambda net, x: resnet(net, x, [2] * 4, stem="cifar"), (2, 16, 16, 3), 14),
    "resnet18 imagenet": (lambda net, x: resnet(net, x, [2] * 4), (2, 64, 50, 3), 11),
}


def case(name, shape=None):
    """(the model in Keras, its network in PyTorch, images)."""
    in_torch, usual, seed = CASES[name]
    shape = shape or usual
    family, *stem = name.split()
    model = build(family, input_shape=shape[1:], **({"stem": stem[0]} if stem else {}))
    return randomised(model, seed), in_torch, normal(*shape, seed=seed)


def of_torch(model, in_torch, images, training, gradients=False, **other):
    """All that a call shows, by name: logits, in training the moved statistics; and the gradients of cross-entropy."""
    net = Net(model, training, other)
    with torch.set_grad_enabled(gradients):
        out = in_torch(net, torch.tensor(images).double().permute(0, 3, 1, 2))
    seen = {"logits": out.detach().numpy()} | net.moved
    if gradients:
        assert net.nearest_to_kink > SAFE
        functional.cross_entropy(out, torch.tensor(one_hot(len(images), CLASSES)).double()).backward()
        seen |= {f"gradient of {path}": w.grad.numpy() for path, w in net.weights.items() if w.requires_grad}
    return seen


def of_keras(model, images, training):
    """The same of the model. On JAX compiled, which is faster than operation by operation."""
    if not training:
        return {"logits": model.predict(images, verbose=0)}
    targets = one_hot(len(images), CLASSES)
    learned, moving = model.trainable_variables, model.non_trainable_variables
    if ON_TORCH:
        model.zero_grad()
        out = model(ops.convert_to_tensor(images), training=True)
        crossentropy()(targets, out).backward()
        gradients, moved = [variable.value.grad for variable in learned], moving
    else:
        import jax

        def loss(learned_values, moving_values):
            out, moved = model.stateless_call(learned_values, moving_values, images, training=True)
            return crossentropy()(targets, out), (out, moved)

        values = [v.value for v in learned], [v.value for v in moving]
        (_, (out, moved)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(*values)
    found = {f"gradient of {v.path}": gradient for v, gradient in zip(learned, gradients, strict=True)}
    found |= {v.path: value for v, value in zip(moving, moved, strict=True)}
    return {name: ops.convert_to_numpy(value) for name, value in ({"logits": out} | found).items()}


# Errors are in units of the largest magnitude of their tensor. Float32 rounds the outputs of up to 57 layers by 6e-8,
# sums of up to 4,608 terms; training divides by the deviations of 8 values at least, which magnifies that. Measured:
# logits 5e-6, statistics 1e-6, gradients 2e-5.
TOLERANCES = {"logits": 2e-5, "moving": 1e-5, "gradient": 1e-4}
SAFE = 1e-5  # from a ReLU's kink: its inputs are of size 1 and err by 1e-6


def worst_error(got, expected, tolerances=TOLERANCES):
    """Of all that is expected, over the tolerance."""
    errors = {name: np.abs(got[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected}
    # NumPy's maximum, which a NaN is not lost in.
    return np.max([errors[name] / tolerances[kind] for name in errors for kind in tolerances if kind in name])


def assert_same(model, in_torch, images, gradients=False, tolerances=TOLERANCES, **other):
    """The model's values are those of its network in PyTorch, as it is and accelerated; `other` as in RIGHT."""
    start = copies(model.weights)
    expected = [of_torch(model, in_torch, images, mode, gradients and mode, **other) for mode in (False, True)]
    for kind in KINDS:
        model.set_weights(start)
        if kind == "accelerated":
            kcifar.accelerate(model)
        for training in (False, True):
            got = of_keras(model, images, training)
            assert got.keys() >= expected[training].keys()
            assert len(got) == len(expected[training]) or not gradients
            assert worst_error(got, expected[training], tolerances) < 1, f"{kind}, training={training}"


ON_BOTH = ("resnet20", "wrn28_2")  # the others are made of the same: JAX would compile them for long
NAMED = [pytest.param(name, marks=[] if name in ON_BOTH else pytest.mark.once) for name in CASES]


@pytest.mark.parametrize("name", NAMED)
def test_logits_statistics_and_gradients_are_those_of_the_papers_network(name):
    assert_same(*case(name), gradients=True)


SIZES = [
    ("resnet20", (4, 16, 16, 3)),
    ("resnet20", (4, 32, 32, 3)),
    ("resnet20", (2, 64, 64, 3)),
    ("resnet20", (2, 33, 18, 1)),
    ("wrn28_2", (2, 32, 32, 3)),
    ("wrn28_2", (2, 21, 30, 4)),
    ("resnet18 cifar", (1, 32, 32, 3)),
    ("resnet18 imagenet", (2, 75, 47, 3)),
]


@pytest.mark.once
@pytest.mark.parametrize(("name", "shape"), SIZES, ids=str)
def test_images_of_other_sizes(name, shape):
    """Without gradients: among so many inputs of ReLUs some are too near 0."""
    assert_same(*case(name, shape))


STEM_IN_TORCH = {
    "mean": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "far side": lambda x: functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 3, 2),
    "unpadded": lambda x: functional.max_pool2d(x, 3, 2),
    "2×2": lambda x: functional.max_pool2d(x, 2, 2),
}
WRONG = {
    # what: (network, what is wrong, where it shows)
    "Keras's momentum": ("resnet20", {"momentum": 0.99}, "moving"),
    "unbiased variance": ("resnet20", {"unbiased": True}, "moving"),
    "Keras's ε": ("resnet20", {"epsilon": 1e-3}, "logits"),
    "'same' padding": ("resnet20", {"far_side": True}, "logits"),
    "the second convolution strided": ("resnet20", {"strided": 2}, "logits"),
    "odd pixels": ("resnet20", {"first_pixel": 1}, "logits"),
    "means of 2×2 pixels": ("resnet20", {"averaged": True}, "logits"),
    "zeros before": ("resnet20", {"zeros_before": lambda added: added}, "logits"),
    "zeros on both sides": ("resnet20", {"zeros_before": lambda added: added // 2}, "logits"),
    "ReLU before the sum": ("resnet20", {"relu_after_sum": False}, "logits"),
    "'same' padding of ResNet-18": ("resnet18 cifar", {"far_side": True}, "logits"),
    "no BatchNorm after the projection": ("resnet18 cifar", {"shortcut_norm": False}, "logits"),
    **{f"stem: {what}": ("resnet18 imagenet", {"pool": pool}, "logits") for what, pool in STEM_IN_TORCH.items()},
    "'same' padding of the stem too": ("resnet18 imagenet", {"far_side": True}, "logits"),
    "'same' padding of the wide net": ("wrn28_2", {"far_side": True}, "logits"),
    "the raw input projected": ("wrn28_2", {"projects": "raw"}, "logits"),
    "the activated input added": ("wrn28_2", {"adds": "activated"}, "logits"),
    "no last BatchNorm": ("wrn28_2", {"head_norm": False}, "logits"),
}


@functools.cache
def right(name):
    of_case = case(name)
    return of_case, of_torch(*of_case, training=True)


@pytest.mark.once
@pytest.mark.parametrize(("name", "wrong", "shows"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_network_is_far_off(name, wrong, shows):
    """So the comparison above would see each of these mistakes."""
    of_case, expected = right(name)
    got = of_torch(*of_case, training=True, **wrong)
    assert worst_error(got, {key: value for key, value in expected.items() if shows in key and key in got}) > 20


@pytest.mark.once
def test_option_a_by_hand():
    """No convolution in a block, BatchNorm the identity: features are means of every fourth pixel, the new ones 0."""
    model = build("resnet20", classes=64, input_shape=(9, 12, 3))
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.set_weights([np.zeros(layer.kernel.shape)])
        if isinstance(layer, layers.BatchNormalization):
            one, zero = np.ones(layer.gamma.shape), np.zeros(layer.gamma.shape)
            layer.set_weights([one, zero, zero, one - layer.epsilon])
    stem = np.zeros((3, 3, 3, 16))
    stem[1, 1, range(3), (0, 7, 15)] = 1
    model.get_layer("stem_conv").set_weights([stem])
    model.get_layer("head_logits").set_weights([np.eye(64), np.zeros(64)])
    images = np.random.default_rng(0).uniform(size=(2, 9, 12, 3)).astype(np.float32)
    expected = np.zeros((2, 64))
    expected[:, [0, 7, 15]] = images[:, ::4, ::4].mean((1, 2))
    np.testing.assert_allclose(logits(model, images), expected, atol=1e-6)


# --- Sizes ---


def thin(n):
    """n blocks in each stage: 3×3 convolutions, BatchNorm after each, the head."""
    first, others = 3 * 16 + 2 * n * 16**2, sum(w // 2 * w + (2 * n - 1) * w**2 for w in (32, 64))
    return 9 * (first + others) + 2 * (16 + 2 * n * (16 + 32 + 64)) + 65 * 10


def wide(k):
    """3×3 convolutions, 1×1 convolutions, BatchNorm before each 3×3 one but the first and before the head, the head."""
    pairs = [(16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)]
    kernels = 9 * (3 * 16 + sum(v * w + 7 * w**2 for v, w in pairs)) + sum(v * w for v, w in pairs)
    return kernels + 2 * (sum(v + 7 * w for v, w in pairs) + 64 * k) + (64 * k + 1) * 10


def eighteen(stem, classes):
    """The stem, stage 1, the others with 3×3 convolutions and a 1×1 one each, five BatchNorms a width, the head."""
    kernels = stem**2 * 3 * 64 + 9 * 4 * 64**2 + sum((9 + 1) * w // 2 * w + 9 * 3 * w**2 for w in (128, 256, 512))
    return kernels + 2 * 5 * (64 + 128 + 256 + 512) + 513 * classes


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "by_hand", "published"),
    [
        ({"name": "resnet20"}, thin(3), 269_722),
        ({"name": "resnet56"}, thin(9), 853_018),
        ({"name": "wrn28_2"}, wide(2), 1_467_610),
        ({"name": "wrn28_10"}, wide(10), 36_479_194),
        ({"name": "resnet18", "classes": 1000}, eighteen(7, 1000), 11_689_512),
        ({"name": "resnet18", "stem": "cifar"}, eighteen(3, 10), 11_173_962),
    ],
    ids=str,
)
def test_the_number_of_parameters_is_the_published_one(arguments, by_hand, published):
    model = build(**arguments)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == by_hand == published
    assert all(not layer.use_bias for layer in model.layers if isinstance(layer, layers.Conv2D))


# --- Initial values ---


def assert_start(model, fan):
    """Kernels are normal of variance 2/(area·channels), not cut off; the head is uniform in ±1/√fan_in, its bias too.

    `fan`: the place in a kernel's shape of the channels that count, 2 of those it takes and 3 of those it gives.
    """
    scaled = []
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel = layer.get_weights()[0]
            values = kernel.ravel()[:100_000].astype(np.float64)
            scaled.append(values / (2 / (np.prod(kernel.shape[:2]) * kernel.shape[fan])) ** 0.5)
            # n values: the standard deviation within 5.5 of its standard errors.
            assert abs(scaled[-1].std() - 1) < 5.5 / (2 * values.size) ** 0.5, layer.name
    # Enough to see a normal distribution that is cut off at 2 σ.
    assert stats.kstest(np.concatenate(scaled)[:100_000], stats.norm.cdf).pvalue > CHANCE
    kernel, bias = (weight.astype(np.float64) for weight in model.get_layer("head_logits").get_weights())
    values = np.concatenate([kernel.ravel(), bias]) * len(kernel) ** 0.5
    assert np.abs(values).max() <= 1 + 1e-6
    assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > CHANCE
    assert len(set(bias)) == len(bias)


@pytest.mark.once
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "wrn28_2"])
def test_kernels_start_he_normal_by_fan_out(name):
    assert_start(build(name), fan=3)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "resnet20"}, -1.0421382440254092),
        ({"name": "resnet18"}, 2.5644380014855415),
        ({"name": "resnet18", "stem": "cifar"}, -4.594895874732174),
    ],
    ids=str,
)
def test_a_seed_gives_the_values_it_has_always_given(arguments, expected):
    """Results depend on it. The sum of each layer's first value times its place: a layer that draws others shows."""
    firsts = [layer.get_weights()[0].flat[0] for layer in build(**arguments).layers if hasattr(layer, "kernel")]
    # 20 values near 0.1 times up to 21, of float32; any other draw changes the sum by some 1e-2.
    assert np.dot(np.arange(1, len(firsts) + 1), np.float64(firsts)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("name", ["resnet20", "wrn28_2"])
def test_layers_draw_apart_and_seeds_too(name):
    """No two kernels begin with the same numbers, in units of their scale; another seed is another model."""
    first, again, other = (
        [layer.get_weights()[0].ravel()[:20] for layer in build(name, seed=seed).layers if hasattr(layer, "kernel")]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    starts = {tuple(np.round(start / np.abs(start).max(), 4)) for start in first + other}
    assert len(starts) == 2 * len(first)


# --- What they are made of, and what is refused ---


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "wrn28_2"])
def test_models_are_functional_and_of_stock_layers(name):
    model = build(name, mean=MEAN, std=STD)
    assert type(model) is keras.src.models.functional.Functional
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18", "stem": "CIFAR"}, "stem is 'CIFAR'.*'imagenet' or 'cifar'"),
        ({"name": "resnet18", "stem": None}, "stem is 'None'.*'imagenet' or 'cifar'"),
        ({"name": "resnet20", "stem": "cifar"}, "unknown option 'stem' of resnet20"),
        ({"name": "wrn28_2", "dropout": 0.3}, "unknown option 'dropout' of wrn28_2"),
        ({"name": "wrn28-10"}, "wrn28_10"),
        ({"name": "resnet65"}, "resnet56|resnet20"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
