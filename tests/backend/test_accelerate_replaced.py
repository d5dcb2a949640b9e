"""`kcifar.accelerate`: what is replaced, added or given otherwise afterwards counts as it does on stock Keras."""

import functools

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch.fx.experimental.proxy_tensor import make_fx

import kcifar
from tests.accelerate_twins import (
    array_of,
    assert_agree,
    assert_same_array,
    assert_same_logs,
    assert_same_weights,
    called,
    conv,
    image_model,
    normal,
    observed,
    twins,
)

pytestmark = pytest.mark.once

X, Y = normal(6, 5), np.array([0, 1, 2, 0, 1, 2])


def two_layers():
    rows = keras.Input((5,))
    return keras.Model(rows, layers.Dense(3, name="last")(layers.Dense(4, activation="relu", name="first")(rows)))


def compiled(model, loss=None, metrics=None):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics or ["accuracy"])
    return model


def own(function):
    """A method of one object in the place of its class's."""

    def change(thing, name):
        setattr(thing, name, functools.partial(function, getattr(type(thing), name).__get__(thing)))

    return change


double = own(lambda stock, *args, **kwargs: 2 * stock(*args, **kwargs))
no_more = own(lambda stock, *args, **kwargs: {"mine": stock(*args, **kwargs)["loss"]})


def metric_of(model):
    return model._compile_metrics._flat_metrics[0].metrics[0]


CHANGES = {
    "regularizer": lambda m: setattr(m.get_layer("last").kernel, "regularizer", keras.regularizers.L2(0.5)),
    "activity": lambda m: setattr(m.get_layer("first"), "activity_regularizer", keras.regularizers.L2(0.5)),
    "hook": lambda m: m.get_layer("first").register_forward_hook(lambda layer, _, out: layer.add_loss(ops.mean(out))),
    "compute_loss": lambda m: double(m, "compute_loss"),
    "_compute_loss": lambda m: double(m, "_compute_loss"),
    "compute_metrics": lambda m: no_more(m, "compute_metrics"),
    "get_metrics_result": lambda m: no_more(m, "get_metrics_result"),
    "reduction": lambda m: setattr(m.loss, "reduction", "sum"),
    "loss": lambda m: double(m.loss, "call"),
    "update": lambda m: setattr(metric_of(m), "update_state", lambda *_, **__: None),
    "result": lambda m: double(metric_of(m), "result"),
    "metric": lambda m: setattr(m, "extra", keras.metrics.Mean(name="extra")),
    "class of a layer": lambda m: setattr(m.get_layer("first"), "__class__", Doubling),
}


class Doubling(layers.Dense):
    def call(self, x, training=None):
        return 2 * super().call(x)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_replaced_afterwards_counts(change):
    stock, fast = map(compiled, twins(two_layers))
    plain = [model.train_on_batch(X, Y, return_dict=True) for model in (stock, fast)]
    change(stock), change(fast)
    for _ in range(2):
        logs = [model.train_on_batch(X, Y, return_dict=True) for model in (stock, fast)]
        assert_same_logs(logs[1], logs[0])
        assert logs[0] != plain[0]
    assert_same_logs(*(model.evaluate(X, Y, verbose=0, return_dict=True) for model in (fast, stock)))
    assert_same_weights(fast, stock)


OF_CLASSES = {
    "compute_loss": (keras.Model, "compute_loss", lambda stock: lambda self, *a, **k: 2 * stock(self, *a, **k)),
    "train_step": (keras.Model, "train_step", lambda stock: lambda self, *data: {"loss": ops.zeros(())}),
    "loss": (keras.losses.SparseCategoricalCrossentropy, "call", lambda stock: lambda self, *a: 2 * stock(self, *a)),
    "call": (layers.Dense, "call", lambda stock: lambda self, x, training=None: 2 * stock(self, x)),
}


@pytest.mark.parametrize(("kind", "name", "changed"), OF_CLASSES.values(), ids=OF_CLASSES)
def test_what_is_replaced_on_a_class_counts(kind, name, changed, monkeypatch):
    stock, fast = map(compiled, twins(two_layers))
    plain = [model.train_on_batch(X, Y, return_dict=True) for model in (stock, fast)]
    monkeypatch.setattr(kind, name, changed(getattr(kind, name)))
    for model in (stock, fast):
        model.make_train_function(force=True)  # from Keras 3.16 on it holds the step that there was
    logs = [model.train_on_batch(X, Y, return_dict=True) for model in (stock, fast)]
    assert_same_logs(logs[1], logs[0])
    assert logs[0]["loss"] != plain[0]["loss"]
    assert_same_weights(fast, stock)


