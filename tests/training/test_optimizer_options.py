"""l2_kernels_only and global_clipnorm of SGD and Adam: against torch.optim, by hand, under SharpnessAware, in files."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch.nn.utils import clip_grad_norm_

import kcifar
from kcifar import InputError
from kcifar.training import SGD, Adam, SharpnessAware
from tests.sharpness_steps import KINDS, copies, crossentropy
from tests.training.test_sharpness_aware import (
    BATCH,
    asam,
    derived,
    drawn_batches,
    drawn_start,
    keras_net,
    norm_of,
    sam,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

L2 = 0.05
CLIP = 1.25  # the norms of the 30 gradients are from 0.4 to 2
# As in test_sharpness_aware.py: in each of 30 steps float32 rounds the weights once, 6e-8 of them, and gets gradients
# wrong by 1e-7 of their largest terms. Adam passes a small gradient's error on at the size of its rate, 2e-3.
TOLERANCE = 5e-6  # of the largest magnitude of the tensor
WRONG_BY = 100 * TOLERANCE
OURS = {
    "momentum": lambda **options: SGD(0.02, momentum=0.9, l2=L2, **options),
    "nesterov": lambda **options: SGD(0.02, momentum=0.9, nesterov=True, l2=L2, **options),
    "Adam": lambda **options: Adam(2e-3, l2=L2, **options),
}
TORCHS = {
    "momentum": lambda groups: torch.optim.SGD(groups, 0.02, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, 0.02, momentum=0.9, nesterov=True),
    "Adam": lambda groups: torch.optim.Adam(groups, 2e-3),
}


def clipped(weights, clip, first):
    clip_grad_norm_(weights.values(), clip)


def kernels(name, weight):
    return weight.ndim >= 2


def torch_run(
    optimizer, l2_kernels_only=False, global_clipnorm=None, rho=0.0, adaptive=False, clip=clipped, penalised=kernels
):
    """(norms of the gradients, weights, moving statistics) of 30 steps; the last two are for wrong references."""
    start, moving = ({name: torch.tensor(value).double() for name, value in part.items()} for part in drawn_start())
    weights = {name: value.requires_grad_() for name, value in start.items()}
    chosen = {name: penalised(name, w) or not l2_kernels_only for name, w in weights.items()}
    groups = [[w for name, w in weights.items() if chosen[name] == decays] for decays in (True, False)]
    groups = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (L2, 0.0), strict=True) if group]
    optimizer, norms = TORCHS[optimizer](groups), []
    for x, y in drawn_batches():
        x, y = torch.tensor(x).double(), torch.tensor(y).double()
        _, gradients, seen = derived(weights, x, y)
        moving = {name: 0.9 * moving[name] + 0.1 * seen[name] for name in moving}
        first = gradients
        if rho:
            ascent = (asam if adaptive else sam)(weights, first, rho=rho, eta=0.01)
            gradients = derived({name: (w + ascent[name]).detach() for name, w in weights.items()}, x, y)[1]
        norms.append(norm_of(gradients.values()).item())
        for name, w in weights.items():
            w.grad = gradients[name].clone()
        if global_clipnorm:
            with torch.no_grad():
                clip(weights, global_clipnorm, first)
        optimizer.step()
    return norms, {n: w.detach().numpy() for n, w in weights.items()}, {n: v.numpy() for n, v in moving.items()}


def keras_run(kind, optimizer, rho=0.0, adaptive=False, **options):
    """(weights, moving statistics) after an epoch of `fit`."""
    model = keras_net()
    if kind == "accelerated":
        kcifar.accelerate(model)
    trained = SharpnessAware(model, rho, adaptive) if rho else model
    trained.compile(OURS[optimizer](**options), crossentropy())
    x, y = (np.concatenate(arrays) for arrays in zip(*drawn_batches(), strict=True))
    trained.fit(x, y, BATCH, shuffle=False, verbose=0)
    found = {variable.path: array for variable, array in zip(model.weights, copies(model.weights), strict=True)}
    moving = {name: found.pop(name) for name in list(found) if "moving" in name}
    return found, moving


def difference(got, expected):
    """Largest of any tensor, of its largest magnitude."""
    assert got.keys() == expected.keys()
    return np.max([np.abs(got[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected])


def assert_follows(kind, optimizer, **options):
    norms, weights, moving = torch_run(optimizer, **options)
    if options.get("global_clipnorm"):
        assert min(norms) < 0.9 * CLIP  # some steps are clipped and some are not
        assert max(norms) > 1.1 * CLIP
    got = keras_run(kind, optimizer, **options)
    assert difference(got[0], weights) < TOLERANCE
    assert difference(got[1], moving) < TOLERANCE


BOTH = {"l2_kernels_only": True, "global_clipnorm": CLIP}
OPTIONS = {"kernels only": {"l2_kernels_only": True}, "clipped": {"global_clipnorm": CLIP}, "both": BOTH}


# JAX would compile each.
@pytest.mark.parametrize(
    "options", [pytest.param(OPTIONS[n], id=n, marks=[] if n == "both" else pytest.mark.once) for n in OPTIONS]
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OURS)
def test_thirty_steps_are_those_of_torch(optimizer, kind, options):
    """In `fit`, of a convolution, dense layers and BatchNorm."""
    assert_follows(kind, optimizer, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "adaptive", [pytest.param(False, id="SAM", marks=pytest.mark.once), pytest.param(True, id="ASAM")]
)
def test_thirty_steps_of_sharpness_aware_clip_the_gradient_at_the_worst_point(adaptive, kind):
    """The first gradient, which gives ε, is neither clipped nor measured."""
    assert_follows(kind, "momentum", rho=0.5, adaptive=adaptive, **BOTH)


def scale(weights, factor):
    for w in weights.values():
        w.grad *= factor


def each_by_itself(weights, clip, first):
    for w in weights.values():
        clip_grad_norm_([w], clip)


def by_the_kernels(weights, clip, first):
    scale(weights, min(1, clip / norm_of([w.grad for w in weights.values() if w.ndim >= 2])))


def regardless(weights, clip, first):
    scale(weights, clip / norm_of([w.grad for w in weights.values()]))


def by_the_first(weights, clip, first):
    scale(weights, min(1, clip / norm_of(first.values())))


def with_the_penalty(weights, clip, first):
    for w in weights.values():
        w.grad += L2 * w
    clip_grad_norm_(weights.values(), clip)
    for w in weights.values():
        w.grad -= L2 * w


WRONG = {
    # what: (options, what is wrong)
    "L2 of all": (BOTH, {"l2_kernels_only": False}),
    "L2 of biases and BatchNorm": (BOTH, {"penalised": lambda name, w: w.ndim < 2}),
    "L2 of convolutions": (BOTH, {"penalised": lambda name, w: w.ndim > 2}),
    "L2 of BatchNorm's scales": (BOTH, {"penalised": lambda name, w: name.endswith(("kernel", "gamma"))}),
    "L2 of biases": (BOTH, {"penalised": lambda name, w: name.endswith(("kernel", "bias"))}),
    "no clipping": (BOTH, {"global_clipnorm": None}),
    "clipping each variable": (BOTH, {"clip": each_by_itself}),
    "clipping by the kernels' norm": (BOTH, {"clip": by_the_kernels}),
    "scaling up too": (BOTH, {"clip": regardless}),
    "clipping with the penalty": (OPTIONS["clipped"], {"clip": with_the_penalty}),
    "clipping by the first gradient": (BOTH | {"rho": 0.5}, {"clip": by_the_first}),
}


@pytest.mark.once
@pytest.mark.parametrize("optimizer", OURS)
@pytest.mark.parametrize(("options", "wrong"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(options, wrong, optimizer):
    """So the comparisons above would see each of these mistakes."""
    assert difference(torch_run(optimizer, **options | wrong)[1], torch_run(optimizer, **options)[1]) > WRONG_BY


# --- By hand ---


def moved(optimizer, weights, *steps):
    """What weights become by steps along these gradients."""
    variables = [keras.Variable(np.float32(weight)) for weight in weights]
    for gradients in steps:
        optimizer.apply([ops.convert_to_tensor(np.float32(gradient)) for gradient in gradients], variables)
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assert_each(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, np.float32(other), rtol=2e-6)  # each is rounded a few times


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1), (2, 3), (4, 1, 2), (3, 3, 1, 2)], ids=str)
@pytest.mark.parametrize("make", [SGD, Adam])
def test_what_has_two_dimensions_is_a_kernel(make, shape):
    """Where the gradient is 0, which clipping leaves, the penalty alone moves a weight: by ½·½·2, in Adam by the rate.

    Beside a kernel; and beside those of another type, with which they cannot be updated in one native call.
    """
    for dtypes, only in itertools.product((["float32"], ["float32", "bfloat16"]), (True, False)):
        variables = [keras.Variable(np.full(s, 2.0), dtype=d) for d in dtypes for s in (shape, (2, 2))]
        optimizer = make(0.5, l2=0.5, l2_kernels_only=only, global_clipnorm=0.1)
        optimizer.apply([ops.zeros(variable.shape, variable.dtype) for variable in variables], variables)
        for variable, reached in zip(variables, copies(variables), strict=True):
            expected = 2.0 if only and len(variable.shape) < 2 else 1.5
            np.testing.assert_allclose(reached, np.full(variable.shape, expected), rtol=1e-2)  # of bfloat16


WEIGHTS, GRADIENTS = [[[10.0, 10.0]], [10.0]], [[[3.0, 4.0]], [12.0]]  # ‖(3, 4, 12)‖ = 13


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # (3, 4) and 12, or half of each, by a rate of 2
        ({"global_clipnorm": 6.5}, [[[7.0, 6.0]], [-2.0]]),
        ({"global_clipnorm": 13.5}, [[[4.0, 2.0]], [-14.0]]),
        ({"global_clipnorm": None}, [[[4.0, 2.0]], [-14.0]]),
        # and half of 10, not clipped
        ({"global_clipnorm": 6.5, "l2": 0.5}, [[[-3.0, -4.0]], [-12.0]]),
        ({"global_clipnorm": 6.5, "l2": 0.5, "l2_kernels_only": True}, [[[-3.0, -4.0]], [-2.0]]),
        ({"global_clipnorm": 13.5, "l2": 0.5, "l2_kernels_only": True}, [[[-6.0, -8.0]], [-14.0]]),
    ],
    ids=str,
)
def test_both_options_by_hand(options, expected):
    assert_each(moved(SGD(2.0, **options), WEIGHTS, GRADIENTS), expected)


def test_clipping_is_of_the_mean_of_accumulated_gradients():
    """Each by itself would be clipped to less: the first to 6.5, half of which would count."""
    optimizer = SGD(2.0, global_clipnorm=6.5, gradient_accumulation_steps=2)
    steps = [2 * np.float32(gradient) for gradient in GRADIENTS], [np.zeros((1, 2)), np.zeros(1)]
    assert_each(moved(optimizer, WEIGHTS, *steps), [[[7.0, 6.0]], [-2.0]])


@pytest.mark.parametrize(
    ("clip", "loss_scale", "expected"),
    [(60.0, None, [0.64, 1.52]), (80.0, None, [0.55, 1.4]), (60.0, 1024.0, [0.64, 1.52])],
)
def test_clipping_after_two_passes_by_hand(clip, loss_scale, expected):
    """The unit of test_sam_by_hand: norms of 50 at w = (1, 2) and of 75 at w + ε, there along x = (3, 4).

    With a loss scale too the norm is in the loss's own units.
    """
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.float32([[1.0], [2.0]])])
    trained, optimizer = SharpnessAware(model, rho=0.5), SGD(0.01, global_clipnorm=clip)
    if loss_scale:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=loss_scale)
    trained.compile(optimizer, "mean_squared_error")
    trained.train_on_batch(np.float32([[3, 4]]), np.float32([[6]]))
    assert_each([copies(model.weights)[0].ravel()], [expected])


def torch_moved(make, weights, *steps, before=None):
    """The same by an optimizer of torch.optim, with `before(gradients)` in front of its steps."""
    tensors = [torch.tensor(weight).double().requires_grad_() for weight in weights]
    optimizer = make(tensors)
    for gradients in steps:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(gradient).double()
        if before:
            before(tensors)
        optimizer.step()
    return [tensor.detach().numpy() for tensor in tensors]


PAIRS = [
    (lambda **o: SGD(0.5, momentum=0.9, l2=0.25, **o), lambda w: torch.optim.SGD(w, 0.5, 0.9, weight_decay=0.25)),
    (lambda **o: Adam(0.5, l2=0.25, **o), lambda w: torch.optim.Adam(w, 0.5, weight_decay=0.25)),
]


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=["SGD", "Adam"])
def test_what_every_optimizer_of_keras_takes_means_what_torch_means(ours, torchs):
    def each_norm(tensors):
        for tensor in tensors:
            clip_grad_norm_([tensor], 6.5)

    doubled, none = [2 * np.array(gradient) for gradient in GRADIENTS], [np.zeros((1, 2)), np.zeros(1)]
    for options, steps, before, torch_steps in [
        ({"clipvalue": 3.5}, [GRADIENTS, WEIGHTS], lambda w: torch.nn.utils.clip_grad_value_(w, 3.5), None),
        ({"clipnorm": 6.5}, [GRADIENTS, WEIGHTS], each_norm, None),
        ({"gradient_accumulation_steps": 2}, [doubled, none] * 2, None, [GRADIENTS] * 2),
        ({"loss_scale_factor": 8.0}, [[8 * np.array(g) for g in GRADIENTS]] * 2, None, [GRADIENTS] * 2),
    ]:
        expected = torch_moved(torchs, WEIGHTS, *(torch_steps or steps), before=before)
        assert_each(moved(ours(**options), WEIGHTS, *steps), expected)


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=["SGD", "Adam"])
def test_an_average_of_the_weights_is_torchs(ours, torchs):
    steps = [GRADIENTS, WEIGHTS, GRADIENTS]
    averages, *later = [torch_moved(torchs, WEIGHTS, *steps[: count + 1]) for count in range(3)]
    for reached in later:
        averages = [0.75 * average + 0.25 * weight for average, weight in zip(averages, reached, strict=True)]
    variables = [keras.Variable(np.float32(weight)) for weight in WEIGHTS]
    optimizer = ours(use_ema=True, ema_momentum=0.75)
    for gradients in steps:
        optimizer.apply([ops.convert_to_tensor(np.float32(gradient)) for gradient in gradients], variables)
    optimizer.finalize_variable_values(variables)
    assert_each([np.array(ops.convert_to_numpy(variable)) for variable in variables], averages)


# --- Files and what is refused ---


@pytest.mark.parametrize(
    ("argument", "told"),
    [("weight_decay", "l2"), ("lr", "learning_rate"), ("betas", "beta_1"), ("amsgrad", "amsgrad"), ("x", "clipvalue")],
)
@pytest.mark.parametrize("make", [SGD, Adam])
def test_what_it_does_not_offer_is_refused_by_name(make, argument, told):
    arguments = {"learning_rate": 0.1, argument: 0.5}
    with pytest.raises(InputError, match=rf"{make.__name__}.*\b{argument}\b.*{told}"):
        make(**arguments)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_config_holds_both(make):
    optimizer = make(0.1, l2=0.5, l2_kernels_only=True, global_clipnorm=6.5)
    config = optimizer.get_config()
    assert (config["l2_kernels_only"], config["global_clipnorm"]) == (True, 6.5)
    again = make.from_config(config)
    through_keras = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == through_keras.get_config() == config
    expected = moved(optimizer, WEIGHTS, GRADIENTS, WEIGHTS)
    for copy in (again, through_keras):
        for one, other in zip(moved(copy, WEIGHTS, GRADIENTS, WEIGHTS), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert make(0.1).get_config()["l2_kernels_only"] is False
    assert make(0.1).get_config()["global_clipnorm"] is None


@pytest.mark.once
@pytest.mark.parametrize("optimizer", OURS)
def test_a_saved_model_goes_on_as_if_never_saved(optimizer, tmp_path):
    kept, (first, second, *_) = keras_net(), drawn_batches()
    kept.compile(OURS[optimizer](**BOTH), crossentropy())
    kept.train_on_batch(*first)
    kept.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (kept, loaded):
        model.train_on_batch(*second)
    for one, other in zip(copies(kept.weights), copies(loaded.weights), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("clip", [0, 0.0, -1, float("nan")])
@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_norm_that_is_not_above_zero_is_refused(make, clip):
    with pytest.raises(InputError, match=f"{make.__name__}.*global_clipnorm={clip}") as caught:
        make(0.1, global_clipnorm=clip)
    assert "\n" not in str(caught.value)
