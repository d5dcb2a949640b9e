"""SAM and ASAM against a PyTorch program written out here, by hand, and by plain steps of Keras at w and at w + ε."""

import itertools
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch.nn import functional

import kcifar
from kcifar import InputError
from kcifar.augment import MixUp
from kcifar.callbacks import Checkpoint
from kcifar.data import Batches, Split
from kcifar.training import SGD, SharpnessAware

ON_TORCH = keras.backend.backend() == "torch"
KINDS = ["stock", "accelerated"] if ON_TORCH else ["stock"]


@pytest.fixture(autouse=True)
def float32_is_float32(monkeypatch):
    """No TF32 on a GPU: it would round products to 10 bits. XLA compiles quickly, which is most of the time here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if ON_TORCH:
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    with jax.default_matmul_precision("float32"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one_hot(count, classes, seed=2):
    return np.eye(classes, dtype=np.float32)[np.random.default_rng(seed).integers(0, classes, count)]


def copies(variables):
    """Float64 copies: `get_weights` on torch shows the memory of the variables themselves."""
    return [np.array(ops.convert_to_numpy(variable), np.float64) for variable in variables]


def bits(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_same_bits(got, expected):
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"weight {i}")


def crossentropy():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


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


def keras_run(kind, rho, adaptive=False, eta=0.01, l2=5e-4):
    model = keras_net()
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = SharpnessAware(model, rho=rho, adaptive=adaptive, eta=eta)
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
    of_losses, of_weights, of_statistics = differences(keras_run(kind, **case), torch_run(**case))
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


# --- Any model: by plain steps of Keras at w and at w + ε ---

# The gradients of the expectation are read off plain steps of rate 1, w − (w − g), which float32 rounds by 6e-8 of w;
# ε is as exact; the second gradient passes both on. Sums of some ten terms, so 1e-5 of the largest weight is ample.
STEP_TOLERANCE = 1e-5
STEP_SHOWS = 1e-3  # SAM's step must differ by this from a plain one, else the comparison says nothing


class PlainSteps:
    """Gradients of a stock model at any weights, read off Keras's plain SGD of rate 1."""

    def __init__(self, make, loss, batch):
        self.model = make()
        self.batch = batch
        self.model.compile(keras.optimizers.SGD(1.0), loss)
        self.names = [variable.path.split("/")[-1] for variable in self.model.trainable_variables]
        self.losses = []
        # Seeds too: every gradient is taken with the first masks.
        self.start = [np.array(ops.convert_to_numpy(variable)) for variable in self.model.variables]

    def gradients_at(self, values):
        """Of the trainable variables; the model's weights are afterwards as the step left them."""
        for variable, start in zip(self.model.variables, self.start, strict=True):
            variable.assign(start)
        for variable, value in zip(self.model.trainable_variables, values, strict=True):
            variable.assign(value.astype(np.float32))
        before = copies(self.model.trainable_variables)
        self.model.reset_metrics()
        self.losses.append(float(self.model.train_on_batch(**self.batch, return_dict=True)["loss"]))
        return [w - moved for w, moved in zip(before, copies(self.model.trainable_variables), strict=True)]

    def gradients_of_sam(self, values, rho, adaptive=False, eta=0.01):
        """(gradients at w, gradients at w + ε)."""
        self.losses = []
        first = self.gradients_at(values)
        self.after_first = copies(self.model.weights)
        scales = [
            np.abs(w) + eta if adaptive and ("kernel" in name or name == "gamma") else np.ones_like(w)
            for name, w in zip(self.names, values, strict=True)
        ]
        length = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(scales, first, strict=True))) + 1e-12
        worst = [w + rho * t**2 * g / length for w, t, g in zip(values, scales, first, strict=True)]
        return first, self.gradients_at(worst)


def largest_difference(got, expected):
    """Of the largest magnitude in any of the arrays."""
    assert len(got) == len(expected)
    largest = max(np.abs(array).max() for array in expected)
    return max(np.abs(one - other).max() for one, other in zip(got, expected, strict=True)) / largest


