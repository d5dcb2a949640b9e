"""`load_pretrained` gives the networks the logits and the training step that PyTorch's have with the same file."""

import contextlib
import functools
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kcifar
from kcifar import InputError, models
from kcifar.models import build, load_pretrained
from kcifar.training import SGD
from tests.pytorch_networks import BLOCKS, drawn_state, in_timm_layout, network, step, with_old_names
from tests.sharpness_steps import ON_TORCH, assert_same_bits, bits, normal

pytestmark = pytest.mark.usefixtures("quick_compilation")

once = pytest.mark.once

CLASSES, HIDDEN, RATE = 10, 64, 0.03

# Errors are of the largest magnitude of a tensor, against PyTorch in float64. Float32 rounds sums of up to 4,608 terms
# in up to 169 layers; training divides by the deviations of 8 values at least, which magnifies that. Measured: logits
# 1e-6, new weights and statistics 4e-5, and 5e-4 of the largest change that the step made in a tensor.
TOLERANCE = 1e-4
OF_A_CHANGE, ROUNDING = 5e-3, 5e-7
WRONG_BY = 20 * TOLERANCE
SAFE = 4e-6  # between the largest two in a window of max-pooling, so that float32 does not take the other


@pytest.fixture
def folder():
    """Deleted with the test: its files have hundreds of megabytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def images_for(name):
    """Of these seeds no two pixels are tied in max-pooling."""
    if "vgg" in name:
        return normal(2, 32, 32, 3, seed=12)
    if ON_TORCH:
        return normal(2, 64, 64, 3, seed=9)
    # JAX runs convolutions slowly where it compiles them quickly.
    side = 32 if "dense" in name else 16
    return normal(8 if name in TRAINED else 1, side, side, 3, seed=9)


def in_keras(name, image=(32, 32), classes=CLASSES, **options):
    of_vgg = {"batch_norm": name == "vgg16_bn", "hidden": HIDDEN, "dropout": 0} if "vgg" in name else {}
    return build(name.removesuffix("_bn"), classes, (*image, 3), **of_vgg | options)


def in_torch(name, image=(32, 32), state=None, activation=nn.ReLU):
    return network(name, CLASSES, image, HIDDEN, activation, state)


def drawn(name, images):
    return drawn_state(in_torch(name, images.shape[1:3]), images)


def channels_first(images):
    return torch.tensor(images).double().permute(0, 3, 1, 2)


def logits_in_torch(name, state, images):
    with torch.no_grad():
        return in_torch(name, images.shape[1:3], state).eval()(channels_first(images)).numpy()


def written(tensors, path):
    """The path, behind writing what its suffix says."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def cleared(model):
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape))
    return model


def error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


# --- Logits and a training step ---


def untracked(state):
    return {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}


def other_layout(name, state, image):
    if "vgg" in name:
        return in_timm_layout(state, image)
    return with_old_names(state) if "dense" in name else untracked(state)


@contextlib.contextmanager
def smooth(model):
    """Softplus for ReLU, of which float32 may take the other side near 0, where the gradient is another."""
    rectified = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.relu]
    for layer in rectified:
        layer.activation = keras.activations.softplus
    yield
    for layer in rectified:
        layer.activation = keras.activations.relu


