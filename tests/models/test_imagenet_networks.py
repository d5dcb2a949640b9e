"""ResNets for ImageNet and DenseNets against networks in PyTorch from the papers; sizes; the head; refusals."""

import functools
from itertools import groupby

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats
from torch.nn import functional

from kcifar import InputError
from kcifar.models import build
from kcifar.models.densenet import _densenet
from kcifar.models.resnet import _bottleneck, _resnet
from tests.models.test_residual_networks import (
    CLASSES,
    STEM_IN_TORCH,
    TOLERANCES,
    assert_same,
    assert_start,
    of_torch,
    worst_error,
)
from tests.models.test_small_networks import CHANCE, MEAN, STD, logits, randomised
from tests.residual_networks import densenet, resnet
from tests.sharpness_steps import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORKS = {
    # name: (parameters for 1,000 classes as published, the network in PyTorch)
    "resnet18": (11_689_512, lambda net, x: resnet(net, x, (2, 2, 2, 2))),
    "resnet34": (21_797_672, lambda net, x: resnet(net, x, (3, 4, 6, 3))),
    "resnet50": (25_557_032, lambda net, x: resnet(net, x, (3, 4, 6, 3), bottlenecks=True)),
    "resnet152": (60_192_808, lambda net, x: resnet(net, x, (3, 8, 36, 3), bottlenecks=True)),
    "densenet121": (7_978_856, lambda net, x: densenet(net, x, (6, 12, 24, 16))),
    "densenet169": (14_149_480, lambda net, x: densenet(net, x, (6, 12, 32, 32))),
}
GROUPS = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]

# Of the largest magnitude, see TOLERANCES. Of up to 152 layers the rounding is more: logits 7e-5, statistics 2e-5, and
# gradients 2e-4, where the scale of the stem's BatchNorm hardly matters to a DenseNet.
WIDER = {kind: 10 * tolerance for kind, tolerance in TOLERANCES.items()}


def groups(model):
    """Of the layers behind the images, in their order."""
    return [name for name, _ in groupby(layer.name.split("_")[0] for layer in model.layers[1:])]


# --- The networks whole ---


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """(name, the model for 1,000 classes): made once for all tests of it."""
    return request.param, build(request.param, classes=1000, input_shape=(64, 50, 3))


@pytest.mark.once
def test_the_number_of_parameters_is_the_published_one(network):
    name, model = network
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == NETWORKS[name][0]
    assert all(not layer.use_bias for layer in model.layers if isinstance(layer, layers.Conv2D))


@pytest.mark.once
def test_layers_are_named_by_their_group(network):
    assert groups(network[1]) == GROUPS


@pytest.mark.once
def test_kernels_start_he_normal(network):
    """By fan-in in DenseNets, by fan-out in ResNets."""
    name, model = network
    assert_start(model, fan=2 if "dense" in name else 3)


@pytest.mark.once
def test_logits_are_those_of_the_papers_network(network):
    """In inference, with other numbers in every BatchNorm than it starts with."""
    (name, model), rng, images = network, np.random.default_rng(0), normal(2, 64, 50, 3)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(rng.uniform(0.5, 1.5, (4, *layer.gamma.shape)))
    expected = of_torch(model, NETWORKS[name][1], images, training=False)
    assert worst_error({"logits": logits(model, images)}, expected) < 1


# --- Training ---

BLOCKS = {"bottlenecks": (2, 1, 1, 1), "dense layers": (2, 1, 2, 1)}


def few(name, shape, seed=0, hidden=None, dropout=0.0):
    """A family's network with few blocks, which JAX compiles soon: (the model in Keras, the network in PyTorch)."""
    image, blocks = keras.Input(shape, name="image"), BLOCKS[name]
    if name == "dense layers":
        out = _densenet(image, CLASSES, seed, blocks, hidden, dropout)
        return keras.Model(image, out), lambda net, x: densenet(net, x, blocks)
    out = _resnet(image, CLASSES, seed, _bottleneck, blocks, "imagenet", hidden, dropout)
    return keras.Model(image, out), lambda net, x: resnet(net, x, blocks, bottlenecks=True)


def case(name, shape=(2, 64, 64, 3), seed=1):
    """(the model in Keras, its network in PyTorch, images)."""
    if name in BLOCKS:
        model, in_torch = few(name, shape[1:])
    else:
        model, in_torch = build(name, input_shape=shape[1:]), NETWORKS[name][1]
    return randomised(model, seed), in_torch, normal(*shape, seed=seed)


