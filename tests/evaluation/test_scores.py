"""Figures of probabilities against plain loops, by their formulas and by hand."""

import math
import statistics

import numpy as np
import pytest
from scipy import optimize

from kcifar.evaluation.models import log_probabilities
from kcifar.evaluation.scores import Scores, are_probabilities, best_temperature, normalised

pytestmark = pytest.mark.once

# Figures and references are both sums of a few hundred float64 numbers in some order: 1e-12 of them.
EXACT = {"rel": 1e-12, "abs": 1e-13}


def scores_of(probabilities, labels):
    return Scores(np.log(np.float64(probabilities)), np.asarray(labels, np.int64))


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def drawn(n=300, classes=7, seed=0, spread=2.0, help=1.5):
    """(probabilities as lists, labels): each label's logit has some help, so that about half are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, n)  # none of the last class
    logits = rng.normal(size=(n, classes)) * spread
    logits[np.arange(n), labels] += help * rng.random(n) * spread
    return [softmax(row) for row in logits.tolist()], labels.tolist()


@pytest.fixture(scope="module")
def case():
    probabilities, labels = drawn()
    return probabilities, labels, scores_of(probabilities, labels)


# --- Against loops ---


def test_accuracy_predictions_and_confidence(case):
    probabilities, labels, scores = case
    first_largest = [row.index(max(row)) for row in probabilities]
    np.testing.assert_array_equal(scores.predicted, first_largest)
    assert scores.confidence == pytest.approx([max(row) for row in probabilities], **EXACT)
    right = [one == other for one, other in zip(first_largest, labels, strict=True)]
    assert 0.3 < sum(right) / len(right) < 0.9
    assert scores.correct.tolist() == right
    assert scores.accuracy == sum(right) / len(right)
    assert scores.probabilities == pytest.approx(np.array(probabilities), **EXACT)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_top(case, count):
    probabilities, labels, scores = case
    among = sum(
        label in sorted(range(7), key=lambda place: -row[place])[:count]
        for row, label in zip(probabilities, labels, strict=True)
    )
    assert scores.top(count) == among / len(labels)


def test_loss_and_brier(case):
    probabilities, labels, scores = case
    loss = brier = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        loss -= math.log(row[label])
        brier += sum((value - (place == label)) ** 2 for place, value in enumerate(row))
    assert scores.loss == pytest.approx(loss / len(labels), **EXACT)
    assert scores.brier == pytest.approx(brier / len(labels), **EXACT)


def binned(probabilities, labels, bins):
    """[(confidences, whether right), …] of the bins, from (0, 1/bins]."""
    found = [([], []) for _ in range(bins)]
    for row, label in zip(probabilities, labels, strict=True):
        confidence = max(row)
        place = next(k for k in range(bins) if k / bins < confidence <= (k + 1) / bins)
        found[place][0].append(confidence)
        found[place][1].append(row.index(confidence) == label)
    return found


@pytest.mark.parametrize("bins", [15, 10, 4, 1])
def test_reliability(case, bins):
    probabilities, labels, scores = case
    images, confidence, accuracy = scores.reliability(bins)
    expected = binned(probabilities, labels, bins)
    assert list(images) == [len(right) for _, right in expected]
    mean = [sum(values) / len(values) if values else math.nan for values, _ in expected]
    right = [sum(values) / len(values) if values else math.nan for _, values in expected]
    assert confidence == pytest.approx(np.array(mean), nan_ok=True, **EXACT)
    assert accuracy == pytest.approx(np.array(right), nan_ok=True, **EXACT)


def test_calibration_error(case):
    probabilities, labels, scores = case
    expected = sum(abs(sum(right) - sum(values)) for values, right in binned(probabilities, labels, 15)) / len(labels)
    assert scores.calibration_error == pytest.approx(expected, **EXACT)
    of_ten = sum(abs(sum(right) - sum(values)) for values, right in binned(probabilities, labels, 10)) / len(labels)
    assert abs(of_ten - expected) > 1e-4  # so another number of bins would show


def test_confusion_and_per_class(case):
    probabilities, labels, scores = case
    expected = np.zeros((7, 7), int)
    for row, label in zip(probabilities, labels, strict=True):
        expected[label, row.index(max(row))] += 1
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.confusion.dtype == np.int64
    of_each = [expected[k, k] / expected[k].sum() for k in range(6)] + [math.nan]
    assert scores.per_class == pytest.approx(np.array(of_each), nan_ok=True, **EXACT)


def test_worst(case):
    probabilities, labels, scores = case
    mistakes = [place for place, row in enumerate(probabilities) if row.index(max(row)) != labels[place]]
    mistakes.sort(key=lambda place: -max(probabilities[place]))
    assert list(scores.worst(9)) == mistakes[:9]
    assert list(scores.worst(10_000)) == mistakes


# --- Wilson ---


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("right", "n"), [(0, 7), (1, 7), (7, 7), (9433, 10000), (1, 1)])
def test_wilson_by_its_equation(right, n, level):
    """The two p with |p̂ − p| = z·√(p(1 − p)/n), as Wilson wrote it: roots of (1 + z²/n)p² − (2p̂ + z²/n)p + p̂²."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share = right / n
    expected = sorted(np.roots([1 + z * z / n, -(2 * share + z * z / n), share * share]).real)
    scores = scores_of([[0.75, 0.25]] * n, [0] * right + [1] * (n - right))
    low, high = scores.accuracy_interval(level)
    assert (low, high) == pytest.approx(expected, abs=1e-7)  # roots of a nearly double root have half the digits
    assert 0 <= low <= share + 1e-15
    assert share - 1e-15 <= high <= 1