def assert_same_step(name, model, state, images, folder):
    """The model, with the numbers of `state`, is trained and then has what PyTorch's step gives."""
    labels = np.random.default_rng(2).integers(0, CLASSES, len(images))
    net = in_torch(name, images.shape[1:3], state, nn.Softplus)
    assert step(net, channels_first(images), torch.tensor(labels), RATE) > SAFE
    stepped = {key: tensor.float() for key, tensor in untracked(net.state_dict()).items()}
    before = bits(model)
    with smooth(model):
        model.compile(SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(images, labels)
    after = bits(model)
    assert load_pretrained(model, written(stepped, folder / "stepped.safetensors")) == []
    for variable, old, new, expected in zip(model.weights, before, after, bits(model), strict=True):
        off, change, size = (np.abs(values).max() for values in (new - expected, expected - old, expected))
        assert off < TOLERANCE * size, variable.path
        # A bias in front of BatchNorm has no gradient: rounding is all that changes it.
        assert off < OF_A_CHANGE * change + ROUNDING * size, variable.path


# Trained as they are. On torch all are trained accelerated, too. JAX compiles a step of the others for up to 50 s, and
# takes no less operation by operation: they are made of the same as these and as the DenseNet of few layers in
# test_imagenet_networks.py, whose statistics and gradients JAX gives there.
TRAINED = ("resnet18", "densenet121", "vgg16_bn") if ON_TORCH else ("resnet18", "vgg16_bn")


# Deeper ones of the same blocks as others here: on one backend.
DEEP = ("resnet152", "densenet169")


@pytest.mark.parametrize("name", [pytest.param(name, marks=once) if name in DEEP else name for name in BLOCKS])
def test_logits_and_a_training_step_are_those_of_pytorch(name, folder):
    """From a `.pth` file in torchvision's layout, and from a `.safetensors` file in another."""
    images = images_for(name)
    state = drawn(name, images)
    expected = logits_in_torch(name, state, images)
    other = other_layout(name, state, images.shape[1:3])
    files = written(state, folder / "weights.pth"), written(other, folder / "weights.safetensors")
    model = in_keras(name, images.shape[1:3])

    assert load_pretrained(model, files[0]) == []
    loaded = bits(model)
    assert error(model.predict(images, verbose=0), expected) < TOLERANCE
    if name in TRAINED:
        assert_same_step(name, model, state, images, folder)
    kcifar.accelerate(model)
    assert load_pretrained(cleared(model), files[1]) == []
    assert_same_bits(bits(model), loaded)
    if ON_TORCH:
        assert error(model.predict(images, verbose=0), expected) < TOLERANCE
        assert_same_step(name, model, state, images, folder)


@functools.cache
def small(name):
    """(images, numbers for a network of their size)."""
    images = normal(1, 64, 96, 3) if "vgg" in name else normal(1, 32, 32, 3)
    return images, drawn(name, images)


def exchanged(one, other):
    """A function that exchanges tensors, by how their names begin."""
    names = {one: other, other: one}
    begins = re.compile("^(" + "|".join(map(re.escape, names)) + ")")
    return lambda state: {key: state[begins.sub(lambda found: names[found[1]], key)] for key in state}


def changed(name, function):
    return lambda state: state | {name: function(state[name])}


WRONG = {
    # what is wrong in a file: (whose, a function of what is in it)
    "the convolutions of a block": ("resnet18", exchanged("layer1.0.conv1.", "layer1.0.conv2.")),
    "its BatchNorms": ("resnet18", exchanged("layer4.1.bn1.", "layer4.1.bn2.")),
    "the BatchNorms of a shortcut and beside it": ("resnet18", exchanged("layer2.0.downsample.1.", "layer2.0.bn2.")),
    "two of 36 blocks": ("resnet152", exchanged("layer3.20.", "layer3.21.")),
    "scale and variance": ("resnet18", exchanged("bn1.weight", "bn1.running_var")),
    "scale and offset": ("resnet18", exchanged("layer3.0.bn1.weight", "layer3.0.bn1.bias")),
    "offset and mean": ("densenet121", exchanged("features.norm5.bias", "features.norm5.running_mean")),
    "convolutions of dense layers": (
        "densenet121",
        exchanged("features.denseblock3.denselayer9.conv2.", "features.denseblock3.denselayer10.conv2."),
    ),
    "BatchNorms of dense layers": (
        "densenet121",
        exchanged("features.denseblock4.denselayer1.norm2.", "features.denseblock4.denselayer2.norm2."),
    ),
    "two convolutions in a row": ("vgg16_bn", exchanged("features.27.", "features.30.")),
    "a convolution's bias and BatchNorm's offset": ("vgg16_bn", exchanged("features.40.bias", "features.41.bias")),
    "biases of dense layers": ("vgg16", exchanged("classifier.0.bias", "classifier.3.bias")),
    "blue for red": ("resnet18", changed("conv1.weight", lambda kernel: kernel.flip(1))),
    "rows for columns": ("resnet18", changed("layer1.0.conv1.weight", lambda kernel: kernel.transpose(2, 3))),
    "upside down": ("resnet18", changed("layer1.0.conv1.weight", lambda kernel: kernel.flip(2))),
    "inputs for outputs": ("resnet18", changed("layer1.0.conv1.weight", lambda kernel: kernel.transpose(0, 1))),
    "inputs for outputs of a dense layer": ("vgg16", changed("classifier.3.weight", torch.t)),
    "channels last": (
        "vgg16",
        changed("classifier.0.weight", lambda k: k.reshape(-1, 512, 2, 3).permute(0, 2, 3, 1).flatten(1)),
    ),
    "columns before rows": (
        "vgg16",
        changed("classifier.0.weight", lambda k: k.reshape(-1, 512, 2, 3).transpose(2, 3).flatten(1)),
    ),
}


@once
@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=list(WRONG))
def test_what_is_put_elsewhere_gives_other_logits(name, wrong):
    """So the comparison of logits would see each of these mistakes."""
    images, state = small(name)
    expected = logits_in_torch(name, state, images)
    assert error(logits_in_torch(name, wrong(state), images), expected) > WRONG_BY