def assert_steps(make, loss, batch, tolerance=STEP_TOLERANCE, shows=STEP_SHOWS, **arguments):
    """One step of rate 0.5 of `make()` around which SharpnessAware is put."""
    model = make()
    values = copies(model.trainable_variables)
    plain = PlainSteps(make, loss, batch)
    assert largest_difference(copies(plain.model.variables), copies(model.variables)) == 0, (
        "two models of `make` differ"
    )
    at_w, at_worst = plain.gradients_of_sam(values, **arguments)
    trained = SharpnessAware(model, **arguments)
    trained.compile(keras.optimizers.SGD(0.5), loss)
    logs = trained.train_on_batch(**batch, return_dict=True)
    expected = [w - 0.5 * g for w, g in zip(values, at_worst, strict=True)]
    by_plain = [w - 0.5 * g for w, g in zip(values, at_w, strict=True)]
    assert largest_difference(by_plain, expected) > shows
    assert largest_difference(copies(model.trainable_variables), expected) < tolerance
    for variable, after in zip(model.weights, plain.after_first, strict=True):
        if not variable.trainable:
            # A moving statistic after one step from the same weights: only the order of sums may differ.
            np.testing.assert_allclose(copies([variable])[0], after, rtol=tolerance, atol=tolerance)
    assert float(logs["loss"]) == pytest.approx(plain.losses[0], rel=tolerance)
    assert abs(plain.losses[1] / plain.losses[0] - 1) > shows


def drawn(model, seed=5):
    """The model with every weight drawn anew, moving statistics and seeds as they were."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "moving" not in variable.name and "float" in variable.dtype:
            fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
            variable.assign(rng.normal(size=variable.shape) * fan_in**-0.5 + variable.name.endswith("gamma"))
    return model


def chain(*middle, width=6, classes=3):
    return lambda: drawn(keras.Sequential([keras.Input((width,)), *[make() for make in middle], layers.Dense(classes)]))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="tanh")
        self.norm = layers.BatchNormalization()
        self.last = layers.Dense(3)

    def call(self, x, training=None):
        return self.last(self.norm(self.hidden(x), training=training))


def own():
    """A model whose graph Keras does not know."""
    model = Own()
    model(normal(1, 6))
    return drawn(model)


def noisy():
    """A penalty on a kernel and one on an activation, seeded noise and dropout."""
    penalised = layers.Dense(5, "tanh", kernel_regularizer="l2", activity_regularizer="l2")
    return drawn(
        keras.Sequential(
            [
                keras.Input((6,)),
                layers.GaussianNoise(0.5, seed=3),
                penalised,
                layers.Dropout(0.5, seed=4),
                layers.BatchNormalization(),
                layers.Dense(3),
            ]
        )
    )


def branching():
    """Two inputs and two outputs by name, a layer used twice, a model in the model."""
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    twice = layers.Dense(6, activation="tanh")
    within = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.BatchNormalization()])
    x = layers.Concatenate()([twice(twice(a)), within(b)])
    return drawn(keras.Model({"a": a, "b": b}, {"one": layers.Dense(3)(x), "two": layers.Dense(1)(x)}))


def partly_frozen():
    """A list of two inputs; a layer and a BatchNorm that are not trained."""
    a, b = keras.Input((6,)), keras.Input((4,))
    x = layers.Dense(5, activation="tanh", trainable=False)(layers.Concatenate()([a, b]))
    x = layers.BatchNormalization(trainable=False)(layers.Dense(5, activation="tanh")(x))
    return drawn(keras.Model([a, b], layers.Dense(3)(x)))


def all_kinds():
    """Layers called as other layers' weights are, kernels of other names, a bias of rank 2, halves of BatchNorm."""
    x = keras.Input((4, 4, 2))
    h = layers.DepthwiseConv2D(3, padding="same", activation="tanh", name="bias")(x)
    h = layers.SeparableConv2D(4, 3, padding="same", use_bias=False, activation="tanh", name="gamma")(h)
    h = layers.BatchNormalization(scale=False, name="kernel")(h)
    h = layers.Reshape((2, 8, 4))(h)
    h = layers.GlobalAveragePooling1D()(layers.Reshape((2, 32))(h))
    h = layers.Reshape((8, 4))(h)
    h = layers.EinsumDense("abc,bcd->abd", (8, 2), bias_axes="bd", activation="tanh", name="offset")(h)
    h = layers.BatchNormalization(center=False)(layers.Flatten()(h))
    return drawn(keras.Model(x, layers.Dense(3, name="beta")(h)))


COUNT = 12
X, Y = normal(COUNT, 6, seed=21), one_hot(COUNT, 3, seed=22)
XY = {"x": X, "y": Y}
SECOND = normal(COUNT, 4, seed=23)
HIDDEN_LAYER = (lambda: layers.Dense(5, activation="tanh"),)

