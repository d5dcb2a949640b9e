"""The vote itself."""

import keras
import numpy as np
from keras import ops

from kcifar.errors import InputError, nearest
from kcifar.voting.selection import MODES

_SAME = 1e-5  # shares of votes that differ by less are equal: they are sums of float32 weights


def expect_mode(mode):
    """Raises InputError unless it is a known mode of voting."""
    if mode not in MODES:
        raise InputError(f"the mode of voting is {mode!r}; {nearest(str(mode), MODES)}")


def member_weights(weights, members):
    """The weights of so many members, float32 (members,); None for ones.

    Raises:
        InputError: another number of them, one that is negative or no finite number, or none above 0.
    """
    if weights is None:
        return np.ones(members, np.float32)
    try:
        given = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        given = np.empty(0)
    if given.shape != (members,) or not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise InputError(f"weights are {weights!r}; expected a number from 0 for each of {members} members, not all 0")
    return given.astype("float32")


def combined(probabilities, weights, mode):
    """What members' probabilities are together.

    Args:
        probabilities: (members, batch, classes), from 0, summing to 1.
        weights: float32 (members,), from 0, in any unit.
        mode: "soft", the weighted mean of the probabilities. "hard", the share of the votes that each class has, a
            member's vote being its most probable class; classes that tie for the most votes divide theirs by mean
            probability, so that the largest share is that of the tied class with the larger mean.

    Returns:
        (batch, classes), from 0, summing to 1. The class that is voted for has the largest; of equal ones the first.
    """
    # Divided last: so classes with equal sums have equal means, whatever a share of 1/3 is in float32.
    total = ops.sum(weights)
    mean = ops.tensordot(weights, probabilities, 1) / total
    if mode == "soft":
        return mean
    votes = ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1], dtype=probabilities.dtype)
    shares = ops.tensordot(weights, votes, 1) / total
    tied = ops.cast(shares > ops.max(shares, axis=-1, keepdims=True) - _SAME, shares.dtype)
    of_tied = ops.sum(tied * shares, axis=-1, keepdims=True)
    preference = tied * mean / ops.sum(tied * mean, axis=-1, keepdims=True)
    return (1 - tied) * shares + of_tied * preference


@keras.saving.register_keras_serializable("kcifar")
class Voting(keras.layers.Layer):
    """Combines the probabilities of an ensemble's members: (members, batch, classes) -> (batch, classes).

    The class that is voted for has the largest value; the values are from 0 and sum to 1. A hard vote is ambiguous
    where classes have the same number of votes: these divide their shares by their mean probability, so the larger
    mean wins. Shares that differ by less than 1e-5 are the same.

    Args:
        mode: "soft", the mean of the probabilities, or "hard", the shares of the votes (see `combined`).
        weights: of the members, from 0, in any unit; None for equal ones.

    Raises:
        InputError: an unknown mode, or weights that are not one from 0 for each member; when it is built, an input of
            another shape.
    """

    def __init__(self, mode="soft", weights=None, **options):
        options.setdefault("dtype", "float32")
        super().__init__(**options)
        expect_mode(mode)
        self.mode = mode
        self.weights_of_members = weights
        if weights is not None:
            self.weights_of_members = member_weights(weights, np.size(weights)).tolist()

    def build(self, input_shape):
        if len(input_shape) != 3 or not input_shape[0]:
            raise InputError(f"Voting takes probabilities (members, batch, classes); received shape {input_shape}")
        self._weights = member_weights(self.weights_of_members, input_shape[0])

    def call(self, probabilities):
        return combined(probabilities, ops.convert_to_tensor(self._weights), self.mode)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[1:])

    def get_config(self):
        return {**super().get_config(), "mode": self.mode, "weights": self.weights_of_members}