# --- Sizes ---


@once
@pytest.mark.parametrize(
    ("name", "classes", "side", "count"),
    [("vgg16", 1000, 224, 138_357_544), ("vgg16_bn", 1000, 224, 138_365_992), ("vgg16", 10, 32, 33_638_218)],
)
def test_the_number_of_parameters(name, classes, side, count, monkeypatch):
    """As published; that for 32×32 is PyTorch's of 1,000 classes less 24,576 × 4,096 less 990 × 4,097."""
    monkeypatch.setattr(models, "draw_initial_values", lambda *_: None)
    with keras.device("meta"):  # without the numbers
        model = in_keras(name, (side, side), classes, hidden=4096)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == count
    assert sum(p.numel() for p in network(name, classes, (side, side)).parameters()) == count


@pytest.mark.parametrize("image", [(64, 96), pytest.param((224, 224), marks=once)], ids=str)
def test_vggs_first_dense_layer_sees_the_pixels_where_they_were(image, folder):
    """In torchvision's layout, channels first, and in timm's, where it is a convolution of the last maps."""
    images = normal(1, *image, 3)
    state = drawn("vgg16", images)
    expected, model = logits_in_torch("vgg16", state, images), in_keras("vgg16", image)
    of_timm = in_timm_layout(state, image)
    assert of_timm["pre_logits.fc1.weight"].shape == (HIDDEN, 512, image[0] // 32, image[1] // 32)
    for layout in (state, of_timm):
        model.get_layer("head_hidden1").kernel.assign(np.zeros(state["classifier.0.weight"].T.shape))
        assert load_pretrained(model, written(layout, folder / "weights.safetensors")) == []
        assert error(model.predict(images, verbose=0), expected) < TOLERANCE


# --- Other forms of a file ---


@pytest.fixture(scope="module")
def resnet18():
    """Shared: each test gives it all of its weights."""
    return in_keras("resnet18")


@pytest.fixture(scope="module")
def plain(resnet18):
    """(what is in a file, what a model's weights are with it)."""
    state = small("resnet18")[1]
    with tempfile.TemporaryDirectory() as path:
        assert load_pretrained(resnet18, written(state, Path(path) / "plain.pth")) == []
    return state, bits(resnet18)


def prefixed(state):
    return {f"module.{key}": tensor for key, tensor in state.items()}


def checkpoint(state, key, **more):
    """As programs write them to go on from."""
    momenta = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 90, "arch": "resnet18", key: state, "optimizer": momenta} | more