def test_wilson_of_published_figures():
    """5 and 0 of 10 at 95 %: 0.2366 to 0.7634 and 0 to 0.2775."""
    half = scores_of([[0.75, 0.25]] * 10, [0, 1] * 5).accuracy_interval()
    assert half == pytest.approx((0.2366, 0.7634), abs=5e-5)
    none = scores_of([[0.75, 0.25]] * 10, [1] * 10).accuracy_interval()
    assert none == pytest.approx((0, 0.2775), abs=5e-5)


# --- By hand ---


def test_two_images_by_hand():
    scores = scores_of([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], [1, 2])
    assert scores.predicted.tolist() == [0, 2]
    assert scores.loss == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, **EXACT)
    # 0.5² + 0.75² + 0.25² and 2·0.125² + 0.25²
    assert scores.brier == pytest.approx((0.875 + 0.09375) / 2, **EXACT)
    assert scores.calibration_error == pytest.approx((0.5 + 0.25) / 2, **EXACT)  # in bins 8 and 12 of 15
    assert scores.worst(5).tolist() == [0]
    assert scores.per_class == pytest.approx([math.nan, 0, 1], nan_ok=True)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it():
    scores = scores_of([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0625], [0.125, 0.5, 0.25], [0.6, 0.2, 0.2]], [0, 0, 1, 0])
    images, confidence, accuracy = scores.reliability(4)
    assert images.tolist() == [0, 2, 2, 0]
    assert confidence == pytest.approx([math.nan, 0.5, 0.675, math.nan], nan_ok=True, **EXACT)
    assert accuracy == pytest.approx([math.nan, 1, 0.5, math.nan], nan_ok=True, **EXACT)


@pytest.mark.parametrize("bins", [1, 15])
def test_full_confidence_is_in_the_last_bin(bins):
    scores = Scores(normalised(np.array([[1000.0, 0.0], [0.0, 900.0]])), np.array([0, 0]))
    images, confidence, accuracy = scores.reliability(bins)
    assert (images[-1], confidence[-1], accuracy[-1]) == (2, 1.0, 0.5)
    assert scores.calibration_error == 0.5
    assert scores.loss == 450  # 900 nats on one of two


def test_ties_go_to_the_first_class():
    scores = scores_of([[0.25, 0.375, 0.375], [0.25, 0.375, 0.375]], [1, 2])
    assert scores.predicted.tolist() == [1, 1]
    assert scores.accuracy == scores.top(1) == 0.5
    assert scores.top(2) == 1


