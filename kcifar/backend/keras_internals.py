"""What kcifar takes from inside Keras. No other file imports `keras.src`.

None of it is Keras's public interface: each may move, change or go with any version. So what is imported is None where
this Keras has it no more, and `unfit` tells `kcifar.accelerate` before it touches a model.
"""

import importlib
import inspect
import sys

import keras


def _found(*places):
    """The first of some 'module:name' that this Keras has; None without any."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(f"keras.src.{module}"), name)
        except (ImportError, AttributeError):
            continue
    return None


Functional = _found("models.functional:Functional")
get_stateless_scope = _found("backend.common.stateless_scope:get_stateless_scope")
_get_global_attribute = _found("backend.common.global_state:get_global_attribute")
_get_keras_mask = _found("backend.common.masking:get_keras_mask")
_CompileLoss = _found("trainers.compile_utils:CompileLoss")
_CompileMetrics = _found("trainers.compile_utils:CompileMetrics")
# Until Keras 3.15 a graph hands its own `training` to each operation, over what that was given; then it no longer does.
_operation_fn = _found("models.functional:operation_fn")
_get_device = None
if keras.backend.backend() == "torch":
    _get_device = _found("backend.torch.core:get_device", "backend.torch.ops.core:get_device")


def in_stateless_scope():
    """Whether variables may have other values than their own: so, where this Keras does not tell."""
    return get_stateless_scope is None or get_stateless_scope() is not None


def has_mask(tensor):
    """Whether a mask comes with a tensor of a graph, which Keras's layers hand on to what they give."""
    return _get_keras_mask is not None and _get_keras_mask(tensor) is not None


def infers_shapes():
    """Whether Keras on torch now calls layers to find the shapes of what they give."""
    return _get_device() == "meta"


def graph_decides_training(training):
    """Whether a graph that is called with `training` hands it to each operation. Else `training_here` tells them."""
    return _operation_fn is not None and training is not None


def training_here():
    """`training` of a layer that is called now and given none: of the outermost call, or what a layer in it was given.

    None outside every call.
    """
    context = _get_global_attribute("current_call_ctx")
    return None if context is None else context.get_value("training")


def run_operation(operation, training, args, kwargs):
    """Calls an operation of a graph as `Functional.call` does."""
    if graph_decides_training(training):
        operation = _operation_fn(operation, training=training)
    return operation(*args, **kwargs)


def ends_epoch_of_training():
    """Whether `on_epoch_end` of a data set, which asks, is called behind an epoch of `fit`, or by nothing of Keras.

    Not behind an evaluation or prediction, one within `fit` among them, and not behind the look at a first batch that
    builds a model. Keras tells a data set nothing of who reads it, so the callers are looked at.
    """
    frame = sys._getframe()
    while frame is not None:
        name, caller = frame.f_code.co_name, frame.f_locals.get("self")
        if name == "reset" and type(caller).__name__.endswith("EpochIterator"):
            return False
        if name in ("fit", "evaluate", "predict") and isinstance(caller, keras.Model):
            return name == "fit"
        frame = frame.f_back
    return True


def innermost(optimizer):
    """The optimizer that has the rate and takes the steps: `LossScaleOptimizer` is around another."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def moving_statistics(model):
    """The variables that a pass in training changes and no gradient does, as BatchNorm's means and variances."""
    return [
        variable
        for layer in model._flatten_layers()
        if layer.trainable
        for variable in layer._non_trainable_variables
        if keras.backend.is_float_dtype(variable.dtype)
    ]


def seed_states(model):
    """The variables that a model's layers draw from: a seed and a count each."""
    return [generator.state for layer in model._flatten_layers() for generator in layer._seed_generators]