def smooth(model):
    """The model with softplus for ReLU, of which float32 may take the other side near 0: the gradient is another.

    So it would be where max-pooling chose another pixel: of these seeds no two largest values are within 9e-6.
    """
    for layer in model.layers:
        if isinstance(layer, layers.Activation) or layer.name == "head_hidden":
            assert layer.activation is keras.activations.relu
            layer.activation = keras.activations.softplus
    return model


def assert_same_gradients(model, *rest):
    assert_same(smooth(model), *rest, gradients=True, tolerances=WIDER, activation=functional.softplus)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_of_few_blocks(name):
    assert_same_gradients(*case(name))


@pytest.mark.once
@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_gradients_of_a_whole_network(name):
    assert_same_gradients(*case(name))


SIZES = [
    ("bottlenecks", (2, 64, 64, 3)),
    ("bottlenecks", (8, 8, 8, 3)),
    ("bottlenecks", (2, 75, 47, 1)),
    ("dense layers", (8, 29, 29, 3)),  # the least that is not refused
    ("dense layers", (2, 75, 47, 4)),
]


@pytest.mark.once
@pytest.mark.parametrize(("name", "shape"), SIZES, ids=str)
def test_logits_and_statistics_with_relu(name, shape):
    assert_same(*case(name, shape), tolerances=WIDER)


