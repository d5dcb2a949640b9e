"""Partly frozen models against a PyTorch program written out here, and by hand."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import kcifar
from kcifar import InputError
from kcifar.callbacks import WeightEMA
from kcifar.models import build, freeze, unfreeze
from kcifar.training import SGD, Adam, SharpnessAware
from tests.callbacks.test_weight_ema import recurrence
from tests.sharpness_steps import KINDS, ON_TORCH, assert_same_bits, bits, copies, crossentropy, normal, one_hot

pytestmark = pytest.mark.usefixtures("quick_compilation")

# --- The net in Keras and in PyTorch ---

STEPS, BATCH, SIDE, CHANNELS, CLASSES, RHO = 3, 8, 8, 2, 3, 0.1  # STEPS of an epoch
BLOCKS = {"stem_conv": ("stem_norm", 4), "layer1_conv1": ("layer1_norm1", 3), "layer2_conv1": ("layer2_norm1", 5)}
NEVER = float("inf")
X, Y = normal(STEPS * BATCH, SIDE, SIDE, CHANNELS, seed=31), one_hot(STEPS * BATCH, CLASSES, seed=32)
ALL_KINDS = [*KINDS, "SAM"]
ONCE_FOR_SAM = [*KINDS, pytest.param("SAM", marks=pytest.mark.once)]

# The reference runs in float64, so that all error is ours. Gradients in float32 are wrong by some 1e-7 of their largest
# terms, which Adam passes on at the size of its rate, and a step rounds the weights by 6e-8: 1e-5 for a dozen steps.
TOLERANCE = 1e-5  # of the largest magnitude of the tensor
WRONG_BY = 50 * TOLERANCE  # what a wrong reference differs by at least

RATES = {"SGD": 0.05, "nesterov": 0.05, "Adam": 0.01}
OURS = {
    "SGD": lambda rate: SGD(rate, momentum=0.9, l2=0.05),
    "nesterov": lambda rate: SGD(rate, momentum=0.8, nesterov=True, l2=0.05),
    "Adam": lambda rate: Adam(rate, l2=0.05),
}
TORCHS = {
    "SGD": lambda weights: torch.optim.SGD(weights, 1.0, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda weights: torch.optim.SGD(weights, 1.0, momentum=0.8, nesterov=True, weight_decay=0.05),
    "Adam": lambda weights: torch.optim.Adam(weights, weight_decay=0.05),
}


def group_of(path):
    return path.split("_")[0]


def net(dropout=0.0):
    """Of 72 + 8, 108 + 6, 135 + 10 and 63 weights in its four groups; smooth, and no weight in it is 0 or 1."""
    x = image = keras.Input((SIDE, SIDE, CHANNELS))
    for conv, (norm, filters) in BLOCKS.items():
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=conv)(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(x)
        x = layers.Activation("elu", name=f"{group_of(conv)}_elu")(x)
    x = layers.Flatten(name="head_flat")(layers.AveragePooling2D(4, name="head_pool")(x))
    x = layers.Dropout(dropout, seed=5, name="head_dropout")(x) if dropout else x
    model = keras.Model(image, layers.Dense(CLASSES, name="head_logits")(x))
    rng = np.random.default_rng(33)
    for variable in model.weights:
        spread = rng.normal(size=variable.shape) * 2 * np.prod(variable.shape[:-1]) ** -0.5
        drawn = spread if variable.name == "kernel" else rng.uniform(0.3, 1.2, variable.shape)
        variable.assign(drawn.astype(np.float32))
    return model


def of_kind(kind, model):
    return {"stock": lambda m: m, "accelerated": kcifar.accelerate, "SAM": lambda m: SharpnessAware(m, RHO)}[kind](
        model
    )


def compiled(model, optimizer="SGD", rate=None):
    model.compile(OURS[optimizer](rate or RATES[optimizer]), crossentropy())
    return model


def by_path(model):
    """Float64 copies of weights and moving statistics."""
    return dict(zip([v.path for v in model.weights], copies(model.weights), strict=True))


def fit(model, epochs=1, first=0, **arguments):
    """The losses of the epochs."""
    order = {"batch_size": BATCH, "shuffle": False, "epochs": epochs, "initial_epoch": first, "verbose": 0}
    return model.fit(X, Y, **order | arguments).history["loss"]


class Loop:
    """A training in PyTorch; frozen weights require no gradient, and frozen BatchNorm is in `eval()`.

    Args:
        trained_from: {group: the epoch, counted from 0, from which it is trained}; others are from the first.
        rate: the learning rate by step, where it changes.
    """

    def __init__(self, optimizer, trained_from, rho=0.0, rate=None):
        self.values = {path: torch.tensor(value) for path, value in by_path(net()).items()}
        self.weights = {path: value for path, value in self.values.items() if "moving" not in path}
        self.stepper = TORCHS[optimizer](list(self.weights.values()))
        self.trained_from, self.rho, self.rate = trained_from, rho, rate or (lambda step: RATES[optimizer])

    def run(self, epochs):
        """(values by path at the start and after each step, losses of the epochs)."""
        seen, losses = [self.numpy()], []
        for epoch in range(epochs):
            self.begin(epoch, [group for group, first in self.trained_from.items() if epoch < first])
            for i in range(STEPS):
                part = slice(i * BATCH, (i + 1) * BATCH)
                x, y = (torch.tensor(array[part]).double() for array in (X, Y))
                self.stepper.param_groups[0]["lr"] = self.rate(epoch * STEPS + i)
                losses.append(self.step(x.permute(0, 3, 1, 2), y))
                seen.append(self.numpy())
        return seen, np.mean(np.reshape(losses, (epochs, STEPS)), axis=1)

    def begin(self, epoch, frozen):
        self.frozen = frozen
        for path, weight in self.weights.items():
            weight.requires_grad_(group_of(path) not in frozen)
            weight.grad = None

    def step(self, x, y):
        trained, moved = {path: w for path, w in self.weights.items() if w.requires_grad}, {}
        loss = self.loss(trained, x, y, moved)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        if self.rho:
            length, worst = self.rho / self.norm_in_epsilon(gradients, x, y), {}
            for (path, w), g in zip(trained.items(), gradients, strict=True):
                worst[path] = (w + length * g).detach().requires_grad_()
            gradients = torch.autograd.grad(self.loss(worst, x, y, {}), list(worst.values()))
        for weight, gradient in zip(trained.values(), gradients, strict=True):
            weight.grad = gradient
        self.stepper.step()
        for path, now in moved.items():
            self.values[path].mul_(0.9).add_(0.1 * now)
        return loss.item()

    def loss(self, weights, x, y, moved):
        values = self.values | weights
        for conv, (norm, _) in BLOCKS.items():
            x = functional.conv2d(x, values[f"{conv}/kernel"].permute(3, 2, 0, 1), padding=1)
            mean, variance = f"{norm}/moving_mean", f"{norm}/moving_variance"
            if self.moves(norm):
                moved |= {mean: x.detach().mean((0, 2, 3)), variance: x.detach().var((0, 2, 3), unbiased=False)}
            used = (None, None) if self.takes_the_batch(norm) else (values[mean], values[variance])
            scale, offset = values[f"{norm}/gamma"], values[f"{norm}/beta"]
            x = functional.elu(functional.batch_norm(x, *used, scale, offset, self.takes_the_batch(norm), eps=1e-5))
        x = functional.avg_pool2d(x, 4).permute(0, 2, 3, 1).flatten(1)
        logits = x @ values["head_logits/kernel"] + values["head_logits/bias"]
        return -(y * functional.log_softmax(logits, 1)).sum(1).mean()

    def takes_the_batch(self, norm):
        return group_of(norm) not in self.frozen

    def moves(self, norm):
        return group_of(norm) not in self.frozen

    def norm_in_epsilon(self, gradients, x, y):
        return sum((g**2).sum() for g in gradients) ** 0.5

    def numpy(self):
        return {path: value.detach().numpy().copy() for path, value in self.values.items()}


def difference(got, expected):
    """Largest of any tensor, of its largest magnitude."""
    assert got.keys() == expected.keys()
    return max(np.abs(got[path] - expected[path]).max() / np.abs(expected[path]).max() for path in expected)


# --- Training ---

FROZEN = {
    "stem and layer1": ("stem", "layer1"),
    "layer1": ("layer1",),
    "all but the head": ("stem", "layer1", "layer2"),
}
ON_BOTH = {("SGD", "stock", "stem and layer1"), ("Adam", "SAM", "stem and layer1"), ("SGD", "stock", "layer1")}
CASES = [  # JAX would compile each
    pytest.param(*case, marks=[] if case in ON_BOTH else pytest.mark.once)
    for case in itertools.product(["SGD", "Adam"], ALL_KINDS, FROZEN)
]


@pytest.mark.parametrize(("optimizer", "kind", "names"), CASES)
def test_an_epoch_is_that_of_pytorch_and_what_is_frozen_stays_to_the_bit(optimizer, kind, names):
    """BatchNorm behind frozen layers trains on; a layer in front of frozen ones gets its gradient through them."""
    model, frozen = of_kind(kind, net()), FROZEN[names]
    start = by_path(model)
    freeze(model, frozen)
    losses, after = fit(compiled(model, optimizer)), by_path(model)
    expected, of_epochs = Loop(optimizer, dict.fromkeys(frozen, NEVER), RHO if kind == "SAM" else 0).run(1)
    assert difference(after, expected[-1]) < TOLERANCE
    assert losses == pytest.approx(of_epochs, rel=TOLERANCE)
    for path, value in start.items():
        assert np.array_equal(after[path], value) == (group_of(path) in frozen), path


def all_trained(self, epoch, frozen):
    Loop.begin(self, epoch, [])


def kernels_alone_are_frozen(self, epoch, frozen):
    Loop.begin(self, epoch, frozen)
    for path, weight in self.weights.items():
        weight.requires_grad_(weight.requires_grad or not path.endswith("kernel"))


def frozen_get_a_gradient_of_zero(self, epoch, frozen):
    Loop.begin(self, epoch, frozen)
    for weight in self.weights.values():
        weight.grad = None if weight.requires_grad else torch.zeros_like(weight)


def norm_of_all(self, gradients, x, y):
    every = {path: w.detach().clone().requires_grad_() for path, w in self.weights.items()}
    return Loop.norm_in_epsilon(self, torch.autograd.grad(self.loss(every, x, y, {}), list(every.values())), x, y)


def yes(self, norm):
    return True


def no(self, norm):
    return False


WRONG = {
    "nothing is frozen": {"begin": all_trained},
    "kernels alone are frozen": {"begin": kernels_alone_are_frozen},
    "BatchNorm is not": {"takes_the_batch": yes, "moves": yes},
    "BatchNorm takes the batch": {"takes_the_batch": yes},
    "statistics move": {"moves": yes},
    "all BatchNorm is frozen": {"takes_the_batch": no, "moves": no},
    "L2 moves frozen weights": {"begin": frozen_get_a_gradient_of_zero},
    "frozen weights are in the norm of ε": {"norm_in_epsilon": norm_of_all},
}


@pytest.mark.once
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(wrong, optimizer):
    """So the comparison above would see each of these mistakes."""
    arguments = optimizer, dict.fromkeys(FROZEN["stem and layer1"], NEVER), RHO if "norm_in_epsilon" in wrong else 0
    wrong = type("Wrong", (Loop,), wrong)(*arguments).run(1)[0][-1]
    assert difference(wrong, Loop(*arguments).run(1)[0][-1]) > WRONG_BY


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_frozen_after_an_epoch_stays_from_then_on(kind):
    """The step that was compiled with all trained is not used again."""
    model = compiled(of_kind(kind, net()))
    fit(model)
    freeze(model, ["stem", "layer1"])
    start, unchanged = by_path(model), {"stem", "layer1"}
    fit(model)
    for path, value in by_path(model).items():
        assert np.array_equal(value, start[path]) == (group_of(path) in unchanged), path


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_with_every_batchnorm_frozen_training_mode_is_inference(kind):
    model, x = of_kind(kind, net()), ops.convert_to_tensor(X)
    assert np.abs(copies([model(x, training=True)])[0] - copies([model(x, training=False)])[0]).max() > 0.1
    freeze(model, ["stem", "layer1", "layer2"])
    assert_same_bits(copies([model(x, training=True)]), copies([model(x, training=False)]))


def test_unfrozen_again_it_trains_as_if_never_frozen():
    never, model = compiled(net(), "Adam"), net()
    freeze(model, ["stem", "layer2"])
    unfreeze(compiled(model, "Adam"), ["layer2", "stem"])
    fit(never)
    fit(model)
    assert_same_bits(bits(model), bits(never))


def frozen_by(*steps):
    """A model that was accelerated, compiled, wrapped and frozen in this order."""
    model = net()
    for step in steps:
        if step == "freeze":
            freeze(model, ["stem", "layer1"])
        elif step == "freeze inside":
            freeze(model.model, ["stem", "layer1"])
        else:
            model = {"accelerate": kcifar.accelerate, "wrap": SharpnessAware, "compile": compiled}[step](model)
    return model


ORDERS = {
    "plain": [("freeze", "compile"), ("compile", "freeze")],
    "accelerated": list(itertools.permutations(["accelerate", "compile", "freeze"])),
    "SAM": [
        ("freeze", "wrap", "compile"),
        ("wrap", "freeze", "compile"),
        ("wrap", "compile", "freeze"),
        ("wrap", "compile", "freeze inside"),
    ][:: 1 if ON_TORCH else 3],  # JAX compiles each
}


@pytest.mark.parametrize("orders", [pytest.param(ORDERS[n], id=n) for n in ORDERS if ON_TORCH or n != "accelerated"])
def test_the_order_of_compile_accelerate_and_freeze_does_not_matter(orders):
    trained = []
    for order in orders:
        model = frozen_by(*order)
        fit(model)
        trained.append(bits(model))
    for order, found in zip(orders[1:], trained[1:], strict=True):
        assert_same_bits(found, trained[0]), order


@pytest.mark.parametrize("kind", ONCE_FOR_SAM)
def test_weight_ema_leaves_what_is_frozen_to_the_bit_and_averages_the_rest(kind):
    model = of_kind(kind, net())
    start = by_path(model)
    freeze(model, ["stem", "layer1"])
    fit(compiled(model), callbacks=[WeightEMA(0.5)])
    steps, _ = Loop("SGD", {"stem": NEVER, "layer1": NEVER}, RHO if kind == "SAM" else 0).run(1)
    expected = recurrence([list(values.values()) for values in steps], 0.5)[-1]
    after = by_path(model)
    assert difference(after, dict(zip(steps[0], expected, strict=True))) < TOLERANCE
    assert all(np.array_equal(after[path], start[path]) for path in start if group_of(path) in ("stem", "layer1"))


@pytest.mark.parametrize("kind", ONCE_FOR_SAM)
def test_a_saved_model_predicts_the_same(kind, tmp_path):
    model = of_kind(kind, net())
    freeze(model, ["stem", "layer1"])
    fit(compiled(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_same_bits(bits(loaded), bits(model))
    # The accelerated model computes the same in another order.
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


# --- No backward pass ---


class Counted(TorchDispatchMode):
    """How many convolutions torch computes: outputs, and gradients of images and of kernels."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten.convolution.default:
            self.count += 1
        if function is torch.ops.aten.convolution_backward.default:
            self.count += sum(arguments[-1][:2])
        return function(*arguments, **options or {})


