"""The training step with fewer operations around the model."""

import warnings

import keras
import torch
import torch.nn.functional as F
from keras import losses, metrics, ops, tree
from keras.utils import unpack_x_y_sample_weight

from kcifar.backend import keras_internals
from kcifar.backend.torch.graph import Program
from kcifar.backend.torch.kernels import has_hooks
from kcifar.backend.torch.onlookers import must_run_as_stock

_PARTS = ("__call__", "compute_loss", "_compute_loss", "compute_metrics", "get_metrics_result", "zero_grad")
# None where this Keras has no such method: then `accelerate` finds that out.
_KERAS = {name: getattr(keras.Model, name, None) for name in (*_PARTS, "train_step", "test_step")}


def native_parts(model):
    """What computes the same with fewer operations as a model's step, or parts of it, that are stock Keras's: by name.

    Nothing is changed yet.
    """
    step = Step(model)
    if not step.follows_keras(*_PARTS):
        return {}
    native = {"test_step": step.test} if step.follows_keras("test_step") else {}
    if step.follows_keras("train_step"):
        return native | {"train_step": step.train}
    return native | {"compute_loss": step.compute_loss, "compute_metrics": step.compute_metrics}  # its own calls these


class Step:
    """`train_step` and `test_step`, and what they are made of.

    Cross-entropy on logits and accuracy go natively, any other loss or metric stock. No figure is read back from the
    device. Where a part was replaced since, on the model or its class, all is stock.
    """

    def __init__(self, model):
        self._model = model

    def follows_keras(self, *names):
        """Whether these of the model's methods are Keras's, or those of a `Step` in their place."""
        model = self._model
        set_here = [vars(model)[name] for name in names if name in vars(model)]
        return all(getattr(type(model), name) is _KERAS[name] for name in names) and all(
            isinstance(getattr(method, "__self__", None), Step) for method in set_here
        )

    def _must_be_stock(self, name):
        return _is_distributed() or torch.compiler.is_compiling() or not self.follows_keras(name, *_PARTS)

    def train(self, data):
        model = self._model
        if self._must_be_stock("train_step"):
            return type(model).train_step(model, data)
        x, y, weight = unpack_x_y_sample_weight(data)
        model.zero_grad()  # their memory is free in the pass
        y_pred = self._predicted(x, training=True)
        model.zero_grad()  # of what a layer has derived in the pass
        loss = self._noted_loss(x, y, y_pred, weight, training=True)
        weights = model.trainable_weights[:]
        if not weights:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        else:
            scaled = model.optimizer.scale_loss(loss) if model.optimizer is not None else loss
            scaled.backward()
            gradients = [variable.value.grad for variable in weights]
            with torch.no_grad():
                model.optimizer.apply(gradients, weights)
        return self.compute_metrics(x, y, y_pred, weight)

    def test(self, data):
        model = self._model
        if self._must_be_stock("test_step"):
            return type(model).test_step(model, data)
        x, y, weight = unpack_x_y_sample_weight(data)
        y_pred = self._predicted(x, training=False)
        self._noted_loss(x, y, y_pred, weight, training=False)
        return self.compute_metrics(x, y, y_pred, weight)

    def _predicted(self, x, training):
        model = self._model
        call = model.call
        if not isinstance(call, Program) or must_run_as_stock() or has_hooks(model) or _adds_losses(model):
            return model(x, training=training)
        if not (call.is_native and call.takes(x)):
            return model(x, training=training)
        return call.run(x, training)  # no layer in it needs what Keras does around a call

    def _noted_loss(self, x, y, y_pred, weight, training):
        """The loss, noted in the model's mean of it."""
        loss = self.compute_loss(x, y, y_pred, weight, training)
        batch_size = next(value for value in tree.flatten(x) if value is not None).shape[0]
        tracker = self._model._loss_tracker
        if loss.ndim or not _is_as_made(tracker, "update_state"):
            tracker.update_state(loss, sample_weight=batch_size)
        else:
            _accumulate(tracker, loss.detach() * batch_size, batch_size)
        return loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`compute_loss` of the model."""
        model = self._model
        plain = _is_plain(y, y_pred, sample_weight) and self.follows_keras("compute_loss")
        native = _native_loss(model._compile_loss) if plain else None
        if native is None or _adds_losses(model):
            return type(model).compute_loss(model, x, y, y_pred, sample_weight, training)
        return native(ops.convert_to_tensor(y), y_pred)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """`compute_metrics` of the model: all metrics so far, by name."""
        model = self._model
        plain = _is_plain(y, y_pred, sample_weight) and self.follows_keras("compute_metrics") and not _is_distributed()
        native = _native_metrics(model, model._compile_metrics) if plain else None
        if native is None:
            return type(model).compute_metrics(model, x, y, y_pred, sample_weight)
        with torch.no_grad():
            return native(ops.convert_to_tensor(y), y_pred)


def _is_plain(y, y_pred, sample_weight):
    """Whether it is one tensor of predictions without weights or a mask, and one array of what they should be."""
    if sample_weight is not None or y is None or tree.is_nested(y):
        return False
    return torch.is_tensor(y_pred) and len(y_pred) > 0 and not keras_internals.has_mask(y_pred)


def _is_distributed():
    """Whether this is one of several processes: then Keras 3.16's own step adds up gradients and figures of all."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_as_made(thing, *names):
    """Whether these methods of a loss or metric are those of its class when kcifar was imported."""
    return all(
        name not in vars(thing) and getattr(type(thing), name) is _METHODS.get((type(thing), name)) for name in names
    )