def test_who_replaces_the_calling_of_layers_sees_each(monkeypatch):
    stock, fast = map(compiled, twins(two_layers))
    seen, plain = [], keras.Layer.__call__
    monkeypatch.setattr(keras.Layer, "__call__", lambda self, *a, **k: seen.append(self.name) or plain(self, *a, **k))
    fast(X), fast.train_on_batch(X, Y)
    got, seen[:] = seen[:], []
    stock(X), stock.train_on_batch(X, Y)
    assert [name.split("_")[0] for name in got] == [name.split("_")[0] for name in seen]
    assert got.count("first") >= 2


class Called(keras.Model):
    """A functional model with a `__call__` of its own."""

    def __call__(self, *args, **kwargs):
        return 2 * super().__call__(*args, **kwargs)


class First(keras.Model):
    """Trains its last layer alone."""

    @property
    def trainable_weights(self):
        return self.get_layer("last").trainable_weights


class Quarter(keras.Model):
    """Counts a quarter of its first loss."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=True)
        self._loss_tracker.update_state(self.compute_loss(x, y, y_pred), sample_weight=0.25)
        return self.compute_metrics(x, y, y_pred)


@pytest.mark.parametrize("kind", [Called, First, Quarter])
def test_a_subclass_of_functional_models(kind):
    def make():
        plain = two_layers()
        return kind(plain.input, plain.output)

    stock, fast = map(compiled, twins(make))
    for _ in range(2):
        assert_same_logs(*(model.train_on_batch(X, Y, return_dict=True) for model in (fast, stock)))
    assert_same_weights(fast, stock)


def test_a_step_clears_all_gradients():
    stock, fast = map(compiled, twins(two_layers))
    for model in (stock, fast):
        model.train_on_batch(X, Y)
        model.get_layer("first").trainable = False
        model.train_on_batch(X, Y)
    kept = [[variable.value.grad is None for variable in model.variables] for model in (stock, fast)]
    assert kept[0] == kept[1]
    assert any(kept[0])


# --- Labels and images of other kinds ---


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-1, 0, 1, -1, 0, 1]),
        np.array([-100, 0, 1, -100, 0, 1]),
        np.array([3, 0, 1, 2, 0, 1]),
        [Y],
        (Y,),
        Y[:, None],
        Y.astype("float32"),
    ],
    ids=["-1", "-100", "3", "list", "tuple", "column", "float"],
)
def test_labels(labels):
    logs = [outcome(compiled(model).train_on_batch, X, labels) for model in twins(two_layers)]
    if isinstance(logs[0], type):
        assert logs[1] is logs[0]
    else:
        np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float64"])
def test_one_hot_labels(dtype):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    stock, fast = (compiled(model, loss) for model in twins(two_layers))
    labels = np.eye(3)[Y].astype(dtype)
    assert_same_logs(*(model.train_on_batch(X, labels, return_dict=True) for model in (fast, stock)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_loss_of_another_type(dtype):
    logs = []
    for model in twins(two_layers):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
        logs.append(compiled(model, loss).train_on_batch(X, Y, return_dict=True))
    assert_same_logs(logs[1], logs[0])


def test_images_of_another_size_are_refused_in_every_step():
    made = twins(lambda: image_model(lambda image: layers.GlobalAveragePooling2D()(conv(3)(image)), (7, 9, 4)))
    for model in map(compiled, made):
        model.train_on_batch(normal(3, 7, 9, 4), Y[:3])
        model.test_on_batch(normal(3, 7, 9, 4), Y[:3])
        for step in (model.train_on_batch, model.test_on_batch):
            with pytest.raises(ValueError, match="incompatible"):
                step(normal(3, 8, 9, 4), Y[:3])


def test_masked_samples_are_left_out_of_the_loss_and_accuracy():
    def make():
        rows = keras.Input((5,))
        return keras.Model(rows, layers.Dense(3)(layers.Masking()(rows)))

    rows = X.copy()
    rows[::2] = 0
    stock, fast = map(compiled, twins(make))
    for _ in range(2):
        assert_same_logs(*(model.train_on_batch(rows, Y, return_dict=True) for model in (fast, stock)))
    assert_same_weights(fast, stock)


def normed():
    return image_model(lambda image: layers.BatchNormalization(momentum=0.5)(image), (4, 4, 2))


def test_a_batch_of_none():
    for model in map(
        compiled, twins(lambda: image_model(lambda i: layers.GlobalAveragePooling2D()(conv(3)(i)), (4, 4, 2)))
    ):
        data = torch.zeros(0, 4, 4, 2), torch.zeros(0, dtype=torch.long)
        assert float(model.test_step(data)["loss"]) == 0
    for model in twins(normed):
        assert model(torch.zeros(0, 4, 4, 2), training=True).shape == (0, 4, 4, 2)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize("training", [False, True])
def test_whole_numbers_into_a_batch_norm(dtype, training):
    images = np.random.default_rng(0).integers(0, 2, (3, 4, 4, 2)).astype(dtype)
    made = twins(lambda: image_model(lambda image: layers.BatchNormalization()(image), (4, 4, 2), dtype=dtype))
    stock, fast = (model(images, training=training) for model in made)
    assert stock.dtype == fast.dtype
    assert_same_array(array_of(fast), array_of(stock))


def test_calls_in_inference_and_in_training_have_one_backward_pass():
    found = []
    for model in twins(normed):
        x = torch.from_numpy(normal(3, 4, 4, 2)).requires_grad_()
        total = (model(x, training=False) * model(x, training=True)).square().sum()
        weights = [variable.value for variable in model.trainable_variables]
        found.append(torch.autograd.grad(total, [x, *weights]))
    for one, other in zip(*found, strict=True):
        assert_same_array(array_of(one), array_of(other))


# --- Weights, types and modes of other kinds ---


def asked_for_gradients(model):
    model.requires_grad_(False)
    model.requires_grad_(True)


def without_bias(model):
    for layer in model.layers:
        if hasattr(layer, "use_bias"):
            layer.use_bias = False


def of_lower_policy(model):
    model.layers[-1].dtype_policy = "bfloat16"


def net():
    def graph(image):
        x = layers.DepthwiseConv2D(3, name="wide")(conv()(image))
        return layers.Dense(3)(layers.Flatten()(layers.BatchNormalization()(layers.SeparableConv2D(4, 2)(x))))

    return image_model(graph, (7, 9, 4))


@pytest.mark.parametrize("change", [asked_for_gradients, without_bias, of_lower_policy])
def test_weights_and_types_changed_afterwards(change):
    stock, fast = twins(net)
    for model in (stock, fast):
        model(normal(3, 7, 9, 4))
        change(model)
    for training in (False, True):
        expected = observed(stock, normal(3, 7, 9, 4), training)
        assert_agree(
            observed(fast, normal(3, 7, 9, 4), training), expected, 2e-2 if change is of_lower_policy else 1e-5
        )


def in_autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        return model(X)


def in_double(model):
    return model.double()(X)


def forward_mode(model):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.from_numpy(X), torch.from_numpy(X))
        return torch.autograd.forward_ad.unpack_dual(model(dual, training=True)).tangent


def traced(model):
    return make_fx(lambda x: model(x, training=True))(torch.from_numpy(X))(torch.from_numpy(2 * X))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # which torch itself uses in forward mode
@pytest.mark.parametrize("function", [in_autocast, in_double, forward_mode, traced])
def test_modes_of_torch(function):
    def make():
        rows = keras.Input((5,))
        return keras.Model(rows, layers.Dense(3)(layers.BatchNormalization()(layers.Dense(4)(rows))))

    stock, fast = map(function, twins(make))
    assert fast.dtype == stock.dtype
    tolerance = 2e-2 if function is in_autocast else 1e-5
    np.testing.assert_allclose(array_of(fast), array_of(stock), rtol=tolerance, atol=tolerance)


def test_arguments_of_a_layers_call_by_place():
    class Placed(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()
            self.norm.build((None, 5))

        def call(self, x):
            return self.norm.call(x, True, None)

    stock, fast = twins(lambda: called(Placed(), X))
    assert_same_array(array_of(fast(X)), array_of(stock(X)))
    assert fast.norm.call.__name__ == "call"


def test_a_pixel_that_is_no_number_stays_where_it_is():
    images = normal(2, 16, 16, 3)
    images[0, 2, 2, 0] = np.nan
    stock, fast = twins(lambda: image_model(lambda image: layers.Resizing(8, 24)(image), (16, 16, 3)))
    assert fast.call.is_native
    expected = array_of(stock(images))
    assert 0 < np.isnan(expected).sum() < 100
    np.testing.assert_array_equal(np.isnan(array_of(fast(images))), np.isnan(expected))
    assert_agree(observed(fast, normal(2, 16, 16, 3), True), observed(stock, normal(2, 16, 16, 3), True))


def test_accelerating_anew_keeps_the_step():
    stock, fast = map(compiled, twins(two_layers))
    kcifar.accelerate(fast)
    assert fast.train_step.__self__.follows_keras("train_step", "compute_loss")
    assert_same_logs(*(model.train_on_batch(X, Y, return_dict=True) for model in (fast, stock)))
    assert_same_weights(fast, stock)
