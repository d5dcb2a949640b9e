"""Schedules against torch.optim's and by hand, at every step."""

import math

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch.optim import lr_scheduler

from kcifar.training import OneCycle, PiecewiseConstant, StepDecay, WarmupCosine, WarmupLinear

ON_TORCH = keras.backend.backend() == "torch"
RATE, COUNT = 0.3, 128  # JAX compiles for each number of steps that it is given: one for all

# Float32, of a place that whole numbers give. The angle of a cosine is off by 1e-7 of up to π, of which the rate gets
# half; the other roundings, of 6e-8 or less each, are four at most: 2.5e-7 of the highest rate if all go one way.
TOLERANCE = 2.5e-7
WRONG_BY = 1000 * TOLERANCE  # what a wrong reference differs by at least


def rates_of(schedule, count=COUNT, first=0):
    return np.float64(ops.convert_to_numpy(schedule(np.arange(first, first + COUNT))))[:count]


def assert_close(rates, expected):
    np.testing.assert_allclose(rates, expected, rtol=0, atol=TOLERANCE * np.max(expected))


# --- Against PyTorch ---


def torch_rates(scheduler_of, count):
    """What an optimizer of one float64 parameter has in each step."""
    parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], RATE)
    scheduler, rates = scheduler_of(optimizer), []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    assert -parameter.item() == pytest.approx(sum(rates))
    return np.array(rates)


def torch_cosine(steps, warmup=0, final=0.0):
    def scheduler_of(optimizer):
        linear = warmup and lr_scheduler.LinearLR(optimizer, 1e-9, 1.0, warmup)  # it refuses to begin at 0
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, final)
        return lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup]) if warmup else cosine

    return scheduler_of


def torch_lambda(factor_of):
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor_of)


def torch_linear(steps, warmup=0, start=0.0, end=0.0):
    def scheduler_of(optimizer):
        falling = lr_scheduler.LinearLR(optimizer, 1.0, end, steps - warmup)
        if not warmup:
            return falling
        rising = lr_scheduler.LinearLR(optimizer, start, 1.0, warmup)
        return lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])

    return scheduler_of


def torch_step(steps, gamma):
    return lambda optimizer: lr_scheduler.StepLR(optimizer, steps, gamma)


def torch_multi_step(boundaries, gamma):
    return lambda optimizer: lr_scheduler.MultiStepLR(optimizer, boundaries, gamma)


def torch_one_cycle(steps, up, start, final, shape="cosine", **more):
    more |= {"anneal_strategy": "cos" if shape == "cosine" else shape, "div_factor": start, "final_div_factor": final}
    return lambda o: lr_scheduler.OneCycleLR(o, RATE, steps, pct_start=up / steps, cycle_momentum=False, **more)


def he(t, steps=100, warmup=30, final=0.02):
    """He et al. 2019, section 5.1, of the highest rate."""
    falling = 0.5 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup)))
    return t / warmup if t < warmup else final / RATE + (1 - final / RATE) * falling


UNEVEN = (1.0, 0.2, 0.5, 0.0)


def uneven(t):
    return UNEVEN[(t >= 1) + (t >= 2) + (t >= 40)]