MODELS = {
    "noise and penalties": (noisy, crossentropy(), XY | {"sample_weight": np.linspace(0, 3, COUNT)}),
    "branches": (
        branching,
        {"one": crossentropy(), "two": "mean_squared_error"},
        {"x": {"a": X, "b": SECOND}, "y": {"one": Y, "two": Y[:, :1]}},
    ),
    "frozen layers": (
        partly_frozen,
        crossentropy(),
        {"x": [X, SECOND], "y": Y, "class_weight": {0: 3.0, 1: 0.1, 2: 1.0}},
    ),
    "a subclass": (own, crossentropy(), XY),
}


@pytest.mark.parametrize("name", MODELS)
def test_sam_takes_the_gradient_at_the_worst_point_of(name):
    assert_steps(*MODELS[name], rho=0.5)


def test_asam_scales_kernels_and_scales_alone():
    images = {"x": normal(COUNT, 4, 4, 2, seed=24), "y": Y}
    assert_steps(all_kinds, crossentropy(), images, rho=1.0, adaptive=True, eta=0.1)


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.5, epsilon=0.01, global_clipnorm=0.3),
    "sgd": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5), nesterov=True, momentum=0.9, weight_decay=0.1
    ),
    "own_adam": lambda: kcifar.training.Adam(0.05, l2=0.1, epsilon=0.01),
}


@pytest.fixture(scope="module")
def plain_steps():
    return PlainSteps(chain(*HIDDEN_LAYER), crossentropy(), XY)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_the_optimizer_gets_the_gradient_at_the_worst_point(make_optimizer, plain_steps):
    """Three steps; Adam's ε of 0.01 keeps it from passing on the rounding of small gradients whole."""
    model, optimizer = chain(*HIDDEN_LAYER)(), make_optimizer()
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(make_optimizer(), crossentropy())
    ours = [keras.Variable(value) for value in copies(model.trainable_variables)]
    for step in range(3):
        at_w, at_worst = plain_steps.gradients_of_sam(copies(ours), rho=0.5)
        assert largest_difference(at_w, at_worst) > 0.01, "the gradients hardly differ"
        optimizer.apply([ops.convert_to_tensor(g, "float32") for g in at_worst], ours)
        trained.train_on_batch(**XY)
        # Each step adds its own error to those before.
        assert largest_difference(copies(model.trainable_variables), copies(ours)) < (step + 1) * STEP_TOLERANCE


def test_frozen_layers_do_not_change():
    model = chain(*HIDDEN_LAYER, layers.BatchNormalization, *HIDDEN_LAYER)()
    trained = SharpnessAware(model, rho=0.5)
    model.layers[0].trainable = False  # after it was wrapped
    model.layers[1].trainable = False
    trained.compile(SGD(0.1, momentum=0.9, l2=0.1), crossentropy())
    before = [bits(layer) for layer in model.layers]
    trained.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    after = [bits(layer) for layer in model.layers]
    for place in (0, 1):
        assert_same_bits(after[place], before[place])
    for place in (2, 3):
        assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(after[place], before[place], strict=True))


# --- Dropout: the same masks in both passes ---

NOISES = {
    "seeded dropout": lambda: [layers.Dropout(0.5, seed=7)],
    "two dropouts": lambda: [layers.Dropout(0.3), layers.Dropout(0.3)],
    "spatial dropout": lambda: [layers.Reshape((8, 4)), layers.SpatialDropout1D(0.5), layers.Flatten()],
    "noise": lambda: [layers.GaussianNoise(1.0)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))
def test_both_passes_see_the_same_mask_and_the_next_batch_another(noise, kind):
    """A linear model shows both masks: the reported loss is w·z for the first one's z, the update is the second's z."""
    model = keras.Sequential([keras.Input((32,)), *noise(), layers.Dense(1, use_bias=False)])
    model.set_weights([normal(32, 1, seed=31)])
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(1.0), lambda y_true, y_pred: ops.mean(y_pred))
    x, seen = normal(3, 32, seed=32), []
    for _ in range(6):
        (before,) = copies(model.weights)
        trained.reset_metrics()
        loss = float(trained.train_on_batch(x, np.zeros((3, 1), np.float32), return_dict=True)["loss"])
        z = before - copies(model.weights)[0]
        # Sums of 96 terms of size 1 in float32, and z read off weights of size 6: 1e-5. Two masks differ by about 1.
        assert loss == pytest.approx((before * z).sum(), abs=1e-4)
        seen.append((loss, before, z))
    other_masks = [abs(loss - (before * z).sum()) for (loss, before, _), (*_, z) in itertools.pairwise(seen)]
    assert min(other_masks) > 1e-3
    assert np.abs(seen[0][2] - seen[1][2]).max() > 0.1


