"""SGD and Adam against torch.optim, by hand, inside fit, over a save and a load; and the arguments they refuse."""

import keras
import numpy as np
import pytest
import torch
from keras import ops

import kcifar
from kcifar.training import SGD, Adam

STEPS = 250
SHAPES = ((3, 3, 2, 4), (6, 5), (7,), (1,))

# The reference runs in float64, so that all error is ours: float32 rounds the weight once a step, 6e-8 of it at most
# (250 of them: 1.5e-5 if all went one way, about 1e-6 as a random walk), and lr, β and the powers of β once, 6e-8.
TOLERANCE = 5e-6  # of the largest value that a weight of the variable has had

SGD_CASES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "l2": 0.05},
    {"momentum": 0.8, "nesterov": True, "l2": 0.05},
    {"l2": 0.05},
]
ADAM_CASES = [{}, {"l2": 0.05}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3, "l2": 1e-3}, {"beta_1": 0.0}]


def values(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def torch_arguments(arguments):
    """The same settings under PyTorch's names."""
    renamed = {"l2": "weight_decay", "epsilon": "eps"}
    wanted = {renamed.get(key, key): value for key, value in arguments.items() if not key.startswith("beta")}
    if any(key.startswith("beta") for key in arguments):
        wanted["betas"] = (arguments.get("beta_1", 0.9), arguments.get("beta_2", 0.999))
    return wanted


def assert_follows(optimizer, reference_of, weight_scales, gradient_scales, rates):
    """Both walk `len(rates)` steps along the same gradients; every variable agrees at every 25th step."""
    rng = np.random.default_rng(7)
    starts = [(s * rng.normal(size=n)).astype(np.float32) for s, n in zip(weight_scales, SHAPES, strict=True)]
    ours = [keras.Variable(start) for start in starts]
    theirs = [torch.tensor(start, dtype=torch.float64, requires_grad=True) for start in starts]
    reference = reference_of(theirs)
    largest = [np.abs(start).max() for start in starts]
    for step, rate in enumerate(rates, start=1):
        # Within a variable too, the gradients of a step spread over four powers of ten.
        gradients = [
            (scale * 10 ** rng.uniform(-3, 1, shape) * rng.normal(size=shape)).astype(np.float32)
            for scale, shape in zip(gradient_scales, SHAPES, strict=True)
        ]
        optimizer.learning_rate = rate
        reference.param_groups[0]["lr"] = rate
        for their, gradient in zip(theirs, gradients, strict=True):
            their.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in gradients], ours)
        reference.step()
        expected = [their.detach().numpy() for their in theirs]
        largest = [max(seen, np.abs(now).max()) for seen, now in zip(largest, expected, strict=True)]
        if step % 25 == 0:
            for i, our in enumerate(ours):
                error = np.abs(values(our) - expected[i]).max() / largest[i]
                assert error < TOLERANCE, f"step {step}, variable {i}: {error:.2g}"


@pytest.mark.parametrize("arguments", SGD_CASES, ids=str)
def test_sgd_is_torchs_sgd(arguments):
    scales = (1e-6, 1e-2, 1.0, 1e4)  # weights of the gradients' own size, so that no rounding of w hides a step
    assert_follows(
        SGD(0.01, **arguments),
        lambda weights: torch.optim.SGD(weights, 0.01, **torch_arguments(arguments)),
        scales,
        scales,
        [0.01] * STEPS,
    )