SUBSAMPLED = {"transition_pool": lambda x: x[:, :, : x.shape[2] // 2 * 2 : 2, : x.shape[3] // 2 * 2 : 2]}
WRONG = {
    # what: (network, what is wrong, where it shows)
    "the first 1×1 strided, as in the paper": ("bottlenecks", {"strided_of_three": 1}, "logits"),
    "the last 1×1 strided": ("bottlenecks", {"strided_of_three": 3}, "logits"),
    "ReLU before the sum": ("bottlenecks", {"relu_after_sum": False}, "logits"),
    "no BatchNorm after the projection": ("bottlenecks", {"shortcut_norm": False}, "logits"),
    "ReLU before BatchNorm": ("dense layers", {"norm_first": False}, "logits"),
    "new channels before the old": ("dense layers", {"first": "new"}, "logits"),
    "a transition without BatchNorm and ReLU": ("dense layers", {"transition_activated": False}, "logits"),
    "a transition's maxima": ("dense layers", {"transition_pool": lambda x: functional.max_pool2d(x, 2)}, "logits"),
    "a transition's every second pixel": ("dense layers", SUBSAMPLED, "logits"),
    "no last BatchNorm": ("dense layers", {"head_norm": False}, "logits"),
    "no last ReLU": ("dense layers", {"head_activated": False}, "logits"),
    "Keras's ε": ("dense layers", {"epsilon": 1e-3}, "logits"),
    "Keras's momentum": ("dense layers", {"momentum": 0.99}, "moving"),
    "unbiased variance": ("dense layers", {"unbiased": True}, "moving"),
    "'same' padding of the stem": ("dense layers", {"far_side": True}, "logits"),
    "'same' padding": ("bottlenecks", {"far_side": True}, "logits"),
    **{f"stem: {what}": ("dense layers", {"pool": pool}, "logits") for what, pool in STEM_IN_TORCH.items()},
}


@functools.cache
def right(name):
    of_case = case(name)
    return of_case, of_torch(*of_case, training=True)


@pytest.mark.once
@pytest.mark.parametrize(("name", "wrong", "shows"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_network_is_far_off(name, wrong, shows):
    """So the comparisons above would see each of these mistakes."""
    of_case, expected = right(name)
    got = of_torch(*of_case, training=True, **wrong)
    expected = {key: value for key, value in expected.items() if shows in key and key in got}
    assert worst_error(got, expected, WIDER) > 20


@pytest.mark.once
def test_in_bfloat16_logits_are_float32():
    model, images = randomised(build("densenet121", precision="bfloat16", hidden=16)), normal(2, 32, 32, 3)
    got, expected = logits(model, images), of_torch(model, NETWORKS["densenet121"][1], images, False)["logits"]
    assert got.dtype == np.float32
    # Each of many layers rounds by up to 4e-3: float32 would not be off by 1e-4, nor bfloat16 by much of the logits.
    assert 1e-4 < np.abs(got - expected).max() / np.abs(expected).max() < 0.1


# --- The head ---


@pytest.mark.once
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_the_options(name):
    """A ResNet's stem too; names and their order as without options."""
    stem = {} if "dense" in name else {"stem": "cifar"}
    model = build(name, mean=MEAN, std=STD, seed=5, hidden=16, dropout=0.25, **stem)
    assert groups(model) == ["normalization", *GROUPS]
    hidden, dropout, last = model.layers[-3:]
    assert [layer.name for layer in model.layers[-3:]] == ["head_hidden", "head_dropout", "head_logits"]
    assert (hidden.units, dropout.rate, dropout.seed, last.units) == (16, 0.25, 5, CLASSES)
    assert model.get_layer("stem_conv").kernel.shape[:2] == ((3, 3) if stem else (7, 7))
    assert ("stem_pool" in {layer.name for layer in model.layers}) == (not stem)


SHAPE = (29, 29, 3)


@pytest.mark.once
def test_a_hidden_layer_has_relu():
    (model, in_torch), images = few("dense layers", SHAPE, hidden=16), normal(8, *SHAPE)
    randomised(model)
    expected, linear = (of_torch(model, in_torch, images, False, hidden_activated=relu) for relu in (True, False))
    assert worst_error(linear, expected, WIDER) > 100
    assert_same_gradients(model, in_torch, images)


@pytest.mark.once
def test_both_dense_layers_start_uniform():
    """In ±1/√fan_in, the biases too."""
    model = build("resnet18", hidden=500)
    for name, fan_in in (("head_hidden", 512), ("head_logits", 500)):
        for values in model.get_layer(name).get_weights():
            scaled = values.ravel() * fan_in**0.5
            assert np.abs(scaled).max() <= 1 + 1e-6
            assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > CHANCE


def of_head(model, images, training):
    """What the head's layers give, in order."""
    inner = keras.Model(model.input, [layer.output for layer in model.layers[-4:]])
    return [keras.ops.convert_to_numpy(part) for part in inner(images, training=training)]


@pytest.mark.once
def test_dropout_is_behind_the_hidden_layer():
    """In training half of its units are 0, the others twice as large; in inference all are as they are."""
    model, images = randomised(few("dense layers", SHAPE, hidden=16, dropout=0.5)[0]), normal(64, *SHAPE)
    first, first_bias, last, last_bias = model.get_weights()[-4:]
    for training, scale in ((True, 2), (False, 1)):
        pooled, hidden, dropped, out = of_head(model, images, training)
        np.testing.assert_allclose(hidden, np.maximum(pooled @ first + first_bias, 0), rtol=1e-5, atol=1e-5)
        kept = (dropped != 0) | (not training)
        np.testing.assert_array_equal(dropped, np.where(kept, hidden * scale, 0))
        np.testing.assert_allclose(out, dropped @ last + last_bias, rtol=1e-5, atol=1e-5)
        live = hidden > 0
        # In training of n coins, within 5 of their standard errors.
        assert not training or abs(kept[live].mean() - 0.5) < 2.5 / live.sum() ** 0.5


@pytest.mark.once
def test_dropout_is_of_the_seed():
    images, weights = normal(8, *SHAPE), randomised(few("dense layers", SHAPE, hidden=16)[0]).get_weights()

    def two_steps(seed):
        model = few("dense layers", SHAPE, seed, hidden=16, dropout=0.5)[0]
        model.set_weights(weights)
        return [logits(model, images, training=True) for _ in range(2)]

    first, again, other = two_steps(3), two_steps(3), two_steps(2**63 + 4)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first[0], other[0])


# --- What is refused ---


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet50", "stem": "imagenet1k"}, "stem is 'imagenet1k'.*'imagenet' or 'cifar'"),
        ({"name": "densenet121", "stem": "cifar"}, "unknown option 'stem' of densenet121"),
        ({"name": "resnet20", "hidden": 16}, "unknown option 'hidden' of resnet20"),
        ({"name": "densenet161"}, "densenet1[26][19]"),
        ({"name": "resnet34", "dropout": 0.5}, "dropout=0.5 without hidden.*hidden=256"),
        ({"name": "resnet18", "hidden": 0}, "hidden.*0.*positive"),
        ({"name": "resnet18", "hidden": -3}, "hidden.*-3.*positive"),
        ({"name": "resnet18", "hidden": 2.5}, "hidden.*2.5.*positive"),
        ({"name": "resnet18", "hidden": 8, "dropout": 1.5}, "dropout.*1.5.*0 and 1"),
        ({"name": "resnet18", "hidden": 8, "dropout": -0.5}, "dropout.*-0.5.*0 and 1"),
        ({"name": "densenet121", "input_shape": (28, 64, 3)}, r"\(28, 64, 3\).*cannot be built"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)  # Keras's colours