def with_dropout():
    return chain(*HIDDEN_LAYER, lambda: layers.Dropout(0.5, seed=7), layers.BatchNormalization)()


def test_a_tiny_rho_is_plain_training_with_the_same_masks():
    """ρ = 1e-6 moves gradients of size 1 by some 1e-6; four steps of rate 0.1, so 1e-5. Other masks: far more."""
    runs, plain = [], with_dropout()
    start = bits(plain)
    for model in (SharpnessAware(with_dropout(), rho=1e-6), plain, plain):
        if len(runs) < 2:
            model.compile(SGD(0.1), crossentropy())
        model.set_weights(start)
        for _ in range(4):
            model.train_on_batch(X, Y)
        runs.append(copies(model.weights))
    assert largest_difference(runs[0], runs[1]) < 1e-5
    assert largest_difference(runs[2], runs[1]) > 1e-2  # the same model, whose masks went on


# --- What is reported ---


def reporting(around):
    """A compiled model with a metric of each kind; one that counts shows a pass that is counted twice."""
    trained = around(chain(*HIDDEN_LAYER, layers.BatchNormalization)())
    trained.compile(
        SGD(0.5),
        crossentropy(),
        metrics=["accuracy", keras.metrics.TruePositives(thresholds=0.0, name="hits")],
        weighted_metrics=[keras.metrics.MeanSquaredError()],
    )
    return trained


def assert_same_logs(got, expected):
    # The same sums of the same values, perhaps in another order.
    assert {name: float(value) for name, value in got.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-6
    )


def test_loss_and_metrics_are_those_a_plain_model_has_at_the_same_weights():
    """ρ = 2 makes them quite others in the second pass."""
    sharp, plain = reporting(lambda model: SharpnessAware(model, rho=2.0)), reporting(lambda model: model)
    weights = np.linspace(0.2, 2, COUNT)
    seen = []
    for _ in range(2):
        plain.set_weights(bits(sharp))
        for model in (sharp, plain):
            model.reset_metrics()
        first = slice(0, 6)
        logs = [m.train_on_batch(X[first], Y[first], weights[first], return_dict=True) for m in (sharp, plain)]
        assert_same_logs(*logs)
        seen.append(float(logs[0]["loss"]))
    assert abs(seen[1] / seen[0] - 1) > 0.01  # it does follow the weights
    # A whole epoch at weights that stay.
    plain.set_weights(bits(sharp))
    for model in (sharp, plain):
        model.optimizer.learning_rate = 0.0
    logs = [m.fit(X, Y, batch_size=6, shuffle=False, verbose=0, sample_weight=weights).history for m in (sharp, plain)]
    assert_same_logs(*({name: value for name, (value,) in log.items()} for log in logs))


# --- Use as any model ---


@pytest.fixture(scope="module")
def trained_model():
    """(a model, the same in SharpnessAware, the history of three epochs with validation)."""
    model = chain(*HIDDEN_LAYER, layers.BatchNormalization, lambda: layers.Dropout(0.5, seed=1))()
    trained = SharpnessAware(model, rho=0.1)
    trained.compile(SGD(0.1, momentum=0.9), crossentropy(), metrics=["accuracy"])
    return model, trained, trained.fit(X, Y, 4, epochs=3, validation_data=(X[:8], Y[:8]), verbose=0).history


def test_evaluate_and_validation_are_the_inner_models(trained_model):
    model, trained, history = trained_model
    assert sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert all(len(values) == 3 for values in history.values())
    evaluated = trained.evaluate(X, Y, 4, verbose=0, return_dict=True)
    stock = keras.models.clone_model(model)
    stock.set_weights(bits(model))
    stock.compile(loss=crossentropy(), metrics=["accuracy"])
    assert_same_logs(evaluated, stock.evaluate(X, Y, 4, verbose=0, return_dict=True))
    expected = stock.evaluate(X[:8], Y[:8], 4, verbose=0, return_dict=True)
    assert_same_logs({name: history[f"val_{name}"][-1] for name in expected}, expected)
    assert history["val_loss"][-1] != pytest.approx(float(evaluated["loss"]), rel=1e-3)


