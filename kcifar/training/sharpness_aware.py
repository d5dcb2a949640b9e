"""Sharpness-aware training: SAM and ASAM around any Keras model."""

import contextlib
import math
import numbers

import keras
from keras import ops

from kcifar import backend
from kcifar.backend.keras_internals import innermost
from kcifar.errors import InputError


@keras.saving.register_keras_serializable("kcifar")
class SharpnessAware(keras.Model):
    """Trains a model by SAM, or by ASAM: each step descends by the gradient at the worst point near the weights.

    Foret et al. 2021, arXiv 2010.01412, algorithm 1: with g the gradient at the weights w, ε = ρ·g / ‖g‖; the optimizer
    then takes the gradient at w + ε, and applies it to w. Adaptive (Kwon et al. 2021, arXiv 2102.11600, algorithm 1):
    ε = ρ·T²g / ‖T·g‖, where T is |w| + η for kernels and BatchNorm's scales, and 1 for biases and offsets. Norms are of
    all trainable variables together, and 1e-12 is added to them.

    Both gradients are of the same batch in training mode with the same dropout masks; moving statistics, loss and
    metrics are those of the first; the optimizer's L2 or weight decay acts in the descent alone, as in the program
    davda54/sam (in google-research/sam it is part of the loss, and so of ε; so is a layer's regularizer here). Of
    several processes each has an ε of its own, by the gradient of its part of the batch, as in the paper's experiments
    on several devices ("m-sharpness"); synchronized, they have the one of the whole batch. On JAX that is so always.

    Use it in place of the model: `compile`, `fit`, `train_on_batch`, `evaluate` and `predict`, with any optimizer,
    policy and callbacks. What it saves is the model in it, without a trace of this class. A step costs two of plain
    training.

        model = kcifar.accelerate(kcifar.models.build("resnet20"))
        trained = SharpnessAware(model, rho=0.05)
        trained.compile(SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])

    Args:
        model: a built `keras.Model`.
        rho: ρ > 0, how far: 0.05 in the paper for CIFAR-10; 0.5 where adaptive.
        adaptive: ASAM instead of SAM.
        eta: η ≥ 0 of ASAM.
        synchronized: whether processes that train together share ε, at the price of a second exchange of gradients.

    Raises:
        InputError: an argument outside its range, a model that is not built or whose class has a training step, loss or
            metrics of its own, or (when it is compiled) an optimizer that accumulates gradients: the two passes of a
            step would fall apart.
    """

    def __init__(self, model, rho=0.05, adaptive=False, eta=0.01, synchronized=False):
        if not (isinstance(model, keras.Model) and model.built):
            found = f"'{model.name}', which has no weights yet" if isinstance(model, keras.Model) else repr(model)
            raise InputError(
                f"SharpnessAware got {found}; expected a keras.Model that is built: build or call it first"
            )
        for name in ("train_step", "compute_loss", "compute_metrics"):
            if getattr(type(model), name) is not getattr(keras.Model, name):
                raise InputError(
                    f"SharpnessAware got '{model.name}', whose class has a {name} of its own, which would not be used; "
                    "expected Keras's own: derive from SharpnessAware and override it there"
                )
        if not (isinstance(rho, numbers.Real) and 0 < rho < math.inf):
            raise InputError(
                f"SharpnessAware(rho={rho!r}): expected a number above 0; for rho=0 train the model itself"
            )
        if not (isinstance(eta, numbers.Real) and 0 <= eta < math.inf):
            raise InputError(f"SharpnessAware(eta={eta!r}): expected a number ≥ 0")
        super().__init__(name=model.name, dtype=model.dtype_policy, autocast=False)  # the model in it casts
        self.model = model
        self.rho = rho
        self.adaptive = adaptive
        self.eta = eta
        self.synchronized = synchronized
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
        optimizer = innermost(self.optimizer)
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise InputError(
                f"SharpnessAware: the optimizer accumulates gradients over {optimizer.gradient_accumulation_steps} "
                "steps, but each step needs its own two: leave gradient_accumulation_steps out, take larger batches"
            )

    def train_step(self, *arguments):
        return backend.train_step(self, self._gradients_and_figures, *arguments)

    def _gradients_and_figures(self, data):
        """The gradients that the optimizer takes, and the figures of the batch by name."""
        variables = self.trainable_variables
        others = self.non_trainable_variables + self.metrics_variables  # a loss of several outputs has metrics of them
        if not variables:
            raise InputError(f"SharpnessAware: the model '{self.name}' has no trainable weights")
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_of_batch():
            y_pred = self.model(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            return self.optimizer.scale_loss(loss), (loss, y_pred)

        state = backend.pass_state(others)  # the seeds of dropout in it
        (loss, y_pred), gradients = backend.gradients(loss_of_batch, variables, others)
        if self.synchronized:
            gradients = backend.mean_of_processes(self.optimizer, gradients)
        worst = self._worst_point(variables, gradients)
        _, gradients = backend.gradients(loss_of_batch, variables, others, at=(worst, state))

        batch_size = next(value for value in keras.tree.flatten(x) if value is not None).shape[0]
        self._loss_tracker.update_state(loss, sample_weight=batch_size)
        return gradients, self.compute_metrics(x, y, y_pred, sample_weight)

    def _worst_point(self, variables, gradients):
        """w + ε for each weight."""
        weights = [ops.stop_gradient(variable) for variable in variables]
        gradients = [ops.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
        if not self.adaptive:
            length = self.rho / self._norm(gradients)
            return [w + length * g for w, g in zip(weights, gradients, strict=True)]
        scales = [
            1.0 if variable.name in ("bias", "beta") else ops.abs(w) + self.eta
            for variable, w in zip(variables, weights, strict=True)
        ]
        scaled = [t * g for t, g in zip(scales, gradients, strict=True)]
        length = self.rho / self._norm(scaled)
        return [w + length * t * g for w, t, g in zip(weights, scales, scaled, strict=True)]

    def _norm(self, gradients):
        """‖gradients‖₂ + 1e-12 of the loss as it is, scaled as they are."""
        scale = self.optimizer.scale_loss(1.0)
        values = ops.cast(ops.concatenate([ops.ravel(g) for g in gradients]), "float32")
        return (ops.norm(values / scale) + 1e-12) * scale

    def get_config(self):
        """For clones, copies and `keras.saving.save_model`; what `save` writes is the model in it."""
        model = keras.saving.serialize_keras_object(self.model)
        options = {name: getattr(self, name) for name in ("rho", "adaptive", "eta", "synchronized")}
        return {"model": model, **options}

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
