"""SAM and ASAM against a PyTorch program written out here, and by hand."""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn import functional

import kcifar
from kcifar.training import SGD, SharpnessAware
from tests.sharpness_steps import (
    KINDS,
    copies,
    crossentropy,
    normal,
    one_hot,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# --- Against PyTorch ---

STEPS, BATCH, SIDE, CHANNELS, FILTERS, HIDDEN, CLASSES = 30, 16, 6, 2, 4, 5, 3
RATE, MOMENTUM = 0.02, 0.9

# The reference runs in float64, so that all error is ours. In each of 30 steps float32 rounds the weights once (6e-8 of
# them) and gets gradients wrong by some 1e-7 of their largest terms; ε, a quotient of those, is as exact. With smooth
# layers and small steps nothing makes that grow: 30 × 1e-7 if all went one way, and little more than that is allowed.
TOLERANCE = 5e-6  # of the largest magnitude of the tensor
WRONG_BY = 200 * TOLERANCE  # what a wrong reference differs by at least

CASES = {
    "SAM": {"rho": 0.05},
    "SAM far": {"rho": 0.5, "l2": 0.05},
    "ASAM": {"rho": 0.5, "adaptive": True, "eta": 0.01},
    "ASAM without η": {"rho": 0.5, "adaptive": True, "eta": 0.0},
}

# In the order of Keras: convolution, BatchNorm, hidden layer, BatchNorm, logits.
SHAPES = {
    "conv/kernel": (3, 3, CHANNELS, FILTERS),
    "conv/bias": (FILTERS,),
    "norm1/gamma": (FILTERS,),
    "norm1/beta": (FILTERS,),
    "hidden/kernel": (SIDE // 2 * SIDE // 2 * FILTERS, HIDDEN),
    "hidden/bias": (HIDDEN,),
    "norm2/gamma": (HIDDEN,),
    "norm2/beta": (HIDDEN,),
    "logits/kernel": (HIDDEN, CLASSES),
    "logits/bias": (CLASSES,),
}
STATISTICS = {"norm1": FILTERS, "norm2": HIDDEN}


def drawn_start():
    """(trainable values by name, moving statistics by name), with no 0 and no 1 among them."""
    rng = np.random.default_rng(11)
    start = {}
    for name, shape in SHAPES.items():
        spread = rng.normal(size=shape) * (np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.2)
        start[name] = np.float32(spread + name.endswith("gamma"))
    moving = {
        f"{norm}/moving_{what}": np.float32(rng.uniform(0.3, 1.2, width))
        for norm, width in STATISTICS.items()
        for what in ("mean", "variance")
    }
    return start, moving


def drawn_batches():
    rng = np.random.default_rng(12)
    return [(normal(BATCH, SIDE, SIDE, CHANNELS, seed=rng), one_hot(BATCH, CLASSES, seed=rng)) for _ in range(STEPS)]


def torch_loss(weights, x, y, moving=None):
    """(the loss, mean and biased variance of the batch by the names of the moving statistics).

    With `moving` statistics in inference mode, without in training mode.
    """
    seen = {}

    def normed(x, norm):
        mean, variance = f"{norm}/moving_mean", f"{norm}/moving_variance"
        seen[mean] = x.detach().mean((0, *range(2, x.ndim)))
        seen[variance] = x.detach().var((0, *range(2, x.ndim)), unbiased=False)
        used = (moving[mean], moving[variance]) if moving else (None, None)
        scale, offset = weights[f"{norm}/gamma"], weights[f"{norm}/beta"]
        return functional.batch_norm(x, *used, scale, offset, training=not moving, eps=1e-5)

    x = functional.conv2d(
        x.permute(0, 3, 1, 2), weights["conv/kernel"].permute(3, 2, 0, 1), weights["conv/bias"], padding=1
    )
    x = functional.avg_pool2d(normed(functional.elu(x), "norm1"), 2)
    x = x.permute(0, 2, 3, 1).flatten(1) @ weights["hidden/kernel"] + weights["hidden/bias"]
    logits = normed(torch.tanh(x), "norm2") @ weights["logits/kernel"] + weights["logits/bias"]
    return -(y * functional.log_softmax(logits, 1)).sum(1).mean(), seen


def derived(weights, x, y, moving=None):
    """(loss, gradients, statistics of the batch) at these weights."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    loss, seen = torch_loss(leaves, x, y, moving)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return loss.item(), dict(zip(leaves, gradients, strict=True)), seen


def norm_of(values):
    return sum((value**2).sum() for value in values) ** 0.5


def sam(weights, g, rho, **_):
    length = norm_of(g.values()) + 1e-12
    return {name: rho * g[name] / length for name in g}


def asam(weights, g, rho, eta, scaled=("kernel", "gamma"), power=2, norm_power=1, **_):
    t = {name: w.abs() + eta if name.endswith(scaled) else torch.ones_like(w) for name, w in weights.items()}
    length = norm_of([t[name] ** norm_power * g[name] for name in g]) + 1e-12
    return {name: rho * t[name] ** power * g[name] / length for name in g}


def torch_run(
    rho, adaptive=False, eta=0.01, l2=5e-4, epsilon=None, counted=(1,), reported=1, before=None, second_trains=True
):
    """(losses, trainable values, moving statistics) after all batches, in float64.

    The last five are for wrong references: another ε, the passes whose statistics count, the one whose loss is
    reported, `before(parameters, ε)` the descent, and a second pass in inference mode.
    """
    start, moving = ({name: torch.tensor(value).double() for name, value in part.items()} for part in drawn_start())
    weights = {name: value.requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.SGD(weights.values(), RATE, momentum=MOMENTUM, weight_decay=l2)
    losses = []
    for x, y in drawn_batches():
        x, y = torch.tensor(x).double(), torch.tensor(y).double()
        first = derived(weights, x, y)
        with torch.no_grad():
            chosen = epsilon or (asam if adaptive else sam)
            step = chosen(weights, first[1], rho=rho, eta=eta, l2=l2)
            worst = {name: w + step[name] for name, w in weights.items()} if step else weights
        second = derived(worst, x, y, None if second_trains else moving)
        for number, (loss, _, seen) in enumerate((first, second), start=1):
            if number == reported:
                losses.append(loss)
            if number in counted:
                moving = {name: 0.9 * moving[name] + 0.1 * seen[name] for name in moving}
        for name, w in weights.items():
            w.grad = second[1][name]
        if before:
            with torch.no_grad():
                before(weights, step)
        optimizer.step()
    return (
        np.array(losses),
        {n: w.detach().numpy() for n, w in weights.items()},
        {n: v.numpy() for n, v in moving.items()},
    )


def keras_net():
    image = keras.Input((SIDE, SIDE, CHANNELS))
    x = layers.Conv2D(FILTERS, 3, padding="same", activation="elu", name="conv")(image)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm1")(x)
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Dense(HIDDEN, activation="tanh", name="hidden")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm2")(x)
    model = keras.Model(image, layers.Dense(CLASSES, name="logits")(x))
    start, moving = drawn_start()
    for variable in model.weights:
        variable.assign((start | moving)[variable.path])
    return model


def keras_run(kind, around, l2=5e-4):
    """(losses, trainable values, moving statistics) of `around(model)` after all batches."""
    model = keras_net()
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = around(model)
    trained.compile(SGD(RATE, momentum=MOMENTUM, l2=l2), crossentropy())
    losses = []
    for x, y in drawn_batches():
        trained.reset_metrics()
        losses.append(float(trained.train_on_batch(x, y, return_dict=True)["loss"]))
    found = {variable.path: array for variable, array in zip(model.weights, copies(model.weights), strict=True)}
    return np.array(losses), {n: found[n] for n in SHAPES}, {n: v for n, v in found.items() if "moving" in n}


def differences(got, expected):
    """Largest difference of (losses, weights, statistics), each of the largest magnitude of its tensor."""

    def of_tensors(one, other):
        assert one.keys() == other.keys()
        return max(np.abs(one[name] - other[name]).max() / np.abs(other[name]).max() for name in other)

    of_losses = (np.abs(got[0] - expected[0]) / expected[0]).max()
    return of_losses, of_tensors(got[1], expected[1]), of_tensors(got[2], expected[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_weight_statistic_and_loss_of_thirty_steps_is_that_of_pytorch(case, kind):
    arguments = {name: value for name, value in case.items() if name != "l2"}
    found = keras_run(kind, lambda model: SharpnessAware(model, **arguments), case.get("l2", 5e-4))
    of_losses, of_weights, of_statistics = differences(found, torch_run(**case))
    assert of_losses < TOLERANCE
    assert of_weights < TOLERANCE
    assert of_statistics < TOLERANCE


def apart(weights, g, rho, **_):
    return {name: rho * g[name] / (norm_of([g[name]]) + 1e-12) for name in g}


def with_l2(weights, g, rho, l2, **_):
    return sam(weights, {name: g[name] + l2 * weights[name] for name in g}, rho)


def kernels_only(weights, g, rho, **_):
    return sam(weights, {name: g[name] * name.endswith("kernel") for name in g}, rho)


def penalised_at_the_worst_point(weights, step):
    for name, w in weights.items():
        w.grad += 0.05 * step[name]


def not_restored(weights, step):
    for name, w in weights.items():
        w += step[name]


WRONG = {
    # name: (case, what is wrong, which of losses, weights, statistics it shows in)
    "plain SGD": ("SAM", {"epsilon": lambda *_, **__: {}}, 1),
    "ε downhill": ("SAM", {"epsilon": lambda w, g, rho, **_: sam(w, g, -rho)}, 1),
    "ε not normalised": ("SAM", {"epsilon": lambda w, g, rho, **_: {n: rho * v for n, v in g.items()}}, 1),
    "a norm for each variable": ("SAM", {"epsilon": apart}, 1),
    "no ε of biases and BatchNorm": ("SAM", {"epsilon": kernels_only}, 1),
    "L2 inside ε": ("SAM far", {"epsilon": with_l2}, 1),
    "L2 of the worst point": ("SAM far", {"before": penalised_at_the_worst_point}, 1),
    "the second pass in inference mode": ("SAM", {"second_trains": False}, 1),
    "weights not restored": ("SAM", {"before": not_restored}, 1),
    "statistics of both passes": ("SAM", {"counted": (1, 2)}, 2),
    "statistics of the second pass": ("SAM", {"counted": (2,)}, 2),
    "no statistics": ("SAM", {"counted": ()}, 2),
    "the second pass's loss": ("SAM", {"reported": 2}, 0),
    "ASAM with T = 1": ("ASAM", {"epsilon": sam}, 1),
    "ASAM with T of everything": ("ASAM", {"epsilon": lambda *a, **k: asam(*a, scaled=("",), **k)}, 1),
    "ASAM with T of kernels only": ("ASAM", {"epsilon": lambda *a, **k: asam(*a, scaled=("kernel",), **k)}, 1),
    "ASAM with T of offsets": (
        "ASAM",
        {"epsilon": lambda *a, **k: asam(*a, scaled=("kernel", "gamma", "beta"), **k)},
        1,
    ),
    "ASAM with T of biases": (
        "ASAM",
        {"epsilon": lambda *a, **k: asam(*a, scaled=("kernel", "gamma", "bias"), **k)},
        1,
    ),
    "ASAM with T in place of T²": ("ASAM", {"epsilon": lambda *a, **k: asam(*a, power=1, **k)}, 1),
    "ASAM with the norm of g": ("ASAM", {"epsilon": lambda *a, **k: asam(*a, norm_power=0, **k)}, 1),
    "ASAM with the norm of T²g": ("ASAM", {"epsilon": lambda *a, **k: asam(*a, norm_power=2, **k)}, 1),
    "ASAM with η forgotten": ("ASAM", {"eta": 0.0}, 1),
    "ASAM with η regardless": ("ASAM without η", {"eta": 0.01}, 1),
}


@pytest.mark.once
@pytest.mark.parametrize(("case", "wrong", "shows"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(case, wrong, shows):
    """So the comparison above would see each of these mistakes."""
    of_each = differences(torch_run(**CASES[case] | wrong), torch_run(**CASES[case]))
    assert of_each[shows] > WRONG_BY


# --- By hand ---


def unit_by_hand(weights, inputs, target, use_bias=False, **arguments):
    """What the weights of a linear unit become in one step of rate 0.01 on (inputs, target) by mean squared error."""
    model = keras.Sequential([keras.Input((len(inputs),)), layers.Dense(1, use_bias=use_bias)])
    kernel = np.float32(weights[: len(inputs)])[:, None]
    model.set_weights([kernel, np.float32(weights[len(inputs) :])] if use_bias else [kernel])
    trained = SharpnessAware(model, **arguments)
    trained.compile(SGD(0.01), "mean_squared_error")
    trained.train_on_batch(np.float32([inputs]), np.float32([[target]]))
    return np.concatenate([weight.ravel() for weight in copies(model.weights)])


# Float32 rounds each figure by 6e-8 of it, a handful of times: 1e-6 of it.
def test_sam_by_hand():
    # wx = 3 + 8, the residual is 5, g = 2·5·(3, 4), ‖g‖ = 50, ε = ½·(0.6, 0.8)
    # (1.3, 2.4)·x = 3.9 + 9.6, the residual is 7.5, so w = (1, 2) − 0.01·2·7.5·(3, 4)
    assert unit_by_hand([1, 2], [3, 4], 6, rho=0.5) == pytest.approx([0.55, 1.4], rel=1e-6)


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_sam_of_one_weight_goes_uphill_by_rho(weight):
    # g = 2·(w − 0), so ε = ρ·sign(w) whatever the size of g, and w − 0.01·2·(w + ε)
    moved = unit_by_hand([weight], [1], 0, rho=0.25)
    assert moved == pytest.approx([weight - 0.01 * 2 * (weight + 0.25 * weight)], rel=1e-6)


def test_asam_by_hand():
    # |w| = (1, 2), wx = −3 + 4, the residual is 5, g = 2·5·(3, 2), ‖|w|·g‖ = ‖(30, 40)‖ = 50, ε = ½·(30, 80)/50
    # (−0.7, 2.8)·x = −2.1 + 5.6, the residual is 7.5, so w = (−1, 2) − 0.01·2·7.5·(3, 2)
    moved = unit_by_hand([-1, 2], [3, 2], -4, rho=0.5, adaptive=True, eta=0.0)
    assert moved == pytest.approx([-1.45, 1.7], rel=1e-6)


def test_eta_by_hand():
    # |w| + 1 = (1, 2), wx = 2, the residual is 5; g and ε as above
    # (0.3, 1.8)·x = 0.9 + 3.6, the residual is 7.5, so w = (0, 1) − 0.01·2·7.5·(3, 2)
    moved = unit_by_hand([0, 1], [3, 2], -3, rho=0.5, adaptive=True, eta=1.0)
    assert moved == pytest.approx([-0.45, 0.7], rel=1e-6)


def test_a_bias_is_not_scaled_by_hand():
    # T = (2, 1), wx + b = 0.75 + 0.25, the residual is 5, g = 10·(0.375, 1), ‖T·g‖ = ‖(7.5, 10)‖ = 12.5,
    # ε = ½·(15, 10)/12.5 = (0.6, 0.4); 2.6·0.375 + 0.65 = 1.625, the residual is 5.625
    moved = unit_by_hand([2, 0.25], [0.375], -4, use_bias=True, rho=0.5, adaptive=True, eta=0.0)
    assert moved == pytest.approx([2 - 0.01 * 11.25 * 0.375, 0.25 - 0.01 * 11.25], rel=1e-6)


def test_asam_leaves_a_weight_of_zero_where_it_is_in_the_first_pass():
    # T = (0, 2): ε = (0, ½·2) whatever g is; at (0, 3) the residual is 6 − 1, so w = (0, 2) − 0.01·2·5·(1, 2)
    moved = unit_by_hand([0, 2], [1, 2], 1, rho=0.5, adaptive=True, eta=0.0)
    assert moved == pytest.approx([-0.1, 1.8], rel=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_of_zero_leaves_the_weights(adaptive):
    """0/(0 + 1e-12) is 0, no NaN."""
    moved = unit_by_hand([1, 2], [3, 4], 11, rho=0.5, adaptive=adaptive)
    np.testing.assert_array_equal(moved, [1, 2])


def test_the_default_is_sam_with_a_rho_of_a_twentieth():
    # As in the first test: ε = 0.05·(0.6, 0.8), the residual is 5 + 0.25
    assert unit_by_hand([1, 2], [3, 4], 6) == pytest.approx([1 - 0.105 * 3, 2 - 0.105 * 4], rel=1e-6)


def test_the_default_eta_is_a_hundredth():
    # |w| + 0.01 = (1, 2), all else as in ASAM above: (−0.69, 2.79)·x = −2.07 + 5.58; target 5 below (−0.99, 1.99)·x
    moved = unit_by_hand([-0.99, 1.99], [3, 2], 1.01 - 5, rho=0.5, adaptive=True)
    assert moved == pytest.approx([-0.99 - 0.45, 1.99 - 0.3], rel=1e-6)