def test_predictions_are_the_inner_models(trained_model):
    model, trained, _ = trained_model
    expected = copies([model(ops.convert_to_tensor(X), training=False)])[0]
    called = copies([trained(ops.convert_to_tensor(X), training=False)])[0]
    # The same operations, perhaps fused otherwise.
    np.testing.assert_allclose(trained.predict(X, batch_size=6, verbose=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(called, expected, rtol=1e-5, atol=1e-6)


def test_fit_steps_as_train_on_batch_does():
    """A batch after the other, with weights of samples; on JAX two steps an execution, which Keras has there alone."""
    models, weights = (with_dropout(), with_dropout()), np.linspace(0.5, 2, COUNT)
    fitted, stepped = (SharpnessAware(model, rho=0.5) for model in models)
    fitted.compile(SGD(0.1, momentum=0.9), crossentropy(), steps_per_execution=1 if ON_TORCH else 2)
    fitted.fit(X, Y, batch_size=3, shuffle=False, epochs=2, verbose=0, sample_weight=weights)
    stepped.compile(SGD(0.1, momentum=0.9), crossentropy())
    for _ in range(2):
        for at in range(0, COUNT, 3):
            part = slice(at, at + 3)
            stepped.train_on_batch(X[part], Y[part], sample_weight=weights[part])
    # The same steps; those compiled together may be fused otherwise.
    assert largest_difference(*(copies(model.weights) for model in models)) < STEP_TOLERANCE


# --- With the data, precision and files of kcifar ---


def small_split(count=60):
    """Images of one shade each, one of four by class, under noise."""
    rng = np.random.default_rng(41)
    labels = rng.integers(0, 4, count)
    shades = np.array([[40, 90, 200], [200, 60, 90], [90, 200, 60], [160, 160, 160]])[labels][:, None, None]
    return Split(np.clip(shades + rng.normal(0, 40, (count, 32, 32, 3)), 0, 255).astype(np.uint8), labels, 4)


def image_model():
    """Of 0–255; with moving statistics and a seeded dropout."""
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(layers.AveragePooling2D(16)(layers.Rescaling(1 / 128, -1)(image)))
    x = layers.BatchNormalization(momentum=0.9)(layers.Dense(8, "tanh")(x))
    return drawn(keras.Model(image, layers.Dense(4)(layers.Dropout(0.2, seed=5)(x))))


def test_fit_on_mixed_batches_takes_the_gradients_of_those_batches():
    """An epoch of two batches, stepped by hand on the batches that a second `Batches` gives."""

    def mixed():
        return Batches(Split(split.images, split.labels, 4), 30, [MixUp(0.4)], seed=3)

    def make():
        model = image_model()
        return keras.Model(model.input, model.layers[-1](model.layers[-3].output))  # without dropout

    split, model = small_split(), make()
    expected, plain = copies(model.trainable_variables), PlainSteps(make, crossentropy(), {})
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(0.5), crossentropy())
    trained.fit(mixed(), shuffle=False, verbose=0)
    batches = mixed()
    for step in range(len(batches)):
        x, y = batches[step]
        assert ((copies([y])[0] > 0).sum(1) > 1).any(), "no label is mixed"
        plain.batch = {"x": x, "y": y}
        at_w, at_worst = plain.gradients_of_sam(expected, rho=0.5)
        assert largest_difference(at_w, at_worst) > 0.01
        expected = [w - 0.5 * g for w, g in zip(expected, at_worst, strict=True)]
    assert largest_difference(copies(model.trainable_variables), expected) < 2 * STEP_TOLERANCE  # two steps


def falls(trained, epochs=5):
    history = trained.fit(Batches(small_split(), 30, seed=1), shuffle=False, epochs=epochs, verbose=0).history["loss"]
    return np.isfinite(history).all() and history[-1] < 0.7 * history[0]


def test_a_model_in_bfloat16_trains():
    model = kcifar.models.build("tutorial_net", classes=4, mean=[0.5] * 3, std=[0.25] * 3, precision="bfloat16", seed=1)
    trained = SharpnessAware(model, rho=0.05)
    trained.compile(SGD(0.05, momentum=0.9), crossentropy())
    assert falls(trained, epochs=8)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


def policy_model(policy):
    """A function that makes a small model of this policy, whose logits are float32."""

    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((6,))
            hidden = layers.BatchNormalization()(layers.Dense(5, activation="tanh")(x))
            return drawn(keras.Model(x, layers.Dense(3, dtype="float32")(hidden)))
        finally:
            keras.config.set_dtype_policy(before)

    return make


# Products are rounded to 8 bits (bfloat16) or 11 (float16); ε reaches them through kernels of as many bits, where one
# that lies near the middle of two values may fall to the other side.
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 1e-2), ("mixed_float16", 2e-3)])
def test_in_mixed_precision_the_gradient_is_that_at_the_worst_point(policy, tolerance):
    assert_steps(policy_model(policy), crossentropy(), XY, tolerance=tolerance, shows=5 * tolerance, rho=2.0)


