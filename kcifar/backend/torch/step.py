"""The training step with fewer operations around the model."""

import warnings

import keras
import torch
import torch.nn.functional as F
from keras import losses, metrics, ops, tree
from keras.utils import unpack_x_y_sample_weight

from kcifar.backend.torch.graph import Program, must_run_as_stock
from kcifar.backend.torch.kernels import has_hooks

_STOCK = keras.Model


def native_parts(model):
    """What computes the same with fewer operations as a model's step, or parts of it, that are stock Keras's: by name.

    Nothing is changed yet.
    """
    parts = ("compute_loss", "_compute_loss", "compute_metrics", "get_metrics_result")
    if not all(_is_stock(model, name) for name in parts):
        return {}
    step, native = Step(model), {}
    if _is_stock(model, "test_step"):
        native["test_step"] = step.test
    if _is_stock(model, "train_step"):
        return native | {"train_step": step.train}
    return native | {"compute_loss": step.compute_loss, "compute_metrics": step.compute_metrics}  # its own calls these


def _is_stock(model, name):
    return name not in vars(model) and getattr(type(model), name) is getattr(_STOCK, name)


class Step:
    """`train_step` and `test_step`, and what they are made of.

    Cross-entropy on logits and accuracy go natively, any other loss or metric stock. No figure is read back from the
    device.
    """

    def __init__(self, model):
        self._model = model
        self._loss = _ForObject(_native_loss)
        self._metrics = _ForObject(_native_metrics)

    def train(self, data):
        model = self._model
        if _step_is_stock():
            return _STOCK.train_step(model, data)
        x, y, weight = unpack_x_y_sample_weight(data)
        for variable in model.trainable_variables:
            variable._value.grad = None
        y_pred = self._predicted(x, training=True)
        loss = self._noted_loss(x, y, y_pred, weight, training=True)
        variables = model.trainable_variables
        if not variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        else:
            scaled = model.optimizer.scale_loss(loss) if model.optimizer is not None else loss
            scaled.backward()
            gradients = [variable._value.grad for variable in variables]
            with torch.no_grad():
                model.optimizer.apply(gradients, variables)
        return self.compute_metrics(x, y, y_pred, weight)

    def test(self, data):
        if _step_is_stock():
            return _STOCK.test_step(self._model, data)
        x, y, weight = unpack_x_y_sample_weight(data)
        y_pred = self._predicted(x, training=False)
        self._noted_loss(x, y, y_pred, weight, training=False)
        return self.compute_metrics(x, y, y_pred, weight)

    def _predicted(self, x, training):
        call = self._model.call
        if isinstance(call, Program) and call.is_native and not must_run_as_stock() and not has_hooks(self._model):
            return call.run(x, training)  # no layer in it needs what Keras does around a call
        return self._model(x, training=training)

    def _noted_loss(self, x, y, y_pred, weight, training):
        """The loss, noted in the model's mean of it."""
        loss = self.compute_loss(x, y, y_pred, weight, training)
        batch_size = next(value for value in tree.flatten(x) if value is not None).shape[0]
        _accumulate(self._model._loss_tracker, loss.detach() * batch_size, batch_size)
        return loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`compute_loss` of the model."""
        model, native = self._model, self._loss(self._model, self._model._compile_loss)
        if native is not None and sample_weight is None and torch.is_tensor(y_pred):
            return native(ops.convert_to_tensor(y), y_pred)
        return _STOCK.compute_loss(model, x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """`compute_metrics` of the model: all metrics so far, by name."""
        model, native = self._model, self._metrics(self._model, self._model._compile_metrics)
        if native is None or sample_weight is not None or not torch.is_tensor(y_pred) or _is_distributed():
            return _STOCK.compute_metrics(model, x, y, y_pred, sample_weight)
        with torch.no_grad():
            return native(ops.convert_to_tensor(y), y_pred)


def _is_distributed():
    """Whether this is one of several processes: then Keras 3.16's own step adds up gradients and figures of all."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _step_is_stock():
    return _is_distributed() or torch.compiler.is_compiling()


class _ForObject:
    """A function of (model, object) that is asked again only for another object: `compile` makes new ones."""

    def __init__(self, function):
        self._function = function
        self._key = None

    def __call__(self, model, compiled):
        built = compiled is not None and compiled.built
        if self._key is None or self._key[0] is not compiled or self._key[1] != built:
            self._key, self._result = (compiled, built), self._function(model, compiled)
        return self._result


