"""`kcifar.accelerate`: what people do with a model on torch beside `fit` gives what it gives on stock Keras."""

import functools
import warnings

import keras
import numpy as np
import pytest
import torch
from keras import layers
from safetensors.torch import save_file

import kcifar
from kcifar.training import SGD, Adam
from tests.accelerate_twins import (
    TOLERANCE,
    array_of,
    assert_same_array,
    assert_same_weights,
    filled,
    nested,
    net,
    normal,
    sequential,
    sgd,
    subclassed,
    twins,
)

pytestmark = pytest.mark.once

SHAPE = (8, 8, 4)


def cnn():
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    logits = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(image, logits, name="cnn")


def images(count=5):
    return torch.from_numpy(normal(count, *SHAPE))


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert_same_array(array_of(one), array_of(other))


# --- What watches ---

HOOKS = {
    "forward": lambda layer, seen: layer.register_forward_hook(lambda *_: seen.append(("forward", layer.name))),
    "before": lambda layer, seen: layer.register_forward_pre_hook(lambda *_: seen.append(("before", layer.name))),
    "backward": lambda layer, seen: layer.register_full_backward_hook(lambda *_: seen.append(("backward", layer.name))),
    "before backward": lambda layer, seen: layer.register_full_backward_pre_hook(
        lambda *_: seen.append(("before backward", layer.name))
    ),
}


def calls_seen(model, hook, layers_of):
    seen = []
    handles = [hook(layer, seen) for layer in layers_of(model)]
    model(images().requires_grad_(), training=False).sum().backward()
    model.compile(sgd(), "mse")
    model.train_on_batch(images(), np.zeros((5, 3)))
    for handle in handles:
        handle.remove()
    model.train_on_batch(images(), np.zeros((5, 3)))
    return seen


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of images that need no gradient
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("layers_of", [lambda m: m.layers[1:], lambda m: [m], lambda m: m.layers[3:4]], ids=range(3))
def test_hooks_are_called(hook, layers_of):
    stock, fast = twins(cnn)
    expected = calls_seen(stock, hook, layers_of)
    assert len(expected) >= 2
    assert calls_seen(fast, hook, layers_of) == expected
    assert_same_weights(fast, stock)


def test_a_hook_on_all_modules_is_called():
    def names(model):
        seen = []
        handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module.name))
        model(images())
        handle.remove()
        return seen

    stock, fast = twins(cnn)
    assert "relu" in names(stock)
    assert names(fast) == names(stock)


def test_a_hook_may_change_what_a_layer_gives():
    found = []
    for model in twins(cnn):
        model.get_layer("norm").register_forward_hook(lambda layer, inputs, output: output * 2)
        found.append(model(images()))
    assert_same([found[1]], [found[0]])


def test_gradients_are_there_after_a_step():
    found = []
    for model in twins(cnn):
        model.compile(sgd(), "mse")
        model.train_on_batch(images(), np.zeros((5, 3)))
        found.append([variable.value.grad for variable in model.trainable_variables])
    assert_same(found[1], found[0])


# --- Gradients of other kinds ---


def with_maps(of="conv"):
    model = cnn()
    return keras.Model(model.input, [model.get_layer(of).output, model.output])


@pytest.mark.parametrize("of", ["conv", "norm", "relu", "pool"])
def test_the_gradient_of_a_logit_by_what_a_model_gives_too(of):
    """As Grad-CAM takes it."""
    found = []
    for model in twins(functools.partial(with_maps, of)):
        maps, logits = model(images())
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), maps)
        found.append([maps, logits, gradient])
    assert_same(found[1], found[0])


@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives(training):
    """Of a penalty on the gradient by the images, as in WGAN-GP, by the weights and by the images."""
    found = []
    for model in twins(cnn):
        x = images().requires_grad_()
        first = torch.autograd.grad(torch.tanh(model(x, training=training)).square().sum(), x, create_graph=True)
        weights = [variable.value for variable in model.trainable_variables]
        penalty = first[0].square().sum()
        found.append([*first, *torch.autograd.grad(penalty, [*weights, x], materialize_grads=True)])
    assert any(np.abs(array_of(gradient)).max() > 1e-3 for gradient in found[0][1:])
    for one, other in zip(found[1], found[0], strict=True):
        largest = max(np.abs(array_of(other)).max(), 0.1 * np.abs(array_of(found[0][-1])).max())
        assert np.abs(array_of(one) - array_of(other)).max() <= TOLERANCE * largest


