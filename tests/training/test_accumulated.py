"""Batches in parts: against whole batches of stock Keras, against a PyTorch loop over the parts, and by hand."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import layers

import kcifar
from kcifar import InputError
from kcifar.training import SGD, Accumulated, SharpnessAware
from tests.sharpness_steps import (
    COUNT,
    HIDDEN_LAYER,
    KINDS,
    SECOND,
    STEP_TOLERANCE,
    XY,
    PlainSteps,
    X,
    Y,
    assert_same_bits,
    assert_same_logs,
    assert_steps,
    chain,
    copies,
    crossentropy,
    drawn,
    largest_difference,
    normal,
)
from tests.training.test_sharpness_aware import (
    MOMENTUM,
    RATE,
    TOLERANCE,
    WRONG_BY,
    asam,
    derived,
    differences,
    drawn_batches,
    drawn_start,
    keras_run,
    sam,
)
from tests.training.test_sharpness_aware_use import assert_stock

pytestmark = pytest.mark.usefixtures("quick_compilation")


# --- Without BatchNorm and dropout: the step of the whole batch ---


def penalised():
    """A penalty on a kernel, which counts once a step, and one on an activation, the mean over the images."""
    return drawn(
        keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.3), activity_regularizer="l2"),
                layers.Dense(3, bias_regularizer="l1"),
            ]
        )
    )


def branching():
    """Two inputs and two outputs by name, a frozen layer, a frozen BatchNorm."""
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    x = layers.Dense(5, "tanh", trainable=False)(layers.Concatenate()([a, b]))
    x = layers.BatchNormalization(trainable=False)(layers.Dense(5, "tanh")(x))
    return drawn(keras.Model({"a": a, "b": b}, {"one": layers.Dense(3)(x), "two": layers.Dense(1)(x)}))


def in_mixed_precision(policy):
    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return chain(*HIDDEN_LAYER, lambda: layers.Activation("linear", dtype="float32"))()
        finally:
            keras.config.set_dtype_policy(before)

    return make


SMOOTHED = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
# name: (model, loss, batch, tolerance). Gradients are sums of the same terms in another order, and each part's share
# (3/12, 2/12) is rounded: a few times 6e-8. Products in half precision are rounded image by image, as in a whole batch.
WHOLE = {
    "penalties": (penalised, SMOOTHED, XY | {"sample_weight": np.linspace(0, 3, COUNT)}, STEP_TOLERANCE),
    "branches": (
        branching,
        {"one": crossentropy(), "two": "mean_squared_error"},
        {"x": {"a": X, "b": SECOND}, "y": {"one": Y, "two": Y[:, :1]}},
        STEP_TOLERANCE,
    ),
    "asymmetric loss": (chain(*HIDDEN_LAYER), kcifar.training.AsymmetricLoss(), XY, STEP_TOLERANCE),
    # The sum over a batch of what was rounded to 8 or 11 bits is rounded so itself, by each part's on its own.
    "bfloat16": (in_mixed_precision("mixed_bfloat16"), crossentropy(), XY, 1e-2),
    "float16": (in_mixed_precision("mixed_float16"), crossentropy(), XY, 2e-3),
}
ONCE = ("asymmetric loss", "float16")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.once if name in ONCE else ()) for name in WHOLE])
def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(name, kind):
    make, loss, batch, tolerance = WHOLE[name]
    model, plain = make(), PlainSteps(make, loss, batch)
    values = copies(model.trainable_variables)
    gradients = plain.gradients_at(values)
    trained = Accumulated(model, 5)  # of 3, 3, 2, 2 and 2 images
    if kind == "accelerated":
        kcifar.accelerate(trained)
    trained.compile(keras.optimizers.SGD(0.5), loss)
    logs = trained.train_on_batch(**batch, return_dict=True)
    expected = [w - 0.5 * g for w, g in zip(values, gradients, strict=True)]
    assert largest_difference(values, expected) > 1e-3
    assert largest_difference(copies(model.trainable_variables), expected) < tolerance
    assert float(logs["loss"]) == pytest.approx(plain.losses[0], rel=tolerance)


@pytest.mark.parametrize("arguments", [{"rho": 0.5}, {"rho": 1.0, "adaptive": True, "eta": 0.1}], ids=["SAM", "ASAM"])
def test_both_passes_of_sam_are_of_the_whole_batch(arguments):
    make, loss, batch, _ = WHOLE["penalties"]
    assert_steps(make, loss, batch, accumulate=5, **arguments)


def test_an_epoch_reports_what_a_plain_model_has_at_the_same_weights():
    """Of batches of 5, 5 and 2 images, in 3, 3 and 2 parts; one metric counts, which shows a part counted twice."""
    logs = []
    for around in (lambda model: Accumulated(model, 3), lambda model: model):
        trained = around(chain(*HIDDEN_LAYER)())
        hits = keras.metrics.TruePositives(thresholds=0.0, name="hits")
        weighted = [keras.metrics.MeanSquaredError()]
        trained.compile(SGD(0.0), crossentropy(), metrics=["accuracy", hits], weighted_metrics=weighted)
        weights = np.linspace(0.2, 2, COUNT)
        found = trained.fit(X, Y, batch_size=5, shuffle=False, verbose=0, sample_weight=weights).history
        logs.append({name: value for name, (value,) in found.items()})
        assert int(trained.optimizer.iterations) == 3
    assert_same_logs(*logs)


def test_an_overflow_in_one_part_leaves_the_weights():
    """In float16, which ends at 65504: the second image's target makes a gradient beyond it."""
    model = in_mixed_precision("mixed_float16")()
    trained = Accumulated(model, 2)
    trained.compile(SGD(0.1), "mean_squared_error")
    trained.optimizer.build(model.trainable_variables)
    start, scale = copies(model.trainable_variables), float(trained.optimizer.dynamic_scale)
    trained.train_on_batch(X[:2], np.float32([[1, 0, 0], [0, 1e5, 0]]))
    assert_same_bits(copies(model.trainable_variables), start)
    assert float(trained.optimizer.dynamic_scale) == scale / 2