def schedule_of(optimizer):
    """The schedule that an optimizer takes its rate from; None where that is a number."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def set_learning_rate(optimizer, value):
    """Gives an optimizer a number for its rate in the place of a schedule, which its own setter refuses."""
    optimizer._learning_rate = keras.Variable(
        value, dtype=keras.config.floatx(), name="learning_rate", trainable=False, aggregation="only_first_replica"
    )
    variables = optimizer._variables  # it is the last one now
    variables.insert(1, variables.pop())  # where every optimizer and every file has it


_FOUND = {
    "keras.src.models.functional.Functional": lambda: Functional,
    "keras.src.backend.common.stateless_scope.get_stateless_scope": lambda: get_stateless_scope,
    "keras.src.backend.common.global_state.get_global_attribute": lambda: _get_global_attribute,
    "keras.src.backend.common.masking.get_keras_mask": lambda: _get_keras_mask,
    "keras.src.trainers.compile_utils.CompileLoss": lambda: _CompileLoss,
    "keras.src.trainers.compile_utils.CompileMetrics": lambda: _CompileMetrics,
    "keras.src.backend.torch.ops.core.get_device": lambda: _get_device,
}
_OF_LAYERS = (
    "_call_has_training_arg",
    "_flatten_layers",
    "_losses",
    "_remat_mode",
    "_trainable_variables",
    "activity_regularizer",
    "autocast",
    "input_spec",
    "quantization_mode",
)
_OF_MODELS = ("_compile_loss", "_compile_metrics", "_loss_tracker", "get_metrics_result")
_OF_GRAPHS = ("_inputs", "_nodes_by_depth", "_outputs", "_outputs_struct", "_standardize_inputs")
_OF_NODES = ("arguments", "input_tensors", "is_input", "operation", "outputs")
_OF_ARGUMENTS = ("args", "fill_in", "kwargs")
_SIGNATURES = {
    "_compute_loss": {"self", "x", "y", "y_pred", "sample_weight", "training"},
    "compute_loss": {"self", "x", "y", "y_pred", "sample_weight", "training"},
    "compute_metrics": {"self", "x", "y", "y_pred", "sample_weight"},
    "test_step": {"self", "data"},
    "train_step": {"self", "data"},
}
_OF_CALLS = {"self", "inputs", "training", "mask"}  # a Functional's; and **kwargs, which only Keras 3.15 hands on


def unfit(model):
    """What `kcifar.accelerate` needs and this Keras does not have, or has otherwise: a list of names, sorted."""
    missing = {name for name, value in _FOUND.items() if value() is None}
    missing |= _other_signatures(keras.Model, _SIGNATURES)
    if missing:
        return sorted(missing)
    missing |= _other_signatures(Functional, {"call": _OF_CALLS})
    missing |= _absent("CompileLoss", _CompileLoss("mse"), ("_flat_losses", "built"))
    missing |= _absent("CompileMetrics", _built_metrics(), ("_flat_metrics", "_flat_weighted_metrics", "built"))
    missing |= _absent("Model", model, _OF_MODELS) | _absent("Layer", model, _OF_LAYERS)
    if not missing:
        missing |= set().union(*map(_absent_of_layer, model._flatten_layers()))
    return sorted(missing)


def _absent(kind, thing, names):
    return {f"{kind}.{name}" for name in names if not hasattr(thing, name)}


def _built_metrics():
    metrics, example = _CompileMetrics(["mse"], None), keras.KerasTensor((1, 1))
    metrics.build(example, example)
    return metrics


def _other_signatures(kind, signatures):
    """The methods that are not there, or do not take just these arguments."""
    return {f"{kind.__name__}.{name}" for name, wanted in signatures.items() if _arguments(kind, name) != wanted}


def _arguments(kind, name):
    method = getattr(kind, name, None)
    found = inspect.signature(method).parameters.values() if method else ()
    return {argument.name for argument in found if argument.kind != argument.VAR_KEYWORD}


def _absent_of_layer(layer):
    missing = _absent("Layer", layer, _OF_LAYERS)
    for variable in layer.weights:
        missing |= _absent("Variable", variable, ("_value", "regularizer"))
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and layer.built:
        missing |= _absent(type(layer).__name__, layer, ("_kernel",))
    if isinstance(layer, keras.layers.Add):
        missing |= _absent("Merge", layer, ("_reshape_required",))
    if isinstance(layer, keras.Sequential):
        missing |= _absent("Sequential", layer, ("_functional",))
        layer = getattr(layer, "_functional", None)
    return missing | _absent_of_graph(layer) if isinstance(layer, Functional) else missing


def _absent_of_graph(model):
    missing = _absent("Functional", model, _OF_GRAPHS)
    if missing:
        return missing
    for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
        missing |= _absent("Node", node, _OF_NODES) or _absent("SymbolicArguments", node.arguments, _OF_ARGUMENTS)
    return missing