# name: (schedule, steps that are compared, torch's)
CASES = {
    "cosine": (WarmupCosine(RATE, 97), 98, torch_cosine(97)),
    "cosine to a rate": (WarmupCosine(RATE, 97, final=0.01), 98, torch_cosine(97, final=0.01)),
    "cosine that stays": (WarmupCosine(RATE, 97, final=RATE), 98, torch_cosine(97, final=RATE)),
    "cosine of one step": (WarmupCosine(RATE, 1), 2, torch_cosine(1)),
    "warm-up": (WarmupCosine(RATE, 100, 30), 101, torch_cosine(100, 30)),
    "warm-up, to a rate": (WarmupCosine(RATE, 100, 30, 0.02), 101, torch_cosine(100, 30, 0.02)),
    "warm-up of one step": (WarmupCosine(RATE, 50, 1), 51, torch_cosine(50, 1)),
    "warm-up of all but one": (WarmupCosine(RATE, 50, 49, 0.02), 51, torch_cosine(50, 49, 0.02)),
    "He et al.": (WarmupCosine(RATE, 100, 30, 0.02), 101, torch_lambda(he)),
    "linear": (WarmupLinear(RATE, 97), 98, torch_linear(97)),
    "linear, not to 0": (WarmupLinear(RATE, 97, end_factor=0.07), COUNT, torch_linear(97, end=0.07)),
    "airbench94's": (WarmupLinear(RATE, 100, 23, 0.2, 0.07), COUNT, torch_linear(100, 23, 0.2, 0.07)),
    "steps": (StepDecay(RATE, 30), COUNT, torch_step(30, 0.1)),
    "steps of one": (StepDecay(RATE, 1, 0.97), COUNT, torch_step(1, 0.97)),
    "steps that stay": (StepDecay(RATE, 7, 1.0), COUNT, torch_step(7, 1.0)),
    "steps up": (StepDecay(RATE, 30, 1.5), COUNT, torch_step(30, 1.5)),
    "pieces": (PiecewiseConstant(RATE, [1, 2, 40], UNEVEN), COUNT, torch_lambda(uneven)),
    "powers": (PiecewiseConstant(RATE, (8, 9, 99), (1, 0.1, 0.01, 1e-3)), COUNT, torch_multi_step([8, 9, 99], 0.1)),
    "one piece": (PiecewiseConstant(RATE, [], [0.5]), COUNT, torch_lambda(lambda t: 0.5)),
}
for shape in ("cosine", "linear"):
    for cycle in [
        (100, 30, 25.0, 1e4), (100, 25, 10.0, 100.0), (128, 2, 4.0, 1e3), (10, 9, 25.0, 1e4), (3, 2, 2.0, 2.0),
        (90, 45, 1.0, 1.0), (90, 40, 5.0, 0.5),
    ]:  # fmt: skip
        name = f"one {shape} cycle, {cycle[1]} up of {cycle[0]}, /{cycle[2]:g}, /{cycle[3]:g}"
        CASES[name] = (OneCycle(RATE, *cycle, shape), cycle[0], torch_one_cycle(*cycle, shape))


@pytest.mark.parametrize(("schedule", "count", "scheduler_of"), CASES.values(), ids=list(CASES))
def test_every_step_is_torchs(schedule, count, scheduler_of):
    assert_close(rates_of(schedule, count), torch_rates(scheduler_of, count))