FORMS = {
    "no counts of batches": (untracked, ".pth"),
    "parallel": (prefixed, ".pth"),
    "parallel, safetensors": (prefixed, ".safetensors"),
    **{
        key: (functools.partial(checkpoint, key=key), ".pth")
        for key in ("state_dict", "model_state_dict", "model", "net")
    },
    "parallel in a checkpoint": (lambda state: checkpoint(prefixed(state), "state_dict"), ".pt"),
    # As PyTorch's example for ImageNet writes it.
    "a tensor in a checkpoint": (lambda state: checkpoint(state, "state_dict", best_acc1=torch.tensor(69.8)), ".pth"),
    "a dict of nothing else": (lambda state: {"state_dict": state}, ".bin"),
}


@pytest.mark.parametrize(("form", "suffix"), FORMS.values(), ids=list(FORMS))
def test_forms_of_a_file(form, suffix, resnet18, plain, folder):
    state, expected = plain
    assert any("num_batches_tracked" in key for key in state)
    assert load_pretrained(cleared(resnet18), written(form(state), folder / f"weights{suffix}")) == []
    assert_same_bits(bits(resnet18), expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_become_float32(dtype, suffix, resnet18, plain, folder):
    """With the numbers as they are."""
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in plain[0].items()}
    load_pretrained(resnet18, written({key: tensor.float() for key, tensor in state.items()}, folder / "float32.pth"))
    expected = bits(resnet18)
    assert load_pretrained(cleared(resnet18), written(state, folder / f"weights{suffix}")) == []
    assert_same_bits(bits(resnet18), expected)
    assert {array.dtype for array in bits(resnet18)} == {np.dtype("float32")}


# --- Other heads ---

ONE, TWO, THREE = ["head_logits"], ["head_hidden", "head_logits"], ["head_hidden1", "head_hidden2", "head_logits"]
HEADS = [
    # name, how the model of 32×32 is built, its layers that stay new; the file is of 10 classes, VGG's of 64×96
    ("resnet18", {"classes": 7}, ONE),
    ("resnet18", {"classes": 1000, "hidden": 16}, TWO),
    pytest.param("densenet121", {"classes": 11}, ONE, marks=once),
    pytest.param("densenet121", {"classes": 7, "hidden": 16}, TWO, marks=once),
    ("vgg16", {"classes": 7}, THREE),
    pytest.param("vgg16_bn", {"classes": 7, "hidden": 16}, THREE, marks=once),
]


@pytest.mark.parametrize(("name", "options", "new"), HEADS, ids=str)
def test_a_head_of_other_classes_stays_new(name, options, new, folder):
    """And all else is that of the file."""
    images, state = small(name)
    file = written(state, folder / "weights.pth")
    model, whole = in_keras(name, **options), in_keras(name, images.shape[1:3])
    start = {name: bits(model.get_layer(name)) for name in new}
    assert load_pretrained(whole, file) == []
    assert load_pretrained(model, file) == new
    for layer in filter(lambda layer: layer.weights, model.layers):
        expected = start[layer.name] if layer.name in new else bits(whole.get_layer(layer.name))
        assert_same_bits(bits(layer), expected)


@once
@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("resnet18", {"hidden": 16}, ["head_hidden", "fc.weight"]),
        (
            "vgg16",
            {"image": (64, 96), "hidden": 16},
            ["classifier.0.weight", "classifier.3.weight", "classifier.6.weight"],
        ),
        ("vgg16", {}, ["classifier.0.weight"]),
    ],
    ids=str,
)
def test_another_head_for_the_same_classes_is_refused(name, options, named, folder):
    """The last is the one for 32×32, of a file for 64×96."""
    model, file = in_keras(name, **options), written(small(name)[1], folder / "weights.pth")
    start = bits(model)
    with pytest.raises(InputError) as refused:
        load_pretrained(model, file)
    assert all(name in str(refused.value) for name in named)
    assert_same_bits(bits(model), start)