def scaled(optimizer, **arguments):
    return keras.optimizers.LossScaleOptimizer(optimizer, **arguments)


def test_a_model_in_float16_trains_and_an_overflow_changes_no_weight_and_halves_the_scale():
    """As in a plain model: targets of 1e5 make gradients that float16, which ends at 65504, cannot hold."""
    counters = []
    for around in (lambda model: SharpnessAware(model, rho=0.05), lambda model: model):
        model = policy_model("mixed_float16")()
        trained = around(model)
        trained.compile(SGD(0.1, momentum=0.9, l2=1e-3), "mean_squared_error")
        assert isinstance(trained.optimizer, keras.optimizers.LossScaleOptimizer)
        first = float(trained.train_on_batch(X, Y, return_dict=True)["loss"])
        assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
        start = copies(model.trainable_variables)
        scale = float(trained.optimizer.dynamic_scale)
        trained.train_on_batch(X, 1e5 * Y)
        assert_same_bits(copies(model.trainable_variables), start)
        assert float(trained.optimizer.dynamic_scale) == scale / 2
        for _ in range(20):
            trained.reset_metrics()
            last = float(trained.train_on_batch(X, Y, return_dict=True)["loss"])
        assert last < 0.5 * first
        counters.append([float(ops.convert_to_numpy(v)) for v in trained.optimizer.variables if not v.shape])
    assert counters[0] == counters[1], "counters and scales of the optimizer differ from a plain model's"


def test_an_overflow_in_either_pass_changes_no_weight():
    """A unit of one input of 1, target 0: g = 2·w, at w + 100 it is 2·(w + 100); by 2¹⁵ float16 holds 2 at most."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    finally:
        keras.config.set_dtype_policy(before)
    trained = SharpnessAware(model, rho=100.0)
    trained.compile(SGD(1e-4), keras.losses.MeanSquaredError(reduction="sum"))
    trained.optimizer.build(model.trainable_variables)
    batch = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    for start in (5.0, 0.5):  # only the first overflows in the first pass
        model.set_weights([np.full((1, 1), start)])
        trained.optimizer.dynamic_scale.assign(2.0**15)
        trained.train_on_batch(*batch)
        np.testing.assert_array_equal(model.get_weights()[0], np.float32(start))
        assert float(trained.optimizer.dynamic_scale) == 2.0**14
        for _ in range(10):
            trained.train_on_batch(*batch)
        # Six more halvings, until 2·105·2⁸ is below 65504, and four steps.
        assert float(trained.optimizer.dynamic_scale) == 2.0**8
        expected = start
        for _ in range(4):
            expected -= 1e-4 * 2 * (expected + 100)
        # Each moves by 0.02, of a gradient and a weight of 11 bits: 2e-5.
        assert model.get_weights()[0].item() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def three_steps():
    """A function: (losses, weights) of three steps of ASAM under a loss scale, under no loss scale for None."""
    make = chain(*HIDDEN_LAYER, layers.BatchNormalization)
    start, models = bits(make()), {}
    for name, optimizer in (("plain", SGD(0.1, l2=0.01)), ("scaled", scaled(SGD(0.1, l2=0.01)))):
        models[name] = SharpnessAware(make(), rho=0.5, adaptive=True)
        models[name].compile(optimizer, crossentropy())
        optimizer.build(models[name].trainable_variables)

    def steps(scale):
        trained = models["scaled" if scale else "plain"]
        trained.set_weights(start)
        if scale:
            trained.optimizer.dynamic_scale.assign(scale)
        trained.reset_metrics()
        losses = [float(trained.train_on_batch(X, Y, return_dict=True)["loss"]) for _ in range(3)]
        return losses, copies(trained.weights)

    return steps


# 2¹⁰⁰ is one whose square float32 cannot hold, though nothing in the steps of a plain model overflows at it.
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**15, 2.0**30, 2.0**100], ids="{:.3g}".format)
def test_a_loss_scale_does_not_change_the_steps(scale, three_steps):
    """A power of two changes no bit of a gradient: only the norm's 1e-12 could feel it, or another order of sums."""
    (losses, weights), (of_scale, under_scale) = three_steps(None), three_steps(scale)
    assert of_scale == pytest.approx(losses, rel=1e-6)
    assert largest_difference(under_scale, weights) < 1e-6