@pytest.mark.parametrize("arguments", ADAM_CASES, ids=str)
def test_adam_is_torchs_adam(arguments):
    assert_follows(
        Adam(0.01, **arguments),
        lambda weights: torch.optim.Adam(weights, 0.01, **torch_arguments(arguments)),
        (1.0, 1.0, 1.0, 1.0),
        (1e-8, 1e-5, 1.0, 1e4),  # the first is of the size of ε: shows its value and its place
        [0.01] * STEPS,
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_sgd_while_the_learning_rate_changes(nesterov):
    scales = (1e-6, 1e-2, 1.0, 1e4)
    assert_follows(
        SGD(0.01, momentum=0.9, nesterov=nesterov, l2=1e-3),
        lambda weights: torch.optim.SGD(weights, 0.01, momentum=0.9, nesterov=nesterov, weight_decay=1e-3),
        scales,
        scales,
        10 ** np.random.default_rng(1).uniform(-4, -1.5, STEPS),
    )


def test_adam_is_torchs_adam_while_the_learning_rate_changes():
    assert_follows(
        Adam(0.01, l2=1e-3),
        lambda weights: torch.optim.Adam(weights, 0.01, weight_decay=1e-3),
        (1.0, 1.0, 1.0, 1.0),
        (1e-8, 1e-5, 1.0, 1e4),
        10 ** np.random.default_rng(1).uniform(-4, -1.5, STEPS),
    )


def weights_after(optimizer, start, gradients):
    weight = keras.Variable(np.float32([start]))
    reached = []
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(np.float32([gradient]))], [weight])
        reached.append(float(values(weight)[0]))
    return reached


# By hand the result is rounded a few times in float32 at most: 1e-6.
def test_sgd_by_hand():
    # g = 3 + ½·2 = 4, v = 4, w = 2 − 0.4;  g = 1 + ½·1.6 = 1.8, v = 3.6 + 1.8 = 5.4, w = 1.6 − 0.54
    assert weights_after(SGD(0.1, momentum=0.9, l2=0.5), 2.0, [3.0, 1.0]) == pytest.approx([1.6, 1.06], rel=1e-6)


def test_nesterov_by_hand():
    # g = 4, v = 4, w = 2 − 0.1·(4 + 3.6);  g = 1 + 0.62 = 1.62, v = 3.6 + 1.62 = 5.22, w = 1.24 − 0.1·(1.62 + 4.698)
    optimizer = SGD(0.1, momentum=0.9, nesterov=True, l2=0.5)
    assert weights_after(optimizer, 2.0, [3.0, 1.0]) == pytest.approx([1.24, 0.6082], rel=1e-6)


def test_adam_by_hand():
    # g = 3 + ½·2 = 4, m = 2, v = 4, m̂ = 2/½ = 4, v̂ = 4/¼ = 16, w = 2 − 0.1·4/(4 + 1)
    # g = 1 + 0.96 = 1.96, m = 1.98, v = 3.9604 = 1.99², m̂ = 1.98/0.75 = 2.64, √v̂ = 1.99/√0.4375
    second = 1.92 - 0.1 * 2.64 / (1.99 / 0.4375**0.5 + 1)
    optimizer = Adam(0.1, l2=0.5, beta_1=0.5, beta_2=0.75, epsilon=1.0)
    assert weights_after(optimizer, 2.0, [3.0, 1.0]) == pytest.approx([1.92, second], rel=1e-6)


def test_adams_first_step_is_the_learning_rate():
    # m̂/√v̂ = g/|g|, so exactly lr; 1 − 0.999 taken in float32 alone would be off by 5e-5.
    assert weights_after(Adam(0.1), 0.0, [3.0]) == pytest.approx([-0.1], rel=1e-6)


def test_the_velocity_does_not_hold_the_learning_rate():
    optimizer = SGD(0.1, momentum=0.9)
    weight = keras.Variable(np.float32([1.0]))
    gradient = ops.convert_to_tensor(np.float32([1.0]))
    optimizer.apply([gradient], [weight])
    optimizer.learning_rate = 0.0
    optimizer.apply([gradient], [weight])
    assert values(weight) == pytest.approx([0.9], rel=1e-6)  # Keras's own would go on by 0.09
    optimizer.learning_rate = 1.0
    optimizer.apply([gradient], [weight])
    assert values(weight) == pytest.approx([0.9 - 2.71], rel=1e-6)  # v = 0.9·(0.9 + 1) + 1


def test_a_schedule_is_read_at_the_steps_counted_from_0():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 10.0, 100.0])
    assert weights_after(SGD(schedule), 0.0, [1.0, 1.0, 1.0]) == pytest.approx([-1, -11, -111])


