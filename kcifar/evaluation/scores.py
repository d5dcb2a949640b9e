"""What probabilities are worth on labelled images: accuracy, likelihood, calibration."""

import dataclasses
import functools
import math
import statistics

import numpy as np

_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Figures of predicted probabilities on labelled images, in float64.

    Args:
        log_probabilities: float64 (n, classes), of each class of each image.
        labels: int64 (n,).
    """

    log_probabilities: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def probabilities(self):
        """(n, classes)."""
        return np.exp(self.log_probabilities)

    @functools.cached_property
    def predicted(self):
        """The most probable class of each image, int64 (n,); of equal ones the first."""
        return self.log_probabilities.argmax(axis=1)

    @functools.cached_property
    def confidence(self):
        """The probability of the predicted class, (n,)."""
        return self.probabilities.max(axis=1)

    @functools.cached_property
    def correct(self):
        """Whether the predicted class is the label, bool (n,)."""
        return self.predicted == self.labels

    @property
    def accuracy(self):
        """Fraction of images whose most probable class is the label."""
        return float(self.correct.mean())

    def accuracy_interval(self, level=0.95):
        """(low, high), see `wilson_interval`."""
        return wilson_interval(self.accuracy, len(self.labels), level)

    def top(self, count):
        """Fraction of images whose label is among the `count` most probable classes."""
        return float((self._rank_of_label < count).mean())

    @functools.cached_property
    def _rank_of_label(self):
        order = np.argsort(-self.log_probabilities, axis=1, kind="stable")
        return (order == self.labels[:, None]).argmax(axis=1)

    @property
    def loss(self):
        """Mean cross-entropy in nats (negative log-likelihood)."""
        return float(-self._of_label(self.log_probabilities).mean())

    @property
    def brier(self):
        """Mean squared distance of the probabilities from the one-hot label, 0 to 2 (Brier 1950)."""
        squares = (self.probabilities**2).sum(axis=1) - 2 * self._of_label(self.probabilities) + 1
        return float(squares.mean())

    def reliability(self, bins=_BINS):
        """Of bins of the confidence, from (0, 1/bins] to (1 − 1/bins, 1]: images, mean confidence, and accuracy.

        Returns:
            Three arrays (bins,); the means of an empty bin are NaN.
        """
        edges = np.linspace(0, 1, bins + 1)
        place = np.clip(np.searchsorted(edges, self.confidence, side="left") - 1, 0, bins - 1)
        images = np.bincount(place, minlength=bins)
        empty = np.full(bins, np.nan)

        def mean(values):
            return np.divide(np.bincount(place, values, bins), images, out=empty.copy(), where=images > 0)

        return images, mean(self.confidence), mean(self.correct)

    @property
    def calibration_error(self):
        """Expected calibration error: mean |accuracy − confidence| over 15 bins of equal width (Guo et al. 2017)."""
        images, confidence, accuracy = self.reliability()
        return float(np.nansum(images * np.abs(accuracy - confidence)) / len(self.labels))

    @functools.cached_property
    def confusion(self):
        """int64 (classes, classes), rows the labels, columns the predictions."""
        classes = self.log_probabilities.shape[1]
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (self.labels, self.predicted), 1)
        return confusion

    @property
    def per_class(self):
        """Accuracy of each class, (classes,); NaN for a class with no images."""
        counts = self.confusion.sum(axis=1)
        return np.divide(self.confusion.diagonal(), counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @property
    def classes_by_accuracy(self):
        """The classes that have images, the one of the lowest accuracy first, of equal ones the first: int64 (n,)."""
        order = np.argsort(self.per_class, kind="stable")
        return order[~np.isnan(self.per_class[order])]

    def confused(self, count):
        """The `count` most frequent mistakes: (label, class it was taken for, images), the most frequent first."""
        mistakes = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [
            (int(label), int(taken), int(mistakes[label, taken])) for label, taken in pairs if mistakes[label, taken]
        ]

    def worst(self, count):
        """Places of the `count` mistakes that it is most confident of, the most confident first; fewer if there are."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")[:count]]

    def tempered(self, temperature):
        """The scores of softmax(logits / temperature)."""
        return Scores(normalised(self.log_probabilities / temperature), self.labels)

    def _of_label(self, values):
        return values[np.arange(len(self.labels)), self.labels]


def wilson_interval(accuracy, images, level=0.95):
    """(low, high): Wilson's score interval of an accuracy on so many images (Wilson 1927).

    It covers the choice of the test images, not that of the seed or of the training images.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    middle = (accuracy + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(accuracy * (1 - accuracy) / images + z**2 / (4 * images**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def are_probabilities(outputs):
    """Whether each row of a model's outputs (n, classes) has numbers from 0 that sum to 1 (to 0.01: bfloat16)."""
    return bool((outputs >= 0).all() and (np.abs(outputs.sum(axis=-1) - 1) < 0.01).all())


def normalised(logits):
    """Logarithms of softmax(logits) over the last axis."""
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def best_temperature(scores):
    """The temperature T with which softmax(logits / T) has the least loss: fitted on images that trained nothing.

    Temperature scaling changes no prediction, only how sure it is (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Args:
        scores: a model's on held-out images.

    Returns:
        float, 0.01 to 100.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_temperature: scores.tempered(np.exp(log_temperature)).loss,
        bounds=np.log((0.01, 100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))
