"""`kcifar.accelerate`: an accelerated model learns what its stock twin does, with any loss, metric and optimizer."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import kcifar
from kcifar import training
from tests.accelerate_twins import (
    CLASSES,
    COUNT,
    IMAGES,
    LABELS,
    RATE,
    TARGETS,
    array_of,
    assert_agree,
    assert_same_array,
    assert_same_logs,
    assert_same_weights,
    conv,
    crossentropy,
    filled,
    net,
    sgd,
)

pytestmark = pytest.mark.once

# Of what three steps changed: a change of 1e-3 of a weight near 1 carries the weight's own roundings, 6e-8 a step.
CHANGE_TOLERANCE = 1e-3


def probabilities():
    model = net()
    return keras.Model(model.input, layers.Softmax()(model.output))


def sparse(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def top_k():
    return keras.metrics.TopKCategoricalAccuracy(k=3, name="top3")


def assert_same_steps(fast, stock, steps, targets=TARGETS, **batch):
    for _ in range(steps):
        assert_same_logs(*(m.train_on_batch(IMAGES, targets, return_dict=True, **batch) for m in (fast, stock)))


def assert_same_changes(fast, stock, start):
    names = [f"gradient of {i}, {variable.name}" for i, variable in enumerate(stock.weights) if variable.trainable]
    changes = []
    for model in (fast, stock):
        moved = [
            variable.value.detach().cpu().double() - torch.from_numpy(array).double()
            for variable, array in zip(model.weights, start, strict=True)
            if variable.trainable
        ]
        changes.append(dict(zip(names, moved, strict=True)))
    assert_agree(*changes, CHANGE_TOLERANCE)


def assert_same_training(make, compile_, weights=True, targets=TARGETS, **batch):
    """`compile_(model)` before the acceleration; logs of each step, the weights after the last, and inference."""
    stock, fast = make(), make()
    start = stock.get_weights()
    for model in (stock, fast):
        compile_(model)
    kcifar.accelerate(fast)
    assert_same_steps(fast, stock, 3, targets, **batch)
    assert any(not np.array_equal(a, b) for a, b in zip(start, stock.get_weights(), strict=True))
    if weights:
        assert_same_weights(fast, stock)
        assert_same_changes(fast, stock, start)
        assert_same_logs(*(model.test_on_batch(IMAGES, targets, return_dict=True) for model in (fast, stock)))
    return fast, stock


OPTIMIZERS = {
    "sgd": sgd,
    "nesterov": lambda: training.SGD(RATE, momentum=0.9, nesterov=True, l2=1e-3),
    "plain": lambda: training.SGD(RATE),
    "keras_nesterov_decay": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.5)),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.1),
    "clipvalue": lambda: keras.optimizers.SGD(RATE, clipvalue=0.01),
    "ema": lambda: keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "accumulation": lambda: keras.optimizers.SGD(RATE, gradient_accumulation_steps=2),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(sgd()),
    "growing_loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        sgd(), initial_scale=2.0**12, dynamic_growth_steps=2
    ),
    "own_clipnorm": lambda: training.SGD(0.1, momentum=0.9, l2=1e-3, global_clipnorm=0.1),
    "own_ema_accumulation": lambda: training.SGD(RATE, momentum=0.9, use_ema=True, gradient_accumulation_steps=2),
}
# Weights are compared after SGD only: Adam's first steps divide a gradient by its own size, so that one that is zero
# but for rounding, as of a bias before BatchNorm, moves its weight by the learning rate, to a side that rounding chose.
ADAMS = {
    "keras_adam": lambda: keras.optimizers.Adam(1e-3),
    "adam": lambda: training.Adam(1e-3, l2=1e-3),
    "adam_clipnorm": lambda: training.Adam(1e-3, l2=1e-3, global_clipnorm=0.1),
}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), *ADAMS.values()], ids=[*OPTIMIZERS, *ADAMS])
def test_an_optimizer_steps_as_in_stock(optimizer):
    assert_same_training(
        net,
        lambda model: model.compile(optimizer(), crossentropy(), metrics=["accuracy"]),
        weights=optimizer in OPTIMIZERS.values(),
    )


def test_an_overflow_is_skipped_as_in_stock():
    """The scale of 2¹²⁷ makes gradients above 2 infinite."""
    stock, fast = net(), kcifar.accelerate(net())
    start = [array_of(variable.value) for variable in stock.trainable_variables]
    for model in (stock, fast):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**127)
        model.compile(optimizer, crossentropy(reduction="sum"))
        model.train_on_batch(IMAGES, TARGETS)
    for model in (stock, fast):
        kept = [array_of(variable.value) for variable in model.trainable_variables]
        assert all(np.array_equal(a, b) for a, b in zip(kept, start, strict=True))
    assert float(fast.optimizer.dynamic_scale) == float(stock.optimizer.dynamic_scale)


LOSSES = {
    "crossentropy": (net, crossentropy, TARGETS, lambda: ["accuracy", top_k()]),
    "label_smoothing": (net, lambda: crossentropy(label_smoothing=0.1), TARGETS, lambda: ["accuracy"]),
    "mixed_targets": (net, crossentropy, 0.7 * TARGETS + 0.3 * TARGETS[::-1], lambda: ["accuracy"]),
    "sparse": (net, sparse, LABELS, lambda: ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=3)]),
    "sparse_column": (net, lambda: sparse(ignore_class=3), LABELS[:, None], lambda: ["accuracy"]),
    "probabilities": (probabilities, lambda: "categorical_crossentropy", TARGETS, lambda: ["accuracy"]),
    "mean_squared_error": (
        probabilities,
        lambda: keras.losses.MeanSquaredError(reduction="sum"),
        TARGETS,
        lambda: ["mae"],
    ),
    "unnormalised_targets": (net, crossentropy, 3 * TARGETS - 0.1, lambda: ["accuracy"]),
    "whole_targets": (net, crossentropy, TARGETS.astype(np.int64), lambda: ["accuracy"]),
    "sparse_in_bytes": (
        net,
        sparse,
        LABELS.astype(np.uint8)[:, None],
        lambda: ["accuracy", "sparse_categorical_crossentropy"],
    ),
    # Stock counts a sample of label −100 with a loss of zero.
    "sparse_ignored": (net, sparse, np.where(np.arange(COUNT) < 3, -100, LABELS), lambda: None),
    "no_metrics": (net, crossentropy, TARGETS, lambda: None),
    "summed": (net, lambda: crossentropy(reduction="sum"), TARGETS / 10, lambda: ["accuracy"]),
    "function": (
        probabilities,
        lambda: lambda y, p: ops.sum(ops.square(y - p), axis=-1),
        TARGETS,
        lambda: ["accuracy"],
    ),
    "weighted_metrics": (net, crossentropy, TARGETS, lambda: [keras.metrics.CategoricalCrossentropy(from_logits=True)]),
}


@pytest.mark.parametrize(("make", "loss", "targets", "metrics"), LOSSES.values(), ids=LOSSES)
def test_a_loss_and_its_metrics_are_those_of_stock(make, loss, targets, metrics):
    assert_same_training(make, lambda model: model.compile(sgd(), loss(), metrics=metrics()), targets=targets)


def test_sample_weights():
    weights = np.random.default_rng(0).uniform(0, 2, COUNT).astype(np.float32)
    assert_same_training(
        net,
        lambda model: model.compile(
            sgd(), crossentropy(), metrics=["accuracy"], weighted_metrics=["accuracy", top_k()]
        ),
        sample_weight=weights,
    )


def test_class_weights():
    assert_same_training(
        net,
        lambda model: model.compile(sgd(), crossentropy(), metrics=["accuracy"]),
        class_weight={i: 0.5 + i / 10 for i in range(CLASSES)},
    )


def penalised():
    """Losses of the layers themselves."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=4, kernel_regularizer="l2", bias_regularizer="l1", activation="relu")(image)
    x = layers.Conv2D(4, 3, strides=2, activity_regularizer="l2", activation="elu")(x)
    x = layers.BatchNormalization(gamma_regularizer="l2", beta_constraint="non_neg")(x)
    x = layers.ActivityRegularization(l1=1e-3)(layers.Activation("relu", activity_regularizer="l1")(x))
    x = layers.Dense(8, kernel_constraint=keras.constraints.MaxNorm(0.5), activity_regularizer="l2")(
        layers.Flatten()(x)
    )
    return filled(keras.Model(image, layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-3))(x)))