def linear_model(optimizer):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    model.compile(optimizer=optimizer, loss="mean_squared_error")
    return model


def regression(images=24):
    rng = np.random.default_rng(4)
    return rng.normal(size=(images, 4)).astype(np.float32), rng.normal(size=(images, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: SGD(0.05, momentum=0.9, l2=0.1), lambda w: torch.optim.SGD(w, 0.05, momentum=0.9, weight_decay=0.1)),
        (lambda: Adam(0.05, l2=0.1), lambda w: torch.optim.Adam(w, 0.05, weight_decay=0.1)),
    ],
    ids=["SGD", "Adam"],
)
def test_fit_trains_as_a_torch_loop_does(ours, theirs):
    """Kernel and bias after 12 steps of a linear model: the penalty falls on the bias too."""
    model, (x, y) = linear_model(ours()), regression()
    kernel, bias = (torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in model.get_weights())
    model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    optimizer = theirs([kernel, bias])
    for _ in range(4):
        for i in range(0, 24, 8):
            optimizer.zero_grad()
            inputs, targets = torch.tensor(x[i : i + 8]).double(), torch.tensor(y[i : i + 8]).double()
            ((inputs @ kernel + bias - targets) ** 2).mean().backward()
            optimizer.step()
    for ours_now, expected in zip(model.get_weights(), (kernel, bias), strict=True):
        # Gradients in float32 are wrong by 1e-7 of their largest term, which Adam passes on whole: 12 steps, 1e-5.
        np.testing.assert_allclose(ours_now, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.05, momentum=0.9, nesterov=True, l2=0.1),
        lambda: SGD(0.05),
        lambda: Adam(0.05, l2=0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-4),
    ],
    ids=["nesterov", "plain SGD", "Adam"],
)
def test_a_saved_model_goes_on_as_if_never_saved(make, tmp_path):
    (x, y), kept = regression(), linear_model(make())
    for _ in range(5):
        kept.train_on_batch(x, y)
    kept.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(kept.optimizer)
    assert int(loaded.optimizer.iterations) == 5
    for _ in range(5):
        kept.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    for here, there in zip(kept.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.05, momentum=0.9, nesterov=True, l2=0.1),
        Adam(0.05, l2=0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-4),
    ],
    ids=["SGD", "Adam"],
)
def test_a_config_makes_the_same_optimizer(optimizer):
    config = optimizer.get_config()
    again = type(optimizer).from_config(config)
    assert again.get_config() == config
    assert weights_after(again, 2.0, [3.0, 1.0]) == weights_after(type(optimizer).from_config(config), 2.0, [3.0, 1.0])
    through_keras = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(through_keras) is type(optimizer)
    assert weights_after(through_keras, 2.0, [3.0, 1.0]) == weights_after(optimizer, 2.0, [3.0, 1.0])


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (SGD, {"learning_rate": -0.1}),
        (SGD, {"learning_rate": 0.1, "momentum": -0.9}),
        (SGD, {"learning_rate": 0.1, "l2": -1e-3}),
        (SGD, {"learning_rate": 0.1, "nesterov": True}),
        (SGD, {"learning_rate": float("nan")}),
        (Adam, {"learning_rate": -0.1}),
        (Adam, {"learning_rate": 0.1, "l2": -1e-3}),
        (Adam, {"learning_rate": 0.1, "beta_1": 1.0}),
        (Adam, {"learning_rate": 0.1, "beta_1": -0.1}),
        (Adam, {"learning_rate": 0.1, "beta_2": 1.0}),
        (Adam, {"learning_rate": 0.1, "beta_2": -0.1}),
        (Adam, {"learning_rate": 0.1, "epsilon": -1e-8}),
        (Adam, {"learning_rate": 0.1, "l2": float("nan")}),
    ],
)
def test_an_argument_outside_its_range_is_refused(make, arguments):
    with pytest.raises(kcifar.InputError) as caught:
        make(**arguments)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert list(arguments)[-1] in str(caught.value)
