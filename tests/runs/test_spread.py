"""Mean, deviation and interval over seeds, by hand and by the quantiles of Student's t in printed tables."""

import math

import pytest

from kcifar.runs.report.spread import Spread, ranges, spread

pytestmark = pytest.mark.once


def test_three_numbers_by_hand():
    found = spread([1, 2, 3])
    assert (found.n, found.mean, found.deviation) == (3, 2, 1)  # of n − 1: with n it would be 0.816
    half = 4.3027 / math.sqrt(3)  # t(0.975; 2)
    assert found.interval == pytest.approx((2 - half, 2 + half), abs=5e-5)


@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (5, 2.7764), (31, 2.0423)])
def test_the_quantile_is_that_of_a_degree_of_freedom_less(n, t):
    found = spread([0.1, -0.1] * (n // 2) + [0.0] * (n % 2))
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(t * found.deviation / math.sqrt(n), rel=1e-4)


def test_of_one_run_there_is_no_deviation():
    assert spread([0.75]) == Spread(1, 0.75, None, None)


def test_equal_runs_have_no_deviation_of_rounding():
    assert spread([0.1] * 3) == Spread(3, 0.1, 0.0, (0.1, 0.1))


def test_of_an_infinite_figure_the_deviation_is_no_number():
    found = spread([math.inf, 1.0])
    assert found.mean == math.inf
    assert math.isnan(found.deviation)


def test_whole_numbers_in_short():
    assert ranges([5, 0, 2, 1, 8, 9]) == "0–2, 5, 8, 9"
    assert ranges([42]) == "42"
