"""Training with batches that pass through the model in parts, on less memory."""

import contextlib
import itertools

import keras
from keras import ops, tree

from kcifar import backend
from kcifar.backend.keras_internals import innermost
from kcifar.errors import InputError


@keras.saving.register_keras_serializable("kcifar")
class Accumulated(keras.Model):
    """Trains a model with batches that pass through it in parts, so that only one part's activations are in memory.

    A step is still one of a batch: the parts are its first images, those behind them and so on, of sizes that differ by
    one at most; their gradients add up to that of the mean over the batch, and the optimizer takes one step by it. Loss
    and metrics are the batch's, and a regularizer counts once. What is not as without parts: BatchNorm normalises each
    part by its own statistics, and moves the moving ones once a part (Goyal et al. 2017, arXiv 1706.02677, section 3,
    have the same between their workers); dropout draws anew for each. A batch of fewer images has a part for each.

    Use it in place of the model: `compile`, `fit`, `train_on_batch`, `evaluate` and `predict`, with any optimizer,
    policy and callbacks. What it saves is the model in it, without a trace of this class.

        model = kcifar.accelerate(kcifar.models.build("resnet18"))
        trained = Accumulated(model, accumulate=4)
        trained.compile(SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
        trained.fit(Batches(split, 512), shuffle=False)

    Args:
        model: a built `keras.Model`.
        accumulate: k ≥ 1, how many parts.

    Raises:
        InputError: an argument outside its range, a model that is not built or whose class has a training step, loss or
            metrics of its own; when it is compiled, an optimizer that accumulates the gradients of several batches, or,
            of several parts, a loss that is no mean over the images.
    """

    def __init__(self, model, accumulate):
        kind = type(self).__name__
        if not (isinstance(model, keras.Model) and model.built):
            found = f"'{model.name}', which has no weights yet" if isinstance(model, keras.Model) else repr(model)
            raise InputError(f"{kind} got {found}; expected a keras.Model that is built: build or call it first")
        for name in ("train_step", "compute_loss", "compute_metrics"):
            if getattr(type(model), name) is not getattr(keras.Model, name):
                raise InputError(
                    f"{kind} got '{model.name}', whose class has a {name} of its own, which would not be used; "
                    f"expected Keras's own: derive from {kind} and override it there"
                )
        if not (type(accumulate) is int and accumulate >= 1):
            raise InputError(f"{kind}(accumulate={accumulate!r}): expected a whole number of parts, at least 1")
        super().__init__(name=model.name, dtype=model.dtype_policy, autocast=False)  # the model in it casts
        self.model = model
        self.accumulate = accumulate
        self.built = True

    input = property(lambda self: self.model.input)
    output = property(lambda self: self.model.output)
    inputs = property(lambda self: self.model.inputs)
    outputs = property(lambda self: self.model.outputs)
    output_names = property(lambda self: self.model.output_names)
    input_shape = property(lambda self: self.model.input_shape)
    output_shape = property(lambda self: self.model.output_shape)

    def get_layer(self, name=None, index=None):
        """A layer of the model in it."""
        return self.model.get_layer(name, index)

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        kind, optimizer = type(self).__name__, innermost(self.optimizer)
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise InputError(
                f"{kind}: the optimizer accumulates gradients over {optimizer.gradient_accumulation_steps} steps, but "
                "each step needs its own: leave gradient_accumulation_steps out, take larger batches and accumulate"
            )
        if self.accumulate > 1:
            expect_mean(self.loss, kind)

    def train_step(self, *arguments):
        return backend.train_step(self, self._gradients_and_figures, *arguments)

    def _gradients_and_figures(self, data):
        """The gradients that the optimizer takes, and the figures of the batch by name."""
        if not self.trainable_variables:
            raise InputError(f"{type(self).__name__}: the model '{self.name}' has no trainable weights")
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images = _count(x)

        def loss_of_part(x, y, sample_weight):
            y_pred = self.model(x, training=True)
            loss = _count(x) / images * self.compute_loss(x, y, y_pred, sample_weight, training=True)
            figures = loss, y_pred
            if len(parts) > 1:  # what they were computed from must not stay in memory with them
                figures = tree.map_structure(ops.stop_gradient, figures)
            return self.optimizer.scale_loss(loss), figures

        parts = _parts((x, y, sample_weight), images, min(self.accumulate, images))
        given, gradients = self._gradients(loss_of_part, parts)
        losses, y_preds = zip(*given, strict=True)
        self._loss_tracker.update_state(sum(losses), sample_weight=images)
        return gradients, self.compute_metrics(x, y, _joined(y_preds), sample_weight)

    def _gradients(self, loss_of_part, parts):
        """What the function gives of each part, and the gradients that the optimizer takes."""
        given, gradients, _ = backend.gradients(loss_of_part, self.trainable_variables, self._others(), parts)
        return given, gradients

    def _others(self):
        return self.non_trainable_variables + self.metrics_variables  # a loss of several outputs has metrics of them

    def get_config(self):
        """For clones, copies and `keras.saving.save_model`; what `save` writes is the model in it."""
        return {"model": keras.saving.serialize_keras_object(self.model), "accumulate": self.accumulate}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"model": keras.saving.deserialize_keras_object(config["model"])})

    def save(self, *args, **kwargs):
        self.model.save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """Those of the model in it, and the optimizer's variables, as the model alone writes them when compiled."""
        with self._optimizer_lent():
            self.model.save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        with self._optimizer_lent():
            self.model.load_weights(*args, **kwargs)

    @contextlib.contextmanager
    def _optimizer_lent(self):
        """The model in it has the optimizer inside, where this has one."""
        own = getattr(self.model, "optimizer", None)
        self.model.optimizer = getattr(self, "optimizer", None) or own
        try:
            yield
        finally:
            self.model.optimizer = own

    def export(self, *args, **kwargs):
        self.model.export(*args, **kwargs)


_MEAN = "sum_over_batch_size"


def expect_mean(losses, who):
    """Raises InputError where a loss is no mean over the images of a batch, of which its parts have theirs."""
    for loss in tree.flatten(losses):
        reduction = getattr(loss, "reduction", _MEAN)
        if reduction != _MEAN:
            raise InputError(
                f"{who}: the loss {type(loss).__name__} has reduction='{reduction}'; expected '{_MEAN}', of which "
                "the parts of a batch have theirs"
            )


def _count(x):
    """The images of a batch, or of a part."""
    return next(value for value in tree.flatten(x) if value is not None).shape[0]


def _parts(batch, images, count):
    """The batch in this many parts of nearly equal size, the larger ones first."""
    size, larger = divmod(images, count)
    edges = [place * size + min(place, larger) for place in range(count + 1)]
    return [
        tree.map_structure(lambda array, part=slice(*ends): None if array is None else array[part], batch)
        for ends in itertools.pairwise(edges)
    ]


def _joined(parts):
    return parts[0] if len(parts) == 1 else tree.map_structure(lambda *arrays: ops.concatenate(arrays), *parts)