CYCLE = "one cosine cycle, 30 up of 100, /25, /10000"
WRONG = {
    "a cosine counted from step 0": ("warm-up", torch_cosine(130, 30)),
    "a cosine a step too short": ("warm-up", torch_cosine(99, 30)),
    "a cosine from the start on": ("warm-up", torch_cosine(100)),
    "a warm-up from 1/m": ("He et al.", torch_lambda(lambda t: he(t) if t >= 30 else (t + 1) / 30)),
    "a warm-up a step too long": ("warm-up", torch_cosine(100, 31)),
    "final forgotten": ("warm-up, to a rate", torch_cosine(100, 30)),
    "final as a factor": ("warm-up, to a rate", torch_cosine(100, 30, 0.02 * RATE)),
    "a linear decay a step too long": ("airbench94's", torch_linear(101, 23, 0.2, 0.07)),
    "final added": ("He et al.", torch_lambda(lambda t: he(t, final=0) + (0.02 / RATE if t >= 30 else 0))),
    "a decay a step early": ("steps", torch_lambda(lambda t: 0.1 ** ((t + 1) // 30))),
    "a decay a step late": ("steps", torch_step(31, 0.1)),
    "a decay without steps": ("steps", torch_lambda(lambda t: 0.1 ** (t / 30))),
    "boundaries a step early": ("powers", torch_multi_step([7, 8, 98], 0.1)),
    "boundaries a step late": ("powers", torch_multi_step([9, 10, 100], 0.1)),
    "factors that multiply": ("pieces", torch_lambda(lambda t: uneven(t) * (0.2 if 2 <= t < 40 else 1))),
    "the top a step late": (CYCLE, torch_one_cycle(100, 31, 25.0, 1e4)),
    "the end a step late": (CYCLE, torch_one_cycle(101, 30, 25.0, 1e4)),
    "the other shape": (CYCLE, torch_one_cycle(100, 30, 25.0, 1e4, "linear")),
    "three phases": (CYCLE, torch_one_cycle(100, 30, 25.0, 1e4, three_phase=True)),
    "the last rate a part of the highest": (
        "one linear cycle, 25 up of 100, /10, /100", torch_one_cycle(100, 25, 10.0, 10.0, "linear"),
    ),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize(("case", "wrong"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(case, wrong):
    """So the comparison above would see each of these mistakes."""
    _, count, scheduler_of = CASES[case]
    assert np.abs(torch_rates(wrong, count) - torch_rates(scheduler_of, count)).max() > WRONG_BY * RATE


# --- By hand ---

ROOT_HALF = math.sqrt(0.5)  # cos(π/4)
BY_HAND = {
    "warm-up": (
        WarmupCosine(0.8, 12, 4, 0.2),
        {0: 0, 1: 0.2, 2: 0.4, 4: 0.8, 6: 0.5 + 0.3 * ROOT_HALF, 8: 0.5, 10: 0.5 - 0.3 * ROOT_HALF, 12: 0.2, 99: 0.2},
    ),
    "cosine": (WarmupCosine(2.0, 8), {0: 2, 2: 1 + ROOT_HALF, 4: 1, 6: 1 - ROOT_HALF, 8: 0, 9: 0, 127: 0}),
    "steps": (StepDecay(0.5, 3), {0: 0.5, 2: 0.5, 3: 0.05, 5: 0.05, 6: 0.005, 9: 5e-4}),
    "pieces": (
        PiecewiseConstant(0.4, [2, 5], [1, 0.5, 3]),
        {0: 0.4, 1: 0.4, 2: 0.2, 4: 0.2, 5: 1.2, 127: 1.2},
    ),
    "cosine cycle": (
        OneCycle(1.0, 11, 5, 10.0, 100.0),
        {0: 0.1, 1: 0.55 - 0.45 * ROOT_HALF, 2: 0.55, 4: 1, 7: 0.5005, 10: 0.001, 11: 0.001, 127: 0.001},
    ),
    "linear cycle": (
        OneCycle(1.0, 11, 5, 10.0, 100.0, "linear"),
        {0: 0.1, 1: 0.325, 2: 0.55, 4: 1, 5: 1 - 0.999 / 6, 7: 0.5005, 10: 0.001, 11: 0.001, 127: 0.001},
    ),
    "defaults of the cycle": (OneCycle(1.0, 11, 5), {0: 1 / 25, 2: 0.52, 4: 1, 10: 1 / 25e4}),
}


@pytest.mark.parametrize(("schedule", "expected"), BY_HAND.values(), ids=list(BY_HAND))
def test_by_hand(schedule, expected):
    """Here of the rate itself, not of the highest: so that low ones count too."""
    rates = rates_of(schedule)
    assert {step: rates[step] for step in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)


def assert_monotone(*pieces):
    """Each (rates, sign of their change)."""
    for rates, sign in pieces:
        assert (np.diff(rates) * sign > 0).all()


def test_rates_rise_and_fall_where_they_should():
    rates = rates_of(WarmupCosine(RATE, 100, 30, 0.02))
    assert_monotone((rates[:31], 1), (rates[30:101], -1))
    assert set(rates[100:]) == {np.float32(0.02)}
    for shape in ("cosine", "linear"):
        rates = rates_of(OneCycle(RATE, 100, 30, 5.0, 10.0, shape))
        assert_monotone((rates[:30], 1), (rates[29:100], -1))
        assert set(rates[99:]) == {np.float32(RATE / 50)}
    rates = rates_of(StepDecay(RATE, 16, 0.5))
    assert_monotone((rates[::16], -1))
    assert len(set(rates)) == COUNT // 16


# --- Any step ---

KINDS = {
    "WarmupCosine": WarmupCosine(RATE, 14, 4, 0.01),
    "WarmupLinear": WarmupLinear(RATE, 14, 4, 0.2, 0.07),
    "StepDecay": StepDecay(RATE, 4, 0.5),
    "PiecewiseConstant": PiecewiseConstant(RATE, (3, 7), (0.5, 1.0, 0.1)),
    "OneCycle": OneCycle(RATE, 14, 5),
    "OneCycle, linear": OneCycle(RATE, 14, 5, 10.0, 100.0, "linear"),
}
each_kind = pytest.mark.parametrize("schedule", KINDS.values(), ids=list(KINDS))


@each_kind
def test_an_array_of_steps_is_step_by_step(schedule):
    rates = rates_of(schedule)
    # A library's cosine of one number and of many may differ in the last place.
    np.testing.assert_allclose([float(schedule(step)) for step in range(16)], rates[:16], rtol=0, atol=6e-8 * RATE)
    square = schedule(np.arange(COUNT).reshape(8, 16))
    assert (square.shape, keras.backend.standardize_dtype(square.dtype)) == ((8, 16), "float32")
    np.testing.assert_array_equal(np.ravel(ops.convert_to_numpy(square)), rates)


@each_kind
def test_a_step_is_any_whole_number(schedule):
    whole = keras.Variable(8, dtype="int32", trainable=False)
    kinds = [8, np.int64(8), np.int32(8), np.array(8), ops.convert_to_tensor(8), whole]
    rates = [schedule(step) for step in kinds]
    assert {(tuple(rate.shape), keras.backend.standardize_dtype(rate.dtype)) for rate in rates} == {((), "float32")}
    assert {float(rate) for rate in rates} == {float(rates[0])}


LATE = 20_000_001  # a step that float32 cannot hold: it has every second number there


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_late_steps_are_as_exact_as_early_ones(shape):
    early, late = OneCycle(RATE, 101, 31, 5.0, 10.0, shape), OneCycle(RATE, LATE + 100, LATE + 30, 5.0, 10.0, shape)
    np.testing.assert_array_equal(rates_of(late, first=LATE + 29), rates_of(early, first=30))
    cosine = rates_of(WarmupCosine(RATE, LATE + 100, LATE, 0.01), first=LATE)
    np.testing.assert_array_equal(cosine, rates_of(WarmupCosine(RATE, 100, 0, 0.01)))


def test_late_changes_are_at_their_step():
    pieces = PiecewiseConstant(RATE, [LATE, LATE + 1, LATE + 2], [1.0, 0.5, 0.25, 0.125])
    np.testing.assert_array_equal(rates_of(pieces, 5, LATE - 2) / np.float32(RATE), [1, 1, 0.5, 0.25, 0.125])
    for steps in (LATE, LATE // 3):  # LATE is a multiple of 3
        rates = rates_of(StepDecay(RATE, steps, 0.5), 4, LATE - 2)
        np.testing.assert_allclose(rates[2:], rates[:2] / 2, rtol=1e-6)
        assert rates[0] == rates[1]


@pytest.mark.parametrize("steps", [10_000_000, 100_000_000])
def test_long_schedules_are_exact_all_the_way(steps):
    t, up = np.linspace(0, steps, COUNT, dtype=np.int64), steps // 10
    fall = 0.5 * (1 + np.cos(np.pi * (t - up) / (steps - up)))
    expected = np.where(t < up, RATE * t / up, 0.01 + (RATE - 0.01) * fall)
    assert_close(ops.convert_to_numpy(WarmupCosine(RATE, steps, up, 0.01)(t)), expected)
    fall = 1 - (t - up) / (steps - 1 - up)
    expected = np.minimum(RATE, np.where(t < up, RATE / 2 * (1 + t / up), RATE * (0.25 + 0.75 * fall)))
    expected[-1] = RATE / 4
    assert_close(ops.convert_to_numpy(OneCycle(RATE, steps, up + 1, 2.0, 2.0, "linear")(t)), expected)
