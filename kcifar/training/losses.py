"""Losses."""

import math

import keras
from keras import ops

from kcifar import backend
from kcifar.errors import InputError


@keras.saving.register_keras_serializable("kcifar")
class AsymmetricLoss(keras.losses.Loss):
    """The asymmetric loss in its single-label form: −Σⱼ yⱼ·wⱼ·log pⱼ, the mean over the batch.

    Ridnik et al. 2021, arXiv 2009.14119, as their program's class ASLSingleLabel: p = softmax(logits), w = (1 − p)^γ₊
    for the labelled class and p^γ₋ for the others, y the one-hot label smoothed to y·(1 − s) + s/K. The gradient flows
    through the weights. Without smoothing γ₋ has no effect, and with γ₊ = 0 it is cross-entropy.

    A target that is a mixture of classes, as MixUp's λ·a + (1 − λ)·b, gets the mixture of their losses,
    λ·L(a) + (1 − λ)·L(b) (not the formula with a mixed y, which is another function).

    Args:
        gamma_pos, gamma_neg: γ₊ and γ₋, ≥ 0.
        label_smoothing: s, from 0 to below 1.
        from_logits: whether predictions are logits; else probabilities, which are clipped to [1e-7, 1].

    Call arguments: targets, whole numbers (batch,) or (batch, 1), or rows (batch, classes) that sum to 1; predictions
    (batch, classes). Computes in float32.

    Raises:
        InputError: an argument outside its range, shapes that do not fit; in the first values that it is given (so not
            within a step that JAX compiles), class numbers that do not exist, or probabilities where logits were said.
    """

    def __init__(
        self,
        gamma_pos=0.0,
        gamma_neg=4.0,
        label_smoothing=0.1,
        from_logits=True,
        reduction="sum_over_batch_size",
        name="asymmetric_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        for argument, value in (("gamma_pos", gamma_pos), ("gamma_neg", gamma_neg)):
            if not 0 <= value < math.inf:
                raise InputError(f"AsymmetricLoss({argument}={value}): expected a number ≥ 0")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"AsymmetricLoss(label_smoothing={label_smoothing}): expected from 0 to below 1")
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits
        self._looked_at = False  # whether values were seen, and were what they should be

    def call(self, y_true, y_pred):
        _expect_shapes(y_true, y_pred)
        if not self._looked_at:
            self._looked_at = self._look_at(y_true, y_pred)
        targets = y_true if y_true.shape == y_pred.shape else _one_hot(y_true, y_pred)
        logs = ops.log_softmax(y_pred, axis=-1) if self.from_logits else ops.log(ops.clip(y_pred, 1e-7, 1.0))
        of_labelled, of_other = self._weighted(logs)
        smoothing = self.label_smoothing / y_pred.shape[-1]
        loss = (1 - self.label_smoothing + smoothing) * ops.sum(targets * of_labelled, axis=-1)
        if smoothing:
            loss += smoothing * ops.sum((1 - targets) * of_other, axis=-1)
        return -loss

    def _weighted(self, logs):
        """w·log p of each class were it the labelled one, and were it another."""
        of_labelled = logs
        if self.gamma_pos:
            # Kept above 0, where a power below 1 has no gradient.
            rest = ops.maximum(-ops.expm1(logs), 1e-7)
            of_labelled = ops.power(rest, self.gamma_pos) * logs
        return of_labelled, ops.exp(self.gamma_neg * logs) * logs

    def _look_at(self, y_true, y_pred):
        """Whether the values are known; where they are, an error if they cannot be meant."""
        targets, values = backend.known_values(y_true), backend.known_values(y_pred)
        if values is None:
            return False
        classes = values.shape[1]
        if targets.shape != values.shape and not (targets.min() >= 0 and targets.max() < classes):
            raise InputError(
                f"AsymmetricLoss got class numbers from {targets.min():.0f} to {targets.max():.0f} for predictions of "
                f"{classes} classes; expected from 0 to {classes - 1}"
            )
        # In bfloat16 the ten probabilities of a row sum to 1 ± 5e-3.
        if self.from_logits and values.min() >= 0 and abs(values.sum(axis=-1) - 1).max() < 1e-2:
            raise InputError(
                "AsymmetricLoss got rows that are probabilities (none below 0, sums of 1); expected logits: leave the "
                "model's softmax out, or say from_logits=False"
            )
        return True

    def get_config(self):
        return {
            **super().get_config(),
            "gamma_pos": self.gamma_pos,
            "gamma_neg": self.gamma_neg,
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
        }


def _expect_shapes(y_true, y_pred):
    shape, wanted = tuple(y_true.shape), tuple(y_pred.shape)
    if len(wanted) != 2 or wanted[1] < 2 or shape not in (wanted, wanted[:1], (*wanted[:1], 1)):
        raise InputError(
            f"AsymmetricLoss got targets {shape} and predictions {wanted}; expected predictions (batch, classes), two "
            "classes or more, and targets of that shape or (batch,) class numbers"
        )


def _one_hot(numbers, y_pred):
    return ops.one_hot(ops.cast(ops.reshape(numbers, (-1,)), "int32"), y_pred.shape[1], dtype=y_pred.dtype)