def test_a_loss_scale_does_not_change_the_step_of_a_tiny_gradient():
    """g = 2e-9·(0.6, 0.8)·w: the 1e-12 beside its norm counts for 5e-4, in the loss's own units."""
    moved = []
    for optimizer in (SGD(1e8), scaled(SGD(1e8), initial_scale=2.0**15)):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
        model.set_weights([np.float32([[0.0], [0.0]])])
        trained = SharpnessAware(model, rho=1.0)
        trained.compile(optimizer, lambda y_true, y_pred: 1e-9 * ops.mean(ops.square(y_pred - y_true)))
        trained.train_on_batch(np.float32([[0.6, 0.8]]), np.float32([[1.0]]))
        moved.append(copies(model.weights)[0].ravel())
    # r = −1, ‖g‖ = 2e-9, ε = −(0.6, 0.8)/(1 + 5e-4), the residual there is −1 − 1/1.0005, and w = 0.2·1.9995·x
    expected = 0.2 * (1 + 1 / 1.0005) * np.array([0.6, 0.8])
    np.testing.assert_allclose(moved[0], expected, rtol=1e-5)  # without the 1e-12 it is 2.5e-4 more
    np.testing.assert_allclose(moved[1], expected, rtol=1e-5)


class CopyAfter(keras.callbacks.Callback):
    """Copies the folder as a run leaves it that is killed in the epoch after `epochs`."""

    def __init__(self, epochs, folder, to):
        super().__init__()
        self.epochs, self.folder, self.to = epochs, folder, to

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            shutil.copytree(self.folder, self.to)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """ASAM, momentum, a loss scale that grows, dropout, moving statistics, MixUp."""
    split = small_split()

    def run(folder, resume=False):
        """(variables of the model and of the optimizer, logs) after the fourth epoch."""
        model = image_model()
        trained = SharpnessAware(model, rho=0.5, adaptive=True)
        optimizer = scaled(SGD(0.1, momentum=0.9, l2=1e-3), initial_scale=32.0, dynamic_growth_steps=4)
        trained.compile(optimizer, crossentropy(), metrics=["accuracy"])
        checkpoint, batches = Checkpoint(folder, "val_accuracy"), Batches(split, 20, [MixUp(0.4)], seed=9)
        batches.epoch = done = checkpoint.resume(trained) if resume else 0
        assert done == (2 if resume else 0)
        history = trained.fit(
            batches,
            shuffle=False,
            epochs=4,
            initial_epoch=done,
            validation_data=Batches(split, 20, shuffle=False),
            callbacks=[checkpoint, CopyAfter(2, folder, tmp_path / "killed")],
            verbose=0,
        ).history
        variables = [*model.variables, *(v for v in trained.optimizer.variables if v.name != "learning_rate")]
        return [np.array(ops.convert_to_numpy(variable)) for variable in variables], history

    whole, logs = run(tmp_path / "whole")
    resumed, later = run(tmp_path / "killed", resume=True)
    assert_same_bits(resumed, whole)
    assert later == {name: values[2:] for name, values in logs.items()}
    best, again = (keras.saving.load_model(tmp_path / folder / "best.keras") for folder in ("whole", "killed"))
    assert_same_bits(again.get_weights(), best.get_weights())
    assert_stock(tmp_path / "whole" / "best.keras")


# --- What is saved ---


