"""The asymmetric loss against its published program in float64, and by hand."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch.nn import functional

from kcifar.augment import MixUp
from kcifar.training import AsymmetricLoss

ON_TORCH = keras.backend.backend() == "torch"

BATCH, CLASSES = 12, 5
LABELS = np.arange(BATCH) % CLASSES
ROWS = np.eye(CLASSES, dtype=np.float32)[LABELS]
RANDOM = (3 * np.random.default_rng(1).normal(size=(BATCH, CLASSES))).astype(np.float32)


def extreme_logits():
    """±50 in all ways: the label alone high, the label alone low, another alone high, all alike, all at random."""
    logits = np.random.default_rng(2).choice(np.float32([-50, 0, 50]), (BATCH, CLASSES))
    logits[:2] = 100 * ROWS[:2] - 50
    logits[2:4] = 50 - 100 * ROWS[2:4]
    logits[4:6] = 100 * np.roll(ROWS[4:6], 1, axis=1) - 50
    logits[6], logits[7] = 50, -50
    return logits


CONFIDENT = RANDOM / 9 + ROWS * np.arange(2, 2 + BATCH, dtype=np.float32)[:, None]  # 1 − p from 1/3 to 1e-5
LOGITS = {"random": RANDOM, "confident": CONFIDENT, "extreme": extreme_logits()}

# The references run in float64, so that all error is ours. Float32 rounds a log-probability by 6e-8 of the largest
# logit difference, 100, which the value keeps (the relative part), and logarithms, powers and sums of terms of size 1
# by some 1e-7 each (the absolute part); gradients are of size 1.
TOLERANCE = 2e-6
WRONG_BY = 200 * TOLERANCE  # what a wrong reference differs by at least


def ours(loss, y, z):
    """(loss of each sample, gradient of their sum by the predictions)."""
    loss.reduction = None
    if ON_TORCH:
        z = ops.convert_to_tensor(z).detach().requires_grad_()
        losses = loss(y, z)
        (gradient,) = torch.autograd.grad(losses.sum(), z)
    else:
        import jax

        def of(z):
            losses = loss(y, z)
            return losses.sum(), losses

        gradient, losses = jax.grad(of, has_aux=True)(ops.convert_to_tensor(z))
    return ops.convert_to_numpy(losses), ops.convert_to_numpy(gradient)


def theirs(function, y, z, *arguments):
    """The same of a function of float64 tensors."""
    z = torch.tensor(np.asarray(z)).double().requires_grad_()
    losses = function(z, torch.tensor(y).double(), *arguments)
    return losses.detach().numpy(), torch.autograd.grad(losses.sum(), z)[0].numpy()


def assert_equal_to(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE / 2, atol=TOLERANCE)


def mixture(one, other, share):
    return [share * np.float64(a) + (1 - share) * np.float64(b) for a, b in zip(one, other, strict=True)]


# --- Against the published program ---


def smoothed(y, s):
    return y * (1 - s) + s / CLASSES


def published(z, y, gamma_pos, gamma_neg, s, kept=lambda w: w):
    """The lines of ASLSingleLabel: the gradient flows through w, and y is smoothed after it is taken."""
    logs = functional.log_softmax(z, dim=1)
    xs_pos, xs_neg = logs.exp() * y, (1 - logs.exp()) * (1 - y)
    w = torch.pow(1 - xs_pos - xs_neg, gamma_pos * y + gamma_neg * (1 - y))
    return -(smoothed(y, s) * (logs * kept(w))).sum(1)


def reference(z, y, gamma_pos, gamma_neg, s):
    """The same function, exact also where p rounds to 1.

    1 − xs_pos − xs_neg is 1 − p·1 − 0 = 1 − p for the label and 1 − 0 − (1 − p) = p for each other class. Both lose
    their digits to the 1 (and a power below 1 has no gradient at 0): p is taken itself, 1 − p as the sum of the others.
    """
    logs = functional.log_softmax(z, dim=1)
    p = logs.exp()
    rest = p @ (1 - torch.eye(CLASSES, dtype=p.dtype))
    w = torch.where(y == 1, rest**gamma_pos, p**gamma_neg)
    return -(smoothed(y, s) * w * logs).sum(1)


GAMMAS = [(0, 4), (0, 0), (1, 2), (2.5, 0), (0.5, 0.5), (4, 1)]
SETTINGS = [(*gammas, s) for gammas, s in itertools.product(GAMMAS, (0, 0.1, 0.6))]


@pytest.mark.once
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_reference_is_the_published_program(setting):
    for one, other in zip(*(theirs(f, ROWS, RANDOM, *setting) for f in (reference, published)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)  # float64's 1e-16, of which 1 − p cancels some


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=list(LOGITS))
def test_value_and_gradient_are_the_published_programs(logits, setting):
    assert_equal_to(ours(AsymmetricLoss(*setting), ROWS, logits), theirs(reference, ROWS, logits, *setting))


@pytest.mark.parametrize("gamma_pos", [0, 0.5, 3])
def test_logits_far_beyond_are_finite_too(gamma_pos):
    losses, gradient = ours(AsymmetricLoss(gamma_pos, 0.5), ROWS, 1000 * LOGITS["extreme"])
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()


def weighted(z, y, s, of_label, of_other, logs=None):
    """Weights as functions of p, p = exp(logs)."""
    logs = functional.log_softmax(z, dim=1) if logs is None else logs
    return -(smoothed(y, s) * (y * of_label(logs.exp()) + (1 - y) * of_other(logs.exp())) * logs).sum(1)


def as_multi_label(z, y, a, b, s):
    """log(1 − p) for the other classes."""
    logs = functional.log_softmax(z, dim=1)
    p = logs.exp()
    return -(smoothed(y, s) * (y * (1 - p) ** a * logs + (1 - y) * p**b * torch.log(1 - p))).sum(1)


def one_less(gamma):
    return lambda p: (1 - p) ** gamma


WRONG = {
    "no gradient through the weights": lambda z, y, a, b, s: published(z, y, a, b, s, kept=torch.Tensor.detach),
    "no weights": lambda z, y, a, b, s: published(z, y, 0, 0, s),
    "weights of the label alone": lambda z, y, a, b, s: published(z, y, a, 0, s),
    "weights of the others alone": lambda z, y, a, b, s: published(z, y, 0, b, s),
    "γ exchanged": lambda z, y, a, b, s: published(z, y, b, a, s),
    "weights exchanged": lambda z, y, a, b, s: weighted(z, y, s, lambda p: p**a, one_less(b)),
    "smoothed before the weights": lambda z, y, a, b, s: published(z, smoothed(y, s), a, b, 0),
    "not smoothed": lambda z, y, a, b, s: published(z, y, a, b, 0),
    "smoothed over the other classes": lambda z, y, a, b, s: published(z, y, a, b, s * CLASSES / (CLASSES - 1)),
    "the label keeps 1 − s": lambda z, y, a, b, s: published(z, y, a, b, s) - s / CLASSES * published(z, y, a, b, 0),
    "as multi-label": as_multi_label,
    "sigmoid": lambda z, y, a, b, s: weighted(z, y, s, one_less(a), lambda p: p**b, functional.logsigmoid(z)),
    "p clipped": lambda z, y, a, b, s: weighted(z, y, s, one_less(a), lambda p: (p - 0.05).clamp(min=0) ** b),
    "the mean over classes": lambda z, y, a, b, s: published(z, y, a, b, s) / CLASSES,
}


@pytest.mark.once
@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_wrong_reference_is_far_off(wrong):
    """So the comparison above would see each of these mistakes, in the gradient and all but the first in the value."""
    pairs = zip(*(theirs(f, ROWS, RANDOM, 1, 2, 0.1) for f in (wrong, published)), strict=True)
    of_values, of_gradients = (np.abs(one - other).max() for one, other in pairs)
    assert of_gradients > WRONG_BY
    assert of_values > WRONG_BY or wrong is WRONG["no gradient through the weights"]


# --- By hand ---

HAND_LOGITS = np.float32([[np.log(2), 0, 0], [np.log(2), 0, 0]])  # p = (1/2, 1/4, 1/4), log p = −(1, 2, 2)·ln 2
LN2 = np.log(2)


# Float32 rounds each figure by 6e-8 of it, a handful of times: 1e-6 of it.
def test_the_value_by_hand():
    # s = 0.3 leaves 0.8 for the label, 0.1 for the others.
    # Label 0: w = (1 − 1/2, 1/16, 1/16), so (0.8·1/2·1 + 2·0.1·1/16·2)·ln 2 = 0.425·ln 2
    # Label 1: w = (1/4, 1 − 1/4, 1/16), so (0.1·1/4·1 + 0.8·3/4·2 + 0.1·1/16·2)·ln 2 = 1.2375·ln 2
    loss = AsymmetricLoss(gamma_pos=1, gamma_neg=2, label_smoothing=0.3)
    assert float(loss(np.array([0, 1]), HAND_LOGITS)) == pytest.approx((0.425 + 1.2375) / 2 * LN2, rel=1e-6)


def test_the_default_by_hand():
    # s = 0.1: 14/15 and 1/30; w = (1, 1/256, 1/256), so (14/15 + 2·1/30·1/256·2)·ln 2
    loss = AsymmetricLoss()
    assert float(loss(np.array([0, 0]), HAND_LOGITS)) == pytest.approx((14 / 15 + 1 / 1920) * LN2, rel=1e-6)


def test_the_gradient_by_hand():
    # By log p, of y·(1 − p)·log p: y·((1 − p) − p·log p); of y·p²·log p: y·p²·(1 + 2·log p).
    # Label 0: a = (0.8·(1/2 + ln 2/2), 0.1/16·(1 − 4·ln 2), the same) = (0.677259, −0.011079, −0.011079), Σ = 0.655101
    # Label 1: a = (0.1/4·(1 − 2·ln 2), 0.8·(3/4 + ln 2/2), 0.1/16·(1 − 4·ln 2)) = (−0.009657, 0.877259, −0.011079),
    # Σ = 0.856523; by the logits −a + p·Σ: (−0.349708, 0.174854, 0.174854), (0.437919, −0.663128, 0.225209)
    _, gradient = ours(AsymmetricLoss(1, 2, 0.3), np.array([0, 1]), HAND_LOGITS)
    expected = [[-0.349708, 0.174854, 0.174854], [0.437919, -0.663128, 0.225209]]
    np.testing.assert_allclose(gradient, expected, atol=2e-6)  # six digits written out


# --- Cross-entropy, forms of labels, probabilities ---


@pytest.mark.parametrize(("gamma_neg", "s"), [(0, 0), (0, 0.1), (0, 0.9), (4, 0)])
@pytest.mark.parametrize("logits", LOGITS.values(), ids=list(LOGITS))
def test_without_weights_it_is_torchs_cross_entropy(logits, gamma_neg, s):
    """Without smoothing, γ₋ weighs nothing."""

    def crossentropy(z, y):
        return functional.cross_entropy(z, y, label_smoothing=s, reduction="none")

    assert_equal_to(ours(AsymmetricLoss(0, gamma_neg, s), ROWS, logits), theirs(crossentropy, ROWS, logits))


@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS[:, None], LABELS.astype("int32"), LABELS[:, None].astype("uint8"), ROWS.astype("int64"), ROWS > 0],
    ids=lambda labels: f"{labels.dtype} {labels.shape}",
)
def test_class_numbers_are_as_one_hot_rows(labels):
    loss = AsymmetricLoss(1, 2)
    for one, other in zip(ours(loss, labels, RANDOM), ours(loss, ROWS, RANDOM), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("setting", [(0, 4, 0.1), (1.5, 2, 0.3)], ids=str)
def test_probabilities_are_as_their_logits(setting):
    """Values and, through the softmax, gradients; the logits of ±3 keep p above where it is clipped."""

    class OfLogits(AsymmetricLoss):
        def call(self, y_true, y_pred):
            return super().call(y_true, ops.softmax(y_pred))

    logits = np.clip(RANDOM, -3, 3)
    expected = theirs(reference, ROWS, logits, *setting)
    assert_equal_to(ours(OfLogits(*setting, from_logits=False), ROWS, logits), expected)


def test_probabilities_of_0_are_clipped_by_hand():
    # γ = 0, s = 0.1 of 5 classes: 0.92·(−log p) of the label and 0.02·(−log p) of each other; all p but one are 0,
    # so −log 1e-7: of the four others where the label has 1, else of the label and three others
    loss = AsymmetricLoss(0, 0, from_logits=False)
    right, _ = ours(loss, ROWS, ROWS)
    wrong, gradient = ours(loss, ROWS, np.roll(ROWS, 1, axis=1))
    np.testing.assert_allclose(right, 4 * 0.02 * 7 * np.log(10), rtol=1e-6)
    np.testing.assert_allclose(wrong, (0.92 + 3 * 0.02) * 7 * np.log(10), rtol=1e-6)
    assert np.isfinite(gradient).all()


# --- MixUp ---

SHARE, PARTNERS = np.float32(0.3), np.int32([5, 0, 4, 1, 2, 3, *range(6, BATCH)])  # 0 and 5 are of one class
MIXED = ops.convert_to_numpy(MixUp(1.0).apply(RANDOM, ops.convert_to_tensor(ROWS), (SHARE, PARTNERS))[1])


@pytest.mark.parametrize("setting", [(0, 4, 0.1), (2, 1, 0.3), (0.5, 0.5, 0), (0, 0, 0.1)], ids=str)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=list(LOGITS))
def test_a_mixture_gets_the_mixture_of_the_losses(logits, setting):
    """λ·L(a) + (1 − λ)·L(b), by the reference and by the loss itself."""
    loss, labels = AsymmetricLoss(*setting), (ROWS, ROWS[PARTNERS])
    got = ours(loss, MIXED, logits)
    assert_equal_to(got, mixture(*(theirs(reference, y, logits, *setting) for y in labels), float(SHARE)))
    assert_equal_to(got, mixture(*(ours(loss, y, logits) for y in labels), float(SHARE)))


@pytest.mark.once
@pytest.mark.parametrize("setting", [(0, 4, 0.1), (2, 1, 0.3)], ids=str)
def test_the_formula_with_a_mixed_label_is_another(setting):
    labels = ROWS, ROWS[PARTNERS]
    right = mixture(*(theirs(published, y, RANDOM, *setting) for y in labels), float(SHARE))
    other = theirs(published, MIXED, RANDOM, *setting)
    assert all(np.abs(a - b).max() > 0.05 for a, b in zip(right, other, strict=True))