# --- Temperature ---


@pytest.mark.parametrize(("temperature", "right"), [(3.0, 3), (0.5, 3), (1.0, 3), (2.5, 2.2)])
def test_the_temperature_of_two_classes_by_hand(temperature, right):
    """Where q of the images are right and all logits differ by d, σ(d/T) = q: T = d / log(q/(1 − q))."""
    n, share = 1000, round(1000 * right / (1 + right))
    gap = temperature * math.log(share / (n - share))
    logits = np.tile([gap, 0.0], (n, 1))
    scores = Scores(normalised(logits), np.array([0] * share + [1] * (n - share)))
    assert best_temperature(scores) == pytest.approx(temperature, rel=1e-3)


def test_the_temperature_is_that_of_the_least_loss(case):
    probabilities, labels, scores = case

    def loss(log_temperature):
        heat = math.exp(log_temperature)
        rows = [softmax([math.log(value) / heat for value in row]) for row in probabilities]
        return -sum(math.log(row[label]) for row, label in zip(rows, labels, strict=True))

    found = optimize.minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded")
    # A loss is flat at its minimum: two minimisers agree to the root of their precision.
    assert best_temperature(scores) == pytest.approx(math.exp(found.x), rel=1e-3)


@pytest.mark.parametrize("known", [0.2, 3.0, 10.0])
def test_logits_that_are_too_large_by_a_factor_have_it_as_temperature(case, known):
    *_, scores = case
    times = Scores(normalised(scores.log_probabilities * known), scores.labels)
    assert best_temperature(times) == pytest.approx(known * best_temperature(scores), rel=1e-3)
    assert times.tempered(best_temperature(times)).loss == pytest.approx(
        scores.tempered(best_temperature(scores)).loss, rel=1e-6
    )


def test_the_temperature_has_bounds():
    never_wrong = scores_of([[0.505, 0.495]] * 3, [0, 0, 0])  # so close that its loss at 0.01 is no 0
    never_right = scores_of([[0.6, 0.4]] * 3, [1, 1, 1])
    assert 0.01 <= best_temperature(never_wrong) == pytest.approx(0.01, rel=1e-2)
    assert 100 >= best_temperature(never_right) == pytest.approx(100, rel=1e-2)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
def test_tempering_is_a_softmax_and_changes_no_prediction(case, temperature):
    probabilities, labels, scores = case
    tempered = scores.tempered(temperature)
    expected = [softmax([math.log(value) / temperature for value in row]) for row in probabilities]
    assert tempered.probabilities == pytest.approx(np.array(expected), **EXACT)
    np.testing.assert_array_equal(tempered.predicted, scores.predicted)
    np.testing.assert_array_equal(tempered.labels, labels)


# --- Outputs of models ---


def test_logits_are_normalised_without_overflow():
    found = normalised(np.array([[1000.0, 1000.0], [-1000.0, -1001.0]]))
    one = math.log1p(math.exp(-1))
    assert found == pytest.approx(np.array([[-math.log(2)] * 2, [-one, -1 - one]]), **EXACT)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([[0.5, 0.5], [1.0, 0.0]], True),
        ([[0.5, 0.5005], [0.9995, 0.0]], True),
        ([[0.5, 0.5], [0.5, 0.52]], False),
        ([[0.5, 0.5], [0.5, 0.48]], False),
        ([[0.5, 0.5], [1.1, -0.1]], False),
        ([[2.0, -1.0]], False),
        ([[0.0, 0.0]], False),
    ],
)
def test_what_is_taken_for_probabilities(outputs, expected):
    outputs = np.float32(outputs)
    assert are_probabilities(outputs) == expected
    found = log_probabilities(outputs)
    assert found.dtype == np.float64
    powers = outputs.astype(float) if expected else np.array([softmax(row) for row in outputs.tolist()])
    # Rows that sum to 1 to a thousandth may be taken as they are, or be made to sum to 1.
    assert np.exp(found) == pytest.approx(powers, abs=1e-3 if expected else 1e-7)