def convolutions_of_a_step(model):
    x, y = X[:BATCH], Y[:BATCH]
    if ON_TORCH:
        model.train_on_batch(x, y)  # Keras builds what is not built
        with Counted() as counted:
            model.train_on_batch(x, y)
        return counted.count
    import jax

    model.optimizer.build(model.trainable_variables)
    parts = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables
    state = tuple([variable.value for variable in variables] for variables in parts)
    return str(jax.make_jaxpr(model.train_step)(state, (x, y))).count("conv_general_dilated[")


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("groups", "convolutions"),
    [
        ((), 3 + 3 + 2),  # forward, kernels, and images but the first
        (("stem",), 3 + 2 + 1),
        (("stem", "layer1"), 3 + 1 + 0),
        (("stem", "layer1", "layer2"), 3 + 0 + 0),
        (("layer1",), 3 + 2 + 2),
        (("layer2", "head"), 3 + 2 + 2),
    ],
)
def test_a_step_computes_no_gradient_for_what_is_frozen(groups, convolutions, kind):
    model = of_kind(kind, net())
    freeze(model, groups)
    assert convolutions_of_a_step(compiled(model)) == convolutions * (2 if kind == "SAM" else 1)


def leaves(node, seen):
    """The tensors that a backward pass from this node of PyTorch's graph reaches."""
    if node is None or node in seen:
        return []
    seen.add(node)
    reached = itertools.chain(*(leaves(after, seen) for after, _ in node.next_functions))
    return [node.variable, *reached] if hasattr(node, "variable") else list(reached)