def _native_loss(compiled):
    """A function of one batch of labels and logits that computes the model's whole loss; None where there is none."""
    if compiled is None or not compiled.built or len(compiled._flat_losses) != 1:
        return None
    path, loss, weight, _ = compiled._flat_losses[0]
    kernel, usual = _CROSSENTROPIES.get(type(loss), (None, {}))
    if kernel is None or path or weight is not None or not _is_as_made(loss, "__call__", "call"):
        return None
    if loss.reduction != "sum_over_batch_size" or loss.dtype != "float32":
        return None
    options = {name: value for name, value in loss.get_config().items() if name not in _OF_ANY_LOSS}
    smoothing = options.pop("label_smoothing", 0.0)
    # An option that a later Keras adds is not known here.
    if any(name not in usual or value != usual[name] for name, value in options.items()):
        return None
    return kernel(loss, smoothing)


def _adds_losses(model):
    """Whether layers have added losses to what was compiled, or variables are regularized."""
    return any(
        layer._losses or any(variable.regularizer is not None for variable in layer._trainable_variables)
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
        # A label of -100 costs nothing and is counted, as in stock.
        return F.cross_entropy(y_pred.float(), y.reshape(-1).long(), reduction="sum") / len(y)

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
    tracked = [model._loss_tracker] if compiled is None else [model._loss_tracker, compiled]
    means = {metric.name: metric for metric in (model._loss_tracker, *known)}
    found = model.metrics
    if len(found) != len(tracked) or any(one is not other for one, other in zip(found, tracked, strict=True)):
        return None
    if len(means) != 1 + len(known) or not _is_as_made(model._loss_tracker, "result"):
        return None
    if not all(type(metric) in _CORRECT and _is_as_made(metric, "update_state", "result") for metric in known):
        return None

    def update(y, y_pred):
        for metric in known:
            correct = _CORRECT[type(metric)](y, y_pred)
            if correct is None:
                metric.update_state(y, y_pred)
            else:
                _accumulate(metric, correct.sum(), correct.numel())
        # A step of a model's own may leave one uncounted, which is 0 then, as in stock.
        return {name: mean.total.value / mean.count.value.clamp(min=_TINY) for name, mean in means.items()}

    return update


def _categorical_correct(y, y_pred):
    usual = y.shape == y_pred.shape and y.ndim == 2 and y.dtype != torch.bool
    return y.argmax(-1) == y_pred.argmax(-1) if usual else None


def _sparse_categorical_correct(y, y_pred):
    return y == y_pred.argmax(-1) if y.ndim == 1 and y_pred.ndim == 2 else None


_CORRECT = {
    metrics.CategoricalAccuracy: _categorical_correct,
    metrics.SparseCategoricalAccuracy: _sparse_categorical_correct,
}


_METHODS = {
    **{(kind, name): getattr(kind, name) for kind in _CROSSENTROPIES for name in ("__call__", "call")},
    **{(kind, name): getattr(kind, name) for kind in (*_CORRECT, metrics.Mean) for name in ("update_state", "result")},
}
_TINY = torch.finfo(torch.float32).tiny


def _accumulate(mean, total, count):
    with torch.no_grad():
        mean.total.value.add_(total)
        mean.count.value.add_(count)
