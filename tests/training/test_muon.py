"""Muon against its definition in float64, its SGD against torch.optim's groups; factors of learning rates; refused."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

from kcifar import InputError, models
from kcifar.training import SGD, Adam, Muon
from kcifar.training.muon import orthogonalized
from tests.sharpness_steps import crossentropy

SHAPES = {"conv/kernel": (3, 3, 2, 4), "wide/kernel": (1, 1, 3, 7), "dense/kernel": (6, 5), "norm/beta": (7,)}
SHAPES |= {"one/kernel": (1, 1), "head_dense/kernel": (5, 3), "head_dense/bias": (3,)}
MATRICES = ("conv/kernel", "wide/kernel", "dense/kernel", "one/kernel")

# Float64 has no error to speak of. Float32 rounds each of a few products of matrices by 1e-7 of their terms, and the
# iteration grows small singular values, with what is wrong in them, by up to 3.4 a step.
TOLERANCE = 1e-5


class Named:
    """A variable of a layer, as the optimizer sees it."""

    def __new__(cls, path, value):
        scope, name = path.split("/")
        with keras.name_scope(scope):
            return keras.Variable(value, name=name)


def reference_direction(u, steps):
    """The published iteration, (out, rest), by its definition: XXᵀ on the shorter side."""
    matrix = u.reshape(-1, u.shape[-1]).T
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x if x.shape == matrix.shape else x.T
    return x.T.reshape(u.shape)


def values(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def walked(optimizer, rates, seed=0):
    """(the weights at the start, the gradients of each step, ours at the end), by path."""
    rng = np.random.default_rng(seed)
    starts = {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
    ours = {path: Named(path, start) for path, start in starts.items()}
    gradients = []
    for rate in rates:
        gradients.append({path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()})
        optimizer.learning_rate = rate
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients[-1].values()], list(ours.values()))
    return starts, gradients, {path: values(variable) for path, variable in ours.items()}


RATES = 0.3 * np.linspace(1, 0.1, 12)
CASES = [
    {},
    {"nesterov": False, "momentum": 0.9, "ns_steps": 5},
    {"normalize_filters": False, "l2": 0.1},
    {"momentum": 0.0, "learning_rate_factors": {"conv/*": 0.5, "*/kernel": 2.0}},
]


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_matrices_follow_the_definition(arguments):
    settings = {"momentum": 0.6, "nesterov": True, "ns_steps": 3, "normalize_filters": True, "l2": 0.0} | arguments
    starts, gradients, reached = walked(Muon(0.3, **arguments), RATES)
    for path in MATRICES:
        w, v = starts[path].astype(np.float64), 0.0
        factor = {True: {"conv/kernel": 0.5}.get(path, 2.0), False: 1.0}["learning_rate_factors" in arguments]
        for rate, of_step in zip(RATES, gradients, strict=True):
            g = of_step[path].astype(np.float64)
            v = settings["momentum"] * v + g
            u = g + settings["momentum"] * v if settings["nesterov"] else v
            if settings["normalize_filters"]:
                w = w * np.sqrt(w.shape[-1]) / np.linalg.norm(w)
            step = reference_direction(u, settings["ns_steps"])
            w = w - factor * rate * step - rate * settings["l2"] * w
        assert np.abs(reached[path] - w).max() < TOLERANCE * np.abs(w).max(), path


FACTORS = {"*/beta": 64.0, "head_dense/kernel": 3.0}
OTHERS = [path for path in SHAPES if path not in MATRICES]


def assert_is_torchs_groups(optimizer, paths, momentum, l2):
    """A group for each factor f, of rate f·lr and penalty l2/f."""
    starts, gradients, reached = walked(optimizer, RATES / 100)
    weights = {path: torch.tensor(starts[path], dtype=torch.float64, requires_grad=True) for path in paths}
    factors = {path: next((f for name, f in FACTORS.items() if path.endswith(name.strip("*"))), 1.0) for path in paths}
    groups = [{"params": [w], "lr": 1.0, "weight_decay": l2 / factors[path]} for path, w in weights.items()]
    theirs = torch.optim.SGD(groups, momentum=momentum, nesterov=True)
    for rate, of_step in zip(RATES / 100, gradients, strict=True):
        for group, path in zip(theirs.param_groups, paths, strict=True):
            group["lr"] = rate * factors[path]
            weights[path].grad = torch.tensor(of_step[path], dtype=torch.float64)
        theirs.step()
    for path, weight in weights.items():
        expected = weight.detach().numpy()
        assert np.abs(reached[path] - expected).max() < 2e-6 * np.abs(expected).max(), path  # of float32, 12 steps


def test_the_others_are_trained_by_sgd_in_groups():
    assert_is_torchs_groups(Muon(0.3, l2=0.05, learning_rate_factors=FACTORS), OTHERS, 0.85, 0.05)


def test_sgd_has_factors_of_the_learning_rate():
    optimizer = SGD(0.3, momentum=0.9, nesterov=True, l2=0.05, learning_rate_factors=FACTORS)
    assert_is_torchs_groups(optimizer, list(SHAPES), 0.9, 0.05)


def test_adam_has_factors_of_its_step():
    starts, gradients, reached = walked(Adam(0.3, l2=0.05, learning_rate_factors=FACTORS), RATES)
    for path, factor in (("norm/beta", 64.0), ("conv/kernel", 1.0)):
        weight = torch.tensor(starts[path], dtype=torch.float64, requires_grad=True)
        theirs = torch.optim.Adam([weight], weight_decay=0.05)
        for rate, of_step in zip(RATES, gradients, strict=True):
            theirs.param_groups[0]["lr"] = rate * factor
            weight.grad = torch.tensor(of_step[path], dtype=torch.float64)
            theirs.step()
        expected = weight.detach().numpy()
        assert np.abs(reached[path] - expected).max() < 5e-6 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(200, 40), (40, 200), (30, 30)], ids=str)
def test_five_steps_make_all_singular_values_alike(shape):
    """Of a matrix whose own differ by a factor of 10."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    given = (left * np.linspace(1, 0.1, min(shape)) @ right).astype("float32")
    found = ops.convert_to_numpy(orthogonalized(ops.convert_to_tensor(given), 5))
    singular = np.linalg.svd(found, compute_uv=False)
    assert 0.65 < singular.min() < singular.max() < 1.25
    assert (np.diag(left.T @ found @ right.T) > 0.65).all()  # along the same vectors