@pytest.mark.once
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_torchs_graph_reaches_the_trained_weights_alone(kind):
    model, x = of_kind(kind, net()), ops.convert_to_tensor(X)
    frozen, all_weights = ["stem", "layer1", "layer2"], model.trainable_variables
    freeze(model, frozen)
    assert [v.value.requires_grad for v in all_weights] == [group_of(v.path) not in frozen for v in all_weights]
    reached = {id(tensor) for tensor in leaves(model(x, training=True).grad_fn, set())}
    assert reached == {id(v.value) for v in model.trainable_variables}
    assert len(reached) == 2
    unfreeze(model, frozen)
    assert len(leaves(model(x, training=True).grad_fn, set())) == len(all_weights) == 11


# --- Counts, names, refusals ---


def test_counts_by_hand():
    model = net()
    assert freeze(model, ["stem", "layer1"]) == (402, 402 - 80 - 114)
    assert freeze(model, ["layer1", "stem"]) == (208, 208)
    assert unfreeze(model, "stem") == (208, 288)
    assert freeze(model, ("layer2", "layer2")) == (288, 288 - 145)
    assert unfreeze(model, ["layer1", "layer1", "layer2", "head"]) == (143, 402)
    assert unfreeze(model, ["stem"]) == (402, 402)
    assert freeze(model, ()) == (402, 402)
    assert freeze(SharpnessAware(model), "head") == (402, 402 - 63)
    assert freeze(kcifar.accelerate(model), "stem") == (339, 259)