def classes_in(path):
    """Every (module, class) that a .keras file names."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    found, open_ = set(), [config]
    while open_:
        part = open_.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                found.add((part.get("module"), part.get("registered_name") or part["class_name"]))
            open_ += part.values()
        elif isinstance(part, list):
            open_ += part
    return found


def assert_stock(path):
    found = classes_in(path)
    assert ("keras.layers", "Dense") in found
    assert all(module is None or module.split(".")[0] in ("keras", "builtins") for module, _ in found), found
    assert not any("kcifar" in name or "Sharpness" in name for _, name in found), found


SAVES = {
    "save": (SGD, lambda trained, path: trained.save(path)),
    "save, Keras's optimizer": (keras.optimizers.Adam, lambda trained, path: trained.save(path)),
    "a callback": (
        SGD,
        lambda trained, path: trained.fit(X, Y, COUNT, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)]),
    ),
}


@pytest.mark.parametrize(("optimizer", "save"), SAVES.values(), ids=list(SAVES))
def test_what_is_saved_is_the_inner_model(optimizer, save, tmp_path):
    model = with_dropout()
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(optimizer(0.1), crossentropy())
    if ON_TORCH:  # on JAX it would be compiled once more
        trained.train_on_batch(X, Y)
    save(trained, tmp_path / "model.keras")
    assert_stock(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    assert_same_bits(loaded.get_weights(), model.get_weights())
    ours, theirs = (copies([one(ops.convert_to_tensor(X), training=False)])[0] for one in (model, loaded))
    np.testing.assert_array_equal(theirs, ours)


def test_weights_saved_are_the_inner_models_and_can_be_loaded_by_either(tmp_path):
    model = with_dropout()
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    trained = SharpnessAware(model, rho=0.5)
    trained.compile(SGD(0.1), crossentropy())
    trained.save_weights(tmp_path / "some.weights.h5")
    stock = with_dropout()
    assert largest_difference(copies(stock.weights), copies(model.weights)) > 1e-3
    stock.load_weights(tmp_path / "some.weights.h5")
    assert_same_bits(stock.get_weights(), model.get_weights())
    stock.save_weights(tmp_path / "stock.weights.h5")
    again = with_dropout()
    SharpnessAware(again).load_weights(tmp_path / "stock.weights.h5")
    assert_same_bits(again.get_weights(), model.get_weights())


# --- What cannot be ---


def linear():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3)])


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"rho": 0}, "0"),
        ({"rho": -0.05}, "-0.05"),
        ({"rho": float("nan")}, "nan"),
        ({"rho": float("inf")}, "inf"),
        ({"rho": 0.5, "adaptive": True, "eta": -0.01}, "-0.01"),
        ({"rho": 0.5, "adaptive": True, "eta": float("nan")}, "nan"),
        ({"rho": 0.5, "adaptive": True, "eta": float("inf")}, "inf"),
        ({"eta": -0.5}, "-0.5"),
    ],
    ids=str,
)
def test_an_argument_outside_its_range_is_refused(arguments, received):
    with pytest.raises(InputError) as caught:
        SharpnessAware(linear(), **arguments)
    assert "\n" not in str(caught.value)
    assert received in str(caught.value).replace("−", "-")
    assert list(arguments)[-1] in str(caught.value)


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_eta_of_zero_is_allowed(adaptive):
    SharpnessAware(linear(), rho=0.5, adaptive=adaptive, eta=0)


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (lambda: keras.Sequential([layers.Dense(2)], name="unfinished"), "unfinished"),
        (Own, "own"),
        (lambda: "resnet20", "resnet20"),
        (lambda: None, "None"),
        (lambda: layers.Dense(2), "Dense"),
        (lambda: keras.Model, "Model"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
    ids=["unbuilt Sequential", "unbuilt subclass", "a name", "None", "a layer", "the class", "a torch module"],
)
def test_what_is_no_built_model_is_refused(model, received):
    with pytest.raises(InputError) as caught:
        SharpnessAware(model())
    assert "\n" not in str(caught.value)
    assert received in str(caught.value)


def test_a_model_without_trainable_weights_is_refused_when_it_is_trained():
    model = linear()
    model.trainable = False
    trained = SharpnessAware(model)
    trained.compile(SGD(0.1), crossentropy())
    with pytest.raises(InputError, match=model.name):
        trained.train_on_batch(X, Y)
    with pytest.raises(InputError, match="trainable"):
        trained.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(0.1, gradient_accumulation_steps=4),
        lambda: keras.optimizers.Adam(gradient_accumulation_steps=4),
        lambda: scaled(SGD(0.1, gradient_accumulation_steps=4)),
        lambda: keras.optimizers.serialize(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)),
    ],
    ids=["SGD", "Adam", "under a loss scale", "a config"],
)
def test_an_optimizer_that_accumulates_gradients_is_refused(optimizer):
    trained = SharpnessAware(linear())
    with pytest.raises(InputError, match="gradient_accumulation_steps") as caught:
        trained.compile(optimizer(), crossentropy())
    assert "4" in str(caught.value)
    assert "\n" not in str(caught.value)