# --- With BatchNorm: against PyTorch ---


def torch_run_in_parts(parts, rho=0.0, adaptive=False, eta=0.01, weighted=True, local=False, counted=None):
    """As `test_sharpness_aware.torch_run`, where each batch is so many parts. With ρ = 0 plain steps.

    The last three are for wrong references: parts that count alike, an ε of each part's own, and the parts whose
    statistics count.
    """
    start, moving = ({name: torch.tensor(value).double() for name, value in part.items()} for part in drawn_start())
    weights = {name: value.requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.SGD(weights.values(), RATE, momentum=MOMENTUM, weight_decay=5e-4)
    losses = []
    for x, y in drawn_batches():
        x, y = torch.tensor(x).double(), torch.tensor(y).double()
        split = list(zip(torch.tensor_split(x, parts), torch.tensor_split(y, parts), strict=True))
        shares = [len(images) / len(x) if weighted else 1 / parts for images, _ in split]

        def mean(found, shares=shares):
            return {name: sum(s * g[name] for s, (_, g, _) in zip(shares, found, strict=True)) for name in weights}

        first = [derived(weights, *part) for part in split]
        losses.append(sum(share * loss for share, (loss, _, _) in zip(shares, first, strict=True)))
        gradients = mean(first)
        if rho:
            with torch.no_grad():
                epsilons = [
                    (asam if adaptive else sam)(weights, of_part[1] if local else gradients, rho=rho, eta=eta)
                    for of_part in first
                ]
                worst = [{name: w + epsilon[name] for name, w in weights.items()} for epsilon in epsilons]
            gradients = mean([derived(there, *part) for there, part in zip(worst, split, strict=True)])
        for _, _, seen in first[:counted]:
            moving = {name: 0.9 * moving[name] + 0.1 * seen[name] for name in moving}
        for name, w in weights.items():
            w.grad = gradients[name]
        optimizer.step()
    return (
        np.array(losses),
        {n: w.detach().numpy() for n, w in weights.items()},
        {n: v.numpy() for n, v in moving.items()},
    )


NORMALISED = {
    "plain": ({}, lambda model: Accumulated(model, 3)),
    "ASAM": (
        {"rho": 0.5, "adaptive": True},
        lambda model: SharpnessAware(model, rho=0.5, adaptive=True, accumulate=3),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", NORMALISED)
def test_thirty_steps_with_batchnorm_are_those_of_a_pytorch_loop_over_the_parts(case, kind):
    """16 images in parts of 6, 5 and 5: each is normalised by itself, and moves the moving statistics."""
    arguments, around = NORMALISED[case]
    found = differences(keras_run(kind, around), torch_run_in_parts(3, **arguments))
    assert max(found) < TOLERANCE


@pytest.mark.once
@pytest.mark.parametrize(
    ("wrong", "shows"),
    [
        ({"parts": 1}, 1),
        ({"parts": 4}, 1),
        ({"weighted": False}, 1),
        ({"local": True}, 1),
        ({"counted": 1}, 2),
    ],
    ids=["one part", "other parts", "parts that count alike", "an ε of each part", "statistics of the first part"],
)
def test_a_wrong_loop_over_the_parts_is_far_off(wrong, shows):
    right = {"parts": 3, "rho": 0.5, "adaptive": True}
    assert differences(torch_run_in_parts(**right | wrong), torch_run_in_parts(**right))[shows] > WRONG_BY


# --- Dropout and other state ---


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """Multiplies by the number of batches that it has seen in training."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x, training=False):
        result = x * self.seen
        if training:
            self.seen.assign(self.seen + 1)
        return result


STATES = {
    "seeded dropout": lambda: layers.Dropout(0.5, seed=7),
    "dropout": lambda: layers.Dropout(0.5),
    "a state of its own": Counting,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))
def test_each_part_has_its_own_masks_and_the_same_in_both_passes(state, kind):
    """Of images of ones whose weights are powers of 32: a digit of the gradient is what one part's image became.

    The model is linear: the loss is w·z for the first pass's z, the update is the second's z.
    """
    model = keras.Sequential([keras.Input((24,)), state(), layers.Dense(1, use_bias=False)])
    model.set_weights([*model.get_weights()[:-1], normal(24, 1, seed=31)])
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = SharpnessAware(model, rho=0.5, accumulate=4)
    trained.compile(SGD(1.0), lambda y_true, y_pred: y_pred)
    powers, seen = 32.0 ** np.arange(4), []
    for _ in range(2):
        before = copies([model.layers[-1].kernel])[0][:, 0]
        trained.reset_metrics()
        logs = trained.train_on_batch(np.ones((4, 24)), np.zeros((4, 1)), sample_weight=powers, return_dict=True)
        z = before - copies([model.layers[-1].kernel])[0][:, 0]
        digits = np.rint(4 * z).astype(int)  # the loss is the mean over four images
        seen += [digits // 32**place % 32 for place in range(4)]
        # w and z have sizes of up to 3·10⁴, rounded by 6e-8 of these: z by 2e-3, the sum of 24 products by 1e-3 of it.
        np.testing.assert_allclose(4 * z, sum(p * d for p, d in zip(powers, seen[-4:], strict=True)), atol=0.05)
        assert float(logs["loss"]) == pytest.approx((before * z).sum(), rel=1e-3)
    if state is Counting:
        assert [set(digits) for digits in seen] == [{place} for place in range(1, 9)]
    else:
        assert set(np.ravel(seen)) == {0, 2}
    assert all((one != other).any() for one, other in itertools.combinations(seen, 2))


# --- Files, and what cannot be ---


def test_what_is_saved_has_no_trace_of_it(tmp_path):
    model = chain(*HIDDEN_LAYER)()
    trained = Accumulated(model, 4)
    trained.compile(SGD(0.1), crossentropy())
    trained.save(tmp_path / "model.keras")
    assert_stock(tmp_path / "model.keras")
    assert_same_bits(keras.saving.load_model(tmp_path / "model.keras").get_weights(), model.get_weights())


@pytest.mark.once
@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, "4", None])
def test_what_is_no_number_of_parts_is_refused(accumulate):
    for around in (Accumulated, lambda model, accumulate: SharpnessAware(model, accumulate=accumulate)):
        with pytest.raises(InputError, match=r"accumulate=.*at least 1"):
            around(chain()(), accumulate)


@pytest.mark.once
def test_losses_that_are_no_mean_and_optimizers_that_accumulate_are_refused():
    summed = keras.losses.MeanSquaredError(reduction="sum")
    with pytest.raises(InputError, match=r"MeanSquaredError has reduction='sum'"):
        Accumulated(chain()(), 2).compile(SGD(0.1), ["mse", summed])
    Accumulated(chain()(), 1).compile(SGD(0.1), summed)
    with pytest.raises(InputError, match=r"Accumulated: the optimizer accumulates gradients over 4 steps"):
        Accumulated(chain()(), 2).compile(SGD(0.1, gradient_accumulation_steps=4), "mse")