@pytest.mark.once
def test_counts_of_networks_by_hand():
    # 3·3·3·16 + 2·16 in the stem, 3·2·(3·3·16·16 + 2·16) in layer1; ResNet-20 has 269,722 weights.
    assert freeze(build("resnet20"), ["stem", "layer1"]) == (269722, 269722 - 464 - 14016)
    # 3·3·3·64 + 2·64, 2·2·(3·3·64·64 + 2·64); ResNet-18 has 11,173,962 for 10 classes of small images.
    assert freeze(build("resnet18", stem="cifar"), ["stem", "layer1"]) == (11173962, 11173962 - 1856 - 147968)


@pytest.mark.once
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_frozen_groups_of_a_network_stay_to_the_bit(precision, kind):
    model = build("resnet20", classes=CLASSES, input_shape=(SIDE, SIDE, CHANNELS), precision=precision)
    model, start = of_kind(kind, model), by_path(model)
    freeze(model, ["stem", "layer1", "layer2"])
    fit(compiled(model))
    for path, value in by_path(model).items():
        assert np.array_equal(value, start[path]) == (group_of(path) not in ("layer3", "head")), path


# What is asked for, and the names or words that the refusal must hold.
REFUSED = {
    "an unknown group": (["stem", "layer11"], ["layer11", "layer1"]),
    "an unknown name": ("heat", ["heat", "head"]),
    "everything": (["stem", "layer1", "layer2", "head"], []),
    "an empty name": ("", []),
}


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(("groups", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_is_refused_and_changes_nothing(groups, said, kind):
    model = of_kind(kind, net())
    freeze(model, "layer2")
    for change in [freeze, unfreeze] if said else [freeze]:
        with pytest.raises(InputError) as caught:
            change(model, groups)
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in said)
        assert freeze(model, ()) == (257, 257)


def test_the_last_group_left_is_not_frozen():
    model = net()
    freeze(model, ["stem", "layer1"])
    freeze(model, ["layer2"])
    with pytest.raises(InputError):
        freeze(model, ["head"])
    assert unfreeze(model, ()) == (63, 63)