def test_a_matrix_of_zeros_stays():
    assert not ops.convert_to_numpy(orthogonalized(ops.zeros((3, 2)), 5)).any()


def net():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, name="layer1_conv", kernel_initializer=keras.initializers.GlorotUniform(1))(image)
    x = layers.BatchNormalization(scale=False, name="layer1_norm")(x)
    x = layers.GlobalMaxPooling2D()(x)
    start = keras.initializers.GlorotUniform(2)
    return keras.Model(image, layers.Dense(3, name="head_logits", kernel_initializer=start)(x))


X = np.random.default_rng(1).normal(size=(12, 8, 8, 2)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(12) % 3]


@pytest.mark.parametrize("make", [Muon, SGD, Adam], ids=lambda make: make.__name__)
def test_saved_and_loaded_in_the_middle_it_is_the_same(make, tmp_path):
    more = {"momentum": 0.9} if make is SGD else {}
    through = net()
    through.compile(make(0.05, learning_rate_factors={"*/beta": 8.0}, **more), crossentropy())
    through.fit(X, Y, batch_size=4, shuffle=False, epochs=1, verbose=0)
    through.save(tmp_path / "middle.keras")
    again = keras.saving.load_model(tmp_path / "middle.keras")
    assert again.optimizer.learning_rate_factors == {"*/beta": 8.0}
    for model in (through, again):
        model.fit(X, Y, batch_size=4, shuffle=False, epochs=1, verbose=0)
    for one, other in zip(through.weights, again.weights, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


REFUSED = {
    "momentum of 1": (lambda: Muon(0.1, momentum=1.0), "from 0 to below 1"),
    "a word": (lambda: Muon(0.1, sgd_momentum="high"), "from 0 to below 1"),
    "no step": (lambda: Muon(0.1, ns_steps=0), "at least 1"),
    "a half": (lambda: Muon(0.1, ns_steps=2.5), "at least 1"),
    "one pattern": (lambda: Muon(0.1, exclude="head_*"), "('head_*',)"),
    "torch's name": (lambda: Muon(lr=0.1, learning_rate=0.1), "expected learning_rate"),
    "factor of 0": (lambda: SGD(0.1, learning_rate_factors={"*": 0}), "a number above 0"),
    "infinite factor": (lambda: Adam(0.1, learning_rate_factors={"*": float("inf")}), "a number above 0"),
    "no dict": (lambda: SGD(0.1, learning_rate_factors=64.0), "'*/beta': 64.0"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [SGD, Adam, Muon], ids=lambda make: make.__name__)
def test_a_pattern_that_matches_nothing_is_refused_in_the_first_step(make):
    model = net()
    model.compile(make(0.1, learning_rate_factors={"*/beta": 2.0, "layer1_nrom/*": 2.0}), crossentropy())
    with pytest.raises(InputError, match=r"'layer1_nrom/\*'; did you mean 'layer1_norm/beta'"):
        model.fit(X, Y, verbose=0)


def test_muon_without_a_matrix_is_refused():
    model = net()
    models.freeze(model, "layer1")
    model.compile(Muon(0.1), crossentropy())
    with pytest.raises(InputError, match="expected one to orthogonalise"):
        model.fit(X, Y, verbose=0)
