"""CyclicLR against torch's scheduler and Smith's formula; and what the optimizer really uses inside fit."""

import math

import keras
import numpy as np
import pytest
import torch
from keras import ops

from kcifar import InputError
from kcifar.callbacks import CyclicLR
from kcifar.data import Batches, Split
from kcifar.training import SGD

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODES = ("triangular", "triangular2", "exp_range")


def torch_rates(first, count, **arguments):
    """`count` learning rates of torch's scheduler from step `first` on."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, cycle_momentum=False, **arguments)
    optimizer.step()  # torch warns where the scheduler steps first
    if first:
        scheduler.last_epoch = first - 1  # its rate is a function of the step alone
        scheduler.step()
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return rates


HALVES = [(10, None), (7, 7), (3, 8), (8, 3), (1, 1), (1, 5), (2000, 1500)]


def assert_is_torchs(first, count, up, down, mode, gamma):
    cycle = CyclicLR(1e-3, 4e-3, up, down, mode=mode, gamma=gamma)
    expected = torch_rates(
        first, count, base_lr=1e-3, max_lr=4e-3, step_size_up=up, step_size_down=down, mode=mode, gamma=gamma
    )
    rates = [cycle.learning_rate_at(step) for step in range(first, first + count)]
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)  # both are float64: the difference is rounding


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("up", "down"), HALVES)
def test_every_step_of_six_cycles_is_torchs(mode, up, down):
    assert_is_torchs(0, 6 * (up + (down or up)), up, down, mode, gamma=0.9999)


@pytest.mark.parametrize(("up", "down"), HALVES)
@pytest.mark.parametrize("mode", ["triangular", "exp_range"])
def test_late_steps_are_torchs(mode, up, down):
    assert_is_torchs(99_990, 60, up, down, mode, gamma=0.99998)


def test_late_steps_of_triangular2_are_torchs_and_go_on_where_torch_overflows():
    assert_is_torchs(99_990, 60, 200, 150, "triangular2", 1.0)
    # Of the 5,000th cycle torch takes 2 ** 4999, an OverflowError; half of a half of … is 0.
    assert CyclicLR(1e-3, 4e-3, 10, mode="triangular2").learning_rate_at(100_010) == 1e-3


def test_a_large_learning_rate_is_torchs_too():
    cycle = CyclicLR(0.5, 30.0, 5, 9, mode="exp_range", gamma=0.99)
    expected = torch_rates(
        0, 100, base_lr=0.5, max_lr=30.0, step_size_up=5, step_size_down=9, mode="exp_range", gamma=0.99
    )
    np.testing.assert_allclose([cycle.learning_rate_at(t) for t in range(100)], expected, rtol=0, atol=1e-7)


def test_triangular_by_hand():
    cycle = CyclicLR(1.0, 5.0, 4)
    assert [cycle.learning_rate_at(t) for t in range(13)] == pytest.approx([1, 2, 3, 4, 5, 4, 3, 2, 1, 2, 3, 4, 5])


def test_triangular2_by_hand():
    cycle = CyclicLR(1.0, 5.0, 2, mode="triangular2")
    assert [cycle.learning_rate_at(t) for t in (0, 2, 4, 6, 8, 10, 11)] == pytest.approx([1, 5, 1, 3, 1, 2, 1.5])


def test_exp_range_by_hand():
    cycle = CyclicLR(1.0, 5.0, 4, mode="exp_range", gamma=0.5)
    assert [cycle.learning_rate_at(t) for t in (0, 2, 4, 6)] == pytest.approx([1, 1 + 2 / 4, 1 + 4 / 16, 1 + 2 / 64])


@pytest.mark.parametrize("mode", MODES)
def test_smiths_formula(mode):
    """c = ⌊1 + t/2s⌋, x = |t/s − 2c + 1|, lr = base + (max − base)·max(0, 1 − x)·k."""
    s, gamma = 6, 0.97
    cycle = CyclicLR(0.001, 0.004, s, mode=mode, gamma=gamma)
    for t in range(70):
        c = math.floor(1 + t / (2 * s))
        x = abs(t / s - 2 * c + 1)
        k = {"triangular": 1, "triangular2": 1 / 2 ** (c - 1), "exp_range": gamma**t}[mode]
        assert cycle.learning_rate_at(t) == pytest.approx(0.001 + 0.003 * max(0, 1 - x) * k, abs=1e-12)


def test_the_unequal_halves_by_hand():
    cycle = CyclicLR(0.0, 1.0, 2, 4)
    rates = [cycle.learning_rate_at(t) for t in range(8)]
    assert rates == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0.5])
    assert all(type(rate) is float for rate in rates)


class Record(keras.callbacks.Callback):
    """The learning rate that the optimizer shows before each batch, and how far the weight then moves."""

    def __init__(self):
        super().__init__()
        self.shown, self.weights = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.shown.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        if not self.weights:
            self.weights.append(self.weight())

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.weight())

    def weight(self):
        return float(self.model.get_weights()[0].item())

    def moved(self):
        return -np.diff(np.float64(self.weights))


def unit_gradient_model(optimizer=None):
    """One weight, from 0, whose gradient is always 1: under plain SGD it moves by the learning rate."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer=optimizer or SGD(learning_rate=1.0), loss=lambda y_true, y_pred: ops.mean(y_pred))
    return model