def test_regularizers_and_constraints():
    fast, stock = assert_same_training(
        penalised, lambda model: model.compile(sgd(), crossentropy(), metrics=["accuracy"])
    )
    fast(IMAGES), stock(IMAGES)
    assert len(fast.losses) == len(stock.losses) > 6
    for i, (got, expected) in enumerate(zip(fast.losses, stock.losses, strict=True)):
        assert_agree({f"loss {i}": got}, {f"loss {i}": expected})


@pytest.mark.parametrize("compiling", [{}, {"run_eagerly": True}], ids=str)
def test_fit_evaluate_and_predict(compiling):
    """The last batch of an epoch is a smaller one."""
    stock, fast = net(), kcifar.accelerate(net())
    for model in (stock, fast):
        model.compile(sgd(), crossentropy(), metrics=["accuracy"], **compiling)
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (IMAGES, TARGETS)}
    histories = [model.fit(IMAGES, TARGETS, **arguments).history for model in (fast, stock)]
    assert_same_logs(*histories)
    assert_same_weights(fast, stock)
    results = [model.evaluate(IMAGES, TARGETS, batch_size=8, verbose=0, return_dict=True) for model in (fast, stock)]
    assert_same_logs(*results)
    predictions = [model.predict(IMAGES, batch_size=8, verbose=0) for model in (fast, stock)]
    assert isinstance(predictions[0], np.ndarray)
    assert_same_array(*predictions)


def test_compiling_after_acceleration_and_again():
    stock, fast = net(), kcifar.accelerate(net())
    for loss, metrics in ((crossentropy(), ["accuracy"]), (keras.losses.MeanSquaredError(), ["mae"])):
        for model in (stock, fast):
            model.compile(sgd(), loss, metrics=metrics)
        assert_same_steps(fast, stock, 2)
    assert_same_weights(fast, stock)