def _native_loss(model, compiled):
    """A function of one batch of labels and logits that computes the model's whole loss; None where there is none."""
    if compiled is None or not compiled.built or len(compiled._flat_losses) != 1 or _adds_losses(model):
        return None
    path, loss, weight, _ = compiled._flat_losses[0]
    if path or weight is not None or getattr(loss, "reduction", None) != "sum_over_batch_size":
        return None
    kernel, usual = _CROSSENTROPIES.get(type(loss), (None, {}))
    options = {name: value for name, value in loss.get_config().items() if name not in _OF_ANY_LOSS} if kernel else {}
    smoothing = options.pop("label_smoothing", 0.0)
    # An option that a later Keras adds is not known here.
    if kernel is None or any(name not in usual or value != usual[name] for name, value in options.items()):
        return None
    return kernel(loss, smoothing)


def _adds_losses(model):
    """Whether a layer or a regularizer may add to what was compiled."""
    return any(variable.regularizer is not None for variable in model.weights) or any(
        layer.activity_regularizer is not None or not type(layer).__module__.startswith(("keras.", "kcifar."))
        for layer in model._flatten_layers()
    )


def _categorical_crossentropy(loss, label_smoothing):
    def native(y, y_pred):
        if y.shape != y_pred.shape or y.ndim != 2:
            return loss(y, y_pred)
        return F.cross_entropy(y_pred.float(), y.float(), label_smoothing=label_smoothing)

    return native


def _sparse_categorical_crossentropy(loss, label_smoothing):
    def native(y, y_pred):
        if y_pred.ndim != 2 or y.shape not in ((len(y_pred),), (len(y_pred), 1)):
            return loss(y, y_pred)
        y = y.reshape(-1).long()
        # Where a label is negative stock Keras takes 0, and counts it.
        return F.cross_entropy(y_pred.float(), y.masked_fill(y < 0, -100), reduction="sum") / len(y)

    return None if label_smoothing else native


_OF_ANY_LOSS = ("name", "reduction", "dtype")
_CROSSENTROPIES = {  # what makes the native one, and the options that it takes
    losses.CategoricalCrossentropy: (_categorical_crossentropy, {"from_logits": True, "axis": -1}),
    losses.SparseCategoricalCrossentropy: (
        _sparse_categorical_crossentropy,
        {"from_logits": True, "axis": -1, "ignore_class": None},
    ),
}


def _native_metrics(model, compiled):
    """A function of one batch of labels and predictions that updates all metrics and gives their means so far, by name.

    None where a metric is not known.
    """
    known = []
    if compiled is not None:
        if not compiled.built or any(compiled._flat_weighted_metrics) or len(compiled._flat_metrics) != 1:
            return None
        known = [metric for of_output in compiled._flat_metrics if of_output for metric in of_output.metrics]
    means = {metric.name: metric for metric in (model._loss_tracker, *known)}
    others = [metric for metric in model.metrics if metric is not model._loss_tracker and metric is not compiled]
    if others or len(means) != 1 + len(known) or not all(type(metric) in _CORRECT for metric in known):
        return None

    def update(y, y_pred):
        for metric in known:
            correct = _CORRECT[type(metric)](y, y_pred)
            if correct is None:
                metric.update_state(y, y_pred)
            else:
                _accumulate(metric, correct.sum(), correct.numel())
        # A step of a model's own may leave one uncounted, which is 0 then, as in stock.
        return {name: mean.total.value / mean.count.value.clamp(min=1) for name, mean in means.items()}

    return update


def _categorical_correct(y, y_pred):
    return y.argmax(-1) == y_pred.argmax(-1) if y.shape == y_pred.shape and y.ndim == 2 else None


def _sparse_categorical_correct(y, y_pred):
    return y == y_pred.argmax(-1) if y.ndim == 1 and y_pred.ndim == 2 else None


_CORRECT = {
    metrics.CategoricalAccuracy: _categorical_correct,
    metrics.SparseCategoricalAccuracy: _sparse_categorical_correct,
}


def _accumulate(mean, total, count):
    with torch.no_grad():
        mean.total.value.add_(total)
        mean.count.value.add_(count)