ONES = np.ones((10, 1), np.float32)


def fit(model, cycle, batch_size=2, **arguments):
    record = Record()
    model.fit(ONES, ONES, batch_size=batch_size, callbacks=[cycle, record], verbose=0, **arguments)
    return record


def assert_used(record, expected):
    """Shown in float32 (6e-8 of it); read off a weight below 0.5, whose float32 ends at 3e-8."""
    np.testing.assert_allclose(record.shown, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(record.moved(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_fit_uses_the_rate_of_each_batch(mode):
    cycle = CyclicLR(1e-3, 8e-3, 3, 4, mode=mode, gamma=0.9)
    record = fit(unit_gradient_model(), cycle, epochs=4)
    assert_used(record, [cycle.learning_rate_at(t) for t in range(20)])


@pytest.mark.parametrize("mode", MODES)
def test_fit_uses_the_rate_of_each_epoch(mode):
    cycle = CyclicLR(1e-3, 8e-3, 2, 3, mode=mode, gamma=0.9, unit="epoch")
    record = fit(unit_gradient_model(), cycle, batch_size=4, epochs=8)  # 3 steps an epoch, the last one partial
    assert_used(record, [cycle.learning_rate_at(epoch) for epoch in range(8) for _ in range(3)])


def test_an_epoch_of_batches_is_as_long_as_they_are():
    split = Split(np.full((10, 32, 32, 3), 1, np.uint8), np.zeros(10, np.int64), 1)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    model.compile(optimizer=SGD(1.0), loss=lambda y_true, y_pred: ops.mean(y_pred))
    cycle, record = CyclicLR(1e-3, 8e-3, 2, unit="epoch"), Record()
    record.weight = lambda: float(record.model.get_weights()[0][0, 0])
    model.fit(Batches(split, 3, drop_last=True), shuffle=False, epochs=4, callbacks=[cycle, record], verbose=0)
    assert_used(record, [cycle.learning_rate_at(epoch) for epoch in range(4) for _ in range(3)])


def test_keras_own_optimizer_follows_too():
    cycle = CyclicLR(1e-3, 8e-3, 3)
    record = fit(unit_gradient_model(keras.optimizers.SGD(1.0)), cycle, epochs=2)
    assert_used(record, [cycle.learning_rate_at(t) for t in range(10)])


@pytest.mark.parametrize("unit", ["batch", "epoch"])
def test_a_second_fit_goes_on_in_the_cycle(unit):
    model = unit_gradient_model()
    cycle = CyclicLR(1e-3, 8e-3, 3, 4, unit=unit)
    fit(model, cycle, epochs=2)
    record = fit(model, CyclicLR(1e-3, 8e-3, 3, 4, unit=unit), epochs=5, initial_epoch=2)
    steps = range(10, 25) if unit == "batch" else [epoch for epoch in (2, 3, 4) for _ in range(5)]
    assert_used(record, [cycle.learning_rate_at(step) for step in steps])


def test_a_second_fit_may_have_another_cycle():
    """JAX compiles the step once: the new cycle must not be lost to the compiled one."""
    model = unit_gradient_model()
    fit(model, CyclicLR(1e-3, 8e-3, 3), epochs=1)
    cycle = CyclicLR(1e-2, 4e-2, 2)
    record = fit(model, cycle, epochs=2, initial_epoch=1)
    assert_used(record, [cycle.learning_rate_at(t) for t in range(5, 10)])


def test_a_cycle_may_follow_a_fit_without_one():
    model = unit_gradient_model(SGD(1e-3))
    model.fit(ONES, ONES, batch_size=2, verbose=0)
    cycle = CyclicLR(1e-2, 4e-2, 2)
    assert_used(fit(model, cycle), [cycle.learning_rate_at(t) for t in range(5, 10)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("up", "down"), [(7, 4), (2000, 2000)])
def test_late_steps_are_as_exact_as_early_ones(mode, up, down):
    """At step 100,000 float32 has one part in 10 million left of t/(u+d), and γ^t is off by t roundings of γ."""
    model = unit_gradient_model()
    model.optimizer.iterations.assign(101_500)
    cycle = CyclicLR(1e-3, 8e-3, up, down, mode=mode, gamma=0.99998)
    assert_used(fit(model, cycle, epochs=3), [cycle.learning_rate_at(t) for t in range(101_500, 101_515)])


def test_late_epochs_begin_at_their_first_batch():
    model = unit_gradient_model()
    cycle = CyclicLR(1e-3, 8e-3, 3, unit="epoch")
    shown = []
    for epoch in (33, 1_001, 19_999, 33_333):  # 5 steps each
        model.optimizer.iterations.assign(epoch * 5)
        model.layers[0].set_weights([np.zeros((1, 1))])
        record = fit(model, cycle, epochs=1)
        assert_used(record, [cycle.learning_rate_at(epoch)] * 5)
        shown += record.shown
    assert len(set(shown)) > 1


def test_a_model_trained_with_a_cycle_is_saved_and_loaded(tmp_path):
    model = unit_gradient_model(SGD(1.0))
    model.compile(optimizer=model.optimizer, loss="mean_squared_error")
    cycle = CyclicLR(1e-3, 8e-3, 3)
    fit(model, cycle, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 5
    record = fit(loaded, cycle, epochs=2, initial_epoch=1)
    np.testing.assert_allclose(record.shown, [cycle.learning_rate_at(t) for t in range(5, 10)], rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", [SGD, keras.optimizers.Adam])
def test_afterwards_the_optimizer_has_a_plain_rate_again(make, tmp_path):
    """That of the next step, which may be set, and is saved where every optimizer has it, for plain Keras."""
    model = unit_gradient_model(make(1.0))
    names = [variable.name for variable in model.optimizer.variables]
    cycle = CyclicLR(1e-3, 8e-3, 3)
    for first in (0, 1):
        fit(model, cycle, epochs=first + 1, initial_epoch=first)
        rate = ops.convert_to_numpy(model.optimizer.learning_rate)
        assert float(rate) == pytest.approx(cycle.learning_rate_at(5 * (first + 1)))
        assert [variable.name for variable in model.optimizer.variables][: len(names)] == names
    model.optimizer.learning_rate = 0.25
    record = fit(model, keras.callbacks.Callback(), epochs=3, initial_epoch=2)
    assert record.shown == [0.25] * 5
    if make is not SGD:  # plain Keras has no class of kcifar's
        model.compile(optimizer=model.optimizer, loss="mean_squared_error")
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
        assert float(ops.convert_to_numpy(loaded.learning_rate)) == 0.25
        for ours, theirs in zip(model.optimizer.variables, loaded.variables, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(theirs), ops.convert_to_numpy(ours), err_msg=ours.name)


def test_a_schedule_that_is_there_is_not_replaced():
    model = unit_gradient_model(SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    with pytest.raises(InputError, match="CosineDecay, which would be lost"):
        fit(model, CyclicLR(1e-3, 8e-3, 3), epochs=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"base": -1e-3}, "base"),
        ({"base": 5e-3}, "base"),
        ({"base": float("nan")}, "base"),
        ({"maximum": float("nan")}, "maximum"),
        ({"maximum": float("inf")}, "maximum"),
        ({"step_size_up": True}, "step_size_up"),
        ({"step_size_up": 0}, "step_size_up"),
        ({"step_size_up": -3}, "step_size_up"),
        ({"step_size_up": 2.5}, "step_size_up"),
        ({"step_size_down": 0}, "step_size_down"),
        ({"step_size_down": 2.5}, "step_size_down"),
        ({"mode": "triangle"}, "triangular"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.5}, "gamma"),
        ({"unit": "step"}, "batch"),
    ],
)
def test_an_argument_outside_its_range_is_refused(changes, named):
    arguments = {"base": 1e-3, "maximum": 4e-3, "step_size_up": 10} | changes
    with pytest.raises(InputError, match=named) as caught:
        CyclicLR(**arguments)
    assert "\n" not in str(caught.value)