def normalised():
    mean, std = (0.4,) * 4, (0.2,) * 4
    return kcifar.models.build("elu_cnn", classes=3, input_shape=(8, 8, 4), mean=mean, std=std, resize=12)


@pytest.mark.parametrize("training", [False, True])
def test_inference_mode_leaves_nothing_behind(training):
    found = []
    for model in twins(normalised):
        with torch.inference_mode():
            model(images(), training=False)
        x = images().requires_grad_()
        out = model(x, training=training) if training else model(x, training=False)
        found.append(torch.autograd.grad(out[:, 0].sum(), x) if not training else [])
        model.compile(sgd(), "mse")
        model.train_on_batch(images(), np.zeros((5, 3)))
    assert_same(found[1], found[0])


def outcome(function):
    """What a function gives; or the kind of error, which stock Keras may have as well."""
    try:
        return function()
    except Exception as error:
        return type(error)


FUNC = {
    "vmap": lambda model: torch.vmap(lambda x: model(x[None], training=False)[0])(images()),
    "vmap in training": lambda model: torch.vmap(lambda x: model(x[None], training=True)[0])(images()),
    "grad": lambda model: torch.func.grad(lambda x: model(x, training=False).sum())(images()),
    "grad in training": lambda model: torch.func.grad(lambda x: model(x, training=True).square().sum())(images()),
    "jvp": lambda model: torch.func.jvp(lambda x: model(x, training=True), (images(),), (images(),))[1],
    "functional_call": lambda model: torch.func.functional_call(
        model, {name: 2 * tensor for name, tensor in model.named_parameters()}, (images(),)
    ),
    "forward-mode": lambda model: forward_mode(model),
}


def forward_mode(model):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(images(), images())
        return torch.autograd.forward_ad.unpack_dual(model(dual, training=False)).tangent


@pytest.mark.parametrize("function", FUNC.values(), ids=FUNC)
def test_functions_of_torch_func(function):
    expected, got = (outcome(lambda model=model: function(model)) for model in twins(cnn))
    if torch.is_tensor(expected):
        assert_same([got], [expected])
    else:
        assert got is expected


# --- What wraps and what takes the weights ---


def test_a_compiled_step(monkeypatch):
    """`jit_compile=True`, with what torch.compile traces but not what it makes of it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))

    def make():
        return keras.Sequential([keras.Input((4,)), layers.Dense(3)])

    for optimizer in (functools.partial(SGD, momentum=0.9), Adam):
        logs = []
        for model, compiled in zip(twins(make), (False, True), strict=True):
            model.compile(optimizer(1e-2), "mse", jit_compile=compiled)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about itself
                logs.append([float(model.train_on_batch(normal(5, 4), np.zeros((5, 3)))) for _ in range(3)])
            torch._dynamo.reset()
        np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5)


@pytest.mark.parametrize("make", [cnn, net, sequential, nested, subclassed], ids=lambda make: make.__name__)
def test_weights_lie_in_memory_as_in_stock(make):
    stock, fast = twins(make)
    kept = [[variable.value.stride() for variable in model.variables] for model in (stock, fast)]
    assert kept[0] == kept[1]


def lbfgs(model):
    optimizer = torch.optim.LBFGS([variable.value for variable in model.trainable_variables], max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model(images(), training=False).square().sum()
        loss.backward()
        return loss

    return [optimizer.step(closure), *[variable.value for variable in model.trainable_variables]]


def test_what_takes_all_weights_as_one(tmp_path):
    stock, fast = twins(cnn)
    vectors = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in (fast, stock)]
    assert torch.equal(*vectors)
    for name, model in (("stock", stock), ("fast", fast)):
        save_file(model.state_dict(), tmp_path / name)
    assert (tmp_path / "fast").read_bytes() == (tmp_path / "stock").read_bytes()
    assert_same(lbfgs(fast), lbfgs(stock))


def test_large_kernels_have_the_same_gradients_twice():
    """Those are copied to the memory that torch's convolutions read, the others are not."""

    def make():
        image = keras.Input((6, 6, 48))
        x = layers.Conv2D(64, 3, strides=2, name="conv")(image)
        return filled(keras.Model(image, layers.Conv2D(32, 3, padding="same", dilation_rate=2)(x)))

    found = []
    for model in twins(make):
        x = torch.from_numpy(normal(2, 6, 6, 48)).requires_grad_()
        weights = [variable.value for variable in model.trainable_variables]
        first = torch.autograd.grad(model(x).square().sum(), [x, *weights], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *weights])
        found.append([*first, *second])
    assert_same(found[1], found[0])