def test_several_outputs_with_losses_of_their_own():
    def make():
        model = net()
        second = layers.Dense(CLASSES, name="second")(layers.Flatten()(model.get_layer("pool3").output))
        return keras.Model(model.input, {"logits": model.output, "second": second})

    stock, fast = filled(make()), kcifar.accelerate(filled(make()))
    for model in (stock, fast):
        losses = {"logits": crossentropy(), "second": keras.losses.MeanSquaredError()}
        model.compile(sgd(), losses, loss_weights={"logits": 1.0, "second": 0.3}, metrics={"logits": ["accuracy"]})
    assert_same_steps(fast, stock, 2, {"logits": TARGETS, "second": TARGETS})
    assert_same_weights(fast, stock)


class Counting(keras.Model):
    """Counts the steps that pass through methods of its own."""

    def train_step(self, data):
        self.trained = getattr(self, "trained", 0) + 1
        return super().train_step(data) | {"own": 1.0}

    def test_step(self, data):
        self.tested = getattr(self, "tested", 0) + 1
        return super().test_step(data)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight, training)


def test_a_train_step_of_the_users_own_is_used():
    def make():
        model = net()
        return Counting(model.input, model.output)

    fast, stock = assert_same_training(make, lambda model: model.compile(sgd(), crossentropy(), metrics=["accuracy"]))
    assert (fast.trained, fast.tested) == (stock.trained, stock.tested) == (3, 1)
    assert isinstance(fast, Counting)


def test_a_train_step_that_counts_no_loss_logs_what_it_logs_in_stock():
    class Uncounted(keras.Model):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self(x, training=True)
            self.compute_loss(x, y, y_pred).backward()
            return self.compute_metrics(x, y, y_pred)

    logs = []
    for around in (lambda model: model, kcifar.accelerate):
        plain = net()
        model = around(Uncounted(plain.input, plain.output))
        model.compile(sgd(), crossentropy(), metrics=["accuracy"])
        logs.append(
            {name: float(value) for name, value in model.train_on_batch(IMAGES, TARGETS, return_dict=True).items()}
        )
    assert logs[1] == logs[0]
    assert logs[0]["loss"] == 0


def test_a_train_step_set_on_the_model_is_used():
    model = net()
    stock_step, steps = model.train_step, []

    def own_step(data):
        steps.append(len(data))
        return stock_step(data)

    model.train_step = own_step
    kcifar.accelerate(model)
    model.compile(sgd(), crossentropy())
    model.train_on_batch(IMAGES, TARGETS)
    assert len(steps) == 1


def test_a_loss_that_a_layer_adds():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(ops.mean(ops.square(x)))
            return x

    def make():
        image = keras.Input((32, 32, 3))
        x = Penalty()(conv(strides=4, activation="relu")(image))
        return filled(keras.Model(image, layers.Dense(CLASSES)(layers.Flatten()(x))))

    assert_same_training(make, lambda model: model.compile(sgd(), crossentropy(), metrics=["accuracy"]))


def test_a_training_loop_of_the_users_own():
    stock, fast = net(), kcifar.accelerate(net())
    for model in (stock, fast):
        optimizer = training.SGD(RATE, momentum=0.9)
        for _ in range(3):
            model.zero_grad()
            loss = crossentropy()(ops.convert_to_tensor(TARGETS), model(IMAGES, training=True))
            loss.backward()
            optimizer.apply([v.value.grad for v in model.trainable_weights], model.trainable_weights)
    assert_same_weights(fast, stock)


@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_layers_keep_their_weights(when):
    stock, fast = net(), net()
    start = [variable.copy() for variable in stock.get_layer("conv1").get_weights()]
    statistics = [array.copy() for array in stock.get_layer("norm2").get_weights()]
    if when == "after":
        kcifar.accelerate(fast)
    for model in (stock, fast):
        for name in ("conv1", "norm2"):
            model.get_layer(name).trainable = False
        model.compile(sgd(), crossentropy())
    if when == "before":
        kcifar.accelerate(fast)
    for model in (stock, fast):
        for _ in range(3):
            model.train_on_batch(IMAGES, TARGETS)
    assert all(np.array_equal(a, b) for a, b in zip(fast.get_layer("conv1").get_weights(), start, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(fast.get_layer("norm2").get_weights(), statistics, strict=True))
    assert_same_weights(fast, stock)


def test_training_what_is_all_frozen_warns_as_in_stock():
    for model in (net(), kcifar.accelerate(net())):
        model.trainable = False
        model.compile(sgd(), crossentropy())
        with pytest.warns(UserWarning, match="does not have any trainable weights"):
            model.train_on_batch(IMAGES, TARGETS)


def test_thawing_between_two_trainings():
    stock, fast = net(), kcifar.accelerate(net())
    for frozen in (True, False):
        for model in (stock, fast):
            model.get_layer("conv1").trainable = model.get_layer("norm2").trainable = not frozen
            model.compile(sgd(), crossentropy())
            for _ in range(2):
                model.train_on_batch(IMAGES, TARGETS)
    assert_same_weights(fast, stock)
