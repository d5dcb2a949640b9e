"""What differs on JAX."""

import os

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kcifar.backend.keras_internals import get_stateless_scope
from kcifar.errors import InputError


def compiled(function):
    """The function of arrays, compiled as a whole for each new shape."""
    return jax.jit(function)


def use_device(name):
    """Has all that this process computes be computed on the device of this name. Called before anything is computed.

    Args:
        name: "cpu", "cuda", "cuda:1", "tpu:0"; "gpu" for "cuda"; "all" for all of one kind together, each of which
            takes its part of every batch (`keras.distribution.DataParallel`).

    Raises:
        InputError: there is no such device here.
    """
    if name == "all":
        keras.distribution.set_distribution(_AllDevices())
        return
    devices = {_name(device): device for device in [*_cpu(), *jax.devices()]}
    wanted = name.replace("gpu", "cuda")
    wanted = f"{wanted}:0" if wanted in ("cuda", "tpu") else wanted
    if wanted not in devices:
        raise InputError(f"the device is '{name}', which is not here; expected {' or '.join(devices)}")
    jax.config.update("jax_default_device", devices[wanted])


class _AllDevices(keras.distribution.DataParallel):
    """Shares batches among all devices; of data whose first batch they cannot share evenly, each computes the whole."""

    def get_data_layout(self, data_shape):
        if data_shape[0] % device_count():
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)


def device_count():
    """Among how many devices of this process each batch is shared."""
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if isinstance(distribution, _AllDevices) else 1


def _cpu():
    try:
        return jax.devices("cpu")[:1]
    except RuntimeError:  # the variable JAX_PLATFORMS names others only
        return []


def _name(device):
    platform = "cuda" if device.platform == "gpu" else device.platform
    return platform if platform == "cpu" else f"{platform}:{device.id}"


def _device():
    """That arrays are made on."""
    (device,) = jnp.zeros(()).devices()
    return device


def describe():
    """The device that training runs on, how many of them, and the library's version: for `environment.json`."""
    return {"jax": jax.__version__, "device": _device().device_kind, "devices": device_count()}


def peak_device_bytes():
    """The most memory that arrays took on the GPU so far, in bytes; 0 without a GPU."""
    return (_device().memory_stats() or {}).get("peak_bytes_in_use", 0)


def is_out_of_memory(error):
    """Whether an error says that the device, or the machine, has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def use_deterministic_algorithms():
    """Makes every operation give the same bits each time. XLA reads this when it first looks for devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def generator_states():
    """An empty list: JAX has no global generator of random numbers."""
    return []


def restore_generators(states):
    """Nothing: JAX has no global generator of random numbers."""


def join_processes():
    """None: this process is alone. Raises InputError where it was started as one of several."""
    count = os.environ.get("WORLD_SIZE", "").strip()
    if count not in ("", "1"):
        raise InputError(
            f"the variable WORLD_SIZE is '{count}', as where torchrun starts several processes, but Keras runs on JAX: "
            "start the command once, with --device all for all devices of this machine, or unset KERAS_BACKEND"
        )


def joined_processes():
    """None: this process is alone."""


def average_gradients(model, processes):
    """Nothing: on JAX one process computes on all devices."""


def mean_of_processes(model, gradients):
    """The gradients as they are: those of all devices already."""
    return gradients


def prepares_ahead():
    """Whether a thread that prepares the next batch helps: 4 % on two cores, since XLA computes without Python."""
    return True


def gradients(function, variables, others, parts, at=None, keeps_states=False):
    """What a function gives of each part of a batch, and the sums of the gradients of its first result.

    A part is computed when the one before it is over, so that only its activations are in memory. XLA compiles each.

    Args:
        function: of a part, gives (scalar, anything). May read any variable of the model, and assign the `others`.
        variables: the `keras.Variable`s that the scalar is differentiated by.
        others: the model's other variables.
        parts: a list of tuples of arguments of the function.
        at: (values of the `variables`, a `pass_state` of the `others` for each part), in the place of their own; then
            nothing that the function assigns stays.
        keeps_states: whether the states are wanted, which cost nothing here.

    Returns:
        (a list of anything for each part, a sum for each of the `variables`, a list of the `pass_state` that each part
        began with).
    """
    around = get_stateless_scope()

    def of(values, state, part):
        with keras.StatelessScope(collect_losses=True) as scope:
            if around:  # that of a `train_step`
                scope.state_mapping.update(around.state_mapping)
            for variable, value in zip([*variables, *others], [*values, *state], strict=True):
                scope.add_update((variable, value))
            scalar, result = function(*part)
        return scalar, (result, [scope.get_current_value(variable) for variable in others])

    values = at[0] if at else [variable.value for variable in variables]
    results, sums, states, changed = [], None, [], pass_state(others)
    for place, part in enumerate(parts):
        states.append(at[1][place] if at else changed)
        given = part if sums is None else _behind(sums, part)
        found, (result, changed) = jax.grad(of, has_aux=True)(values, states[-1], given)
        results.append(result)
        sums = found if sums is None else [one + other for one, other in zip(sums, found, strict=True)]
    if at is None:
        for variable, value in zip(others, changed, strict=True):
            variable.assign(value)
    return results, sums, states


def _behind(values, arrays):
    """The arrays, which are known only when the values are.

    XLA, which would begin with all parts of a batch and hold the activations of all, orders by what needs what alone.
    No number is above infinity, but it does not see that.
    """
    never = sum(value.ravel()[0] for value in values) > jnp.inf
    return jax.tree.map(lambda array: jnp.where(never, jnp.zeros_like(array), array), arrays)


def pass_state(others):
    """All that a pass of a model reads and changes but its weights: two passes from it draw the same dropout."""
    return [variable.value for variable in others]


def hessian_product(function, variables):
    """A function of (vector, *data) that gives a function's value and its Hessian times the vector.

    Args:
        function: of the data and of Keras variables, which it leaves as they are; gives a scalar. Compiled once: what
            it reads but the data and the `variables` must stay.
        variables: the `keras.Variable`s that it is differentiated by. The vector and what comes out are lists like it.
    """

    @jax.jit
    def of(values, vector, *data):
        def scalar(values):
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return function(*data)

        (value, _), (_, product) = jax.jvp(jax.value_and_grad(scalar), (values,), (vector,))
        return value, product

    return lambda vector, *data: of([variable.value for variable in variables], list(vector), *data)


def train_step(model, gradients_and_figures, state, data):
    """`train_step` of a model: (figures, the state after it).

    Args:
        model: a compiled `keras.Model`.
        gradients_and_figures: of a batch; reads and assigns the model's variables, as on torch.
        state, data: what Keras gives to `train_step`.
    """
    weights, optimizer = model.trainable_variables, model.optimizer
    groups = weights, model.non_trainable_variables, optimizer.variables, model.metrics_variables
    mapping = [pair for group in zip(groups, state, strict=True) for pair in zip(*group, strict=True)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        found, figures = gradients_and_figures(data)
    values, others, slots, metrics = ([scope.get_current_value(variable) for variable in group] for group in groups)
    values, slots = optimizer.stateless_apply(slots, found, values)
    return figures, (values, others, slots, metrics)


def known_values(tensor):
    """A tensor's values as a NumPy array; None where it has none yet, because a step is only being compiled."""
    return None if isinstance(tensor, jax.core.Tracer) else np.asarray(tensor, np.float32)


def resampled(images, origin, shape):
    """Images of (height, width) `shape`, float32, where each pixel is taken from a place of the images given.

    Bilinear between the four nearest pixels, at the sides between those that there are; 0 outside the images, whose
    sides lie half a pixel beyond the middles of the outermost ones; the left and the top side are part of them.

    Args:
        images: (batch, height, width, channels), any number type.
        origin: six numbers or arrays (batch,), as `kcifar.augment.geometric.Origin`.
    """
    height, width = images.shape[1:3]
    rows, columns = (jnp.arange(side) - (side - 1) / 2 for side in shape)
    xx, xy, x, yx, yy, y = (jnp.asarray(part, "float32").reshape(-1, 1, 1) for part in origin)
    x = xx * columns + xy * rows[:, None] + (x + (width - 1) / 2)
    y = yx * columns + yy * rows[:, None] + (y + (height - 1) / 2)
    # A place right on a side is in at the left and the top, and out at the others, whatever its rounding: as on torch.
    inwards_x, inwards_y = (2e-5 * side / 2 for side in (width, height))
    inside = (jnp.abs(x + inwards_x - (width - 1) / 2) <= width / 2) & (
        jnp.abs(y + inwards_y - (height - 1) / 2) <= height / 2
    )
    left, top = jnp.floor(x), jnp.floor(y)
    batch = jnp.arange(len(images))[:, None, None]

    def pixels(y, x):
        y, x = jnp.clip(y, 0, height - 1).astype(int), jnp.clip(x, 0, width - 1).astype(int)
        return images.at[batch, y, x].get(mode="promise_in_bounds").astype("float32")

    def between(y):
        return pixels(y, left) + (x - left)[..., None] * (pixels(y, left + 1) - pixels(y, left))

    found = between(top) + (y - top)[..., None] * (between(top + 1) - between(top))
    return jnp.where(inside[..., None], found, 0)


def clipped(values, low, high):
    """Values between two numbers."""
    return jnp.clip(values, low, high)


def switch(index, branches, operand):
    """What one of some functions of an array gives: the one at `index`, which may be traced."""
    return jax.lax.switch(index, branches, operand)


def values_between_steps(model):
    """The values of the model's variables while it trains but in no step: other objects after each step.

    Keras keeps them out of the variables until somebody asks for these, which takes as long as some steps.
    """
    if model._jax_state_synced:
        return [variable.value for variable in model.variables]
    state = model._jax_state["trainable_variables"] + model._jax_state["non_trainable_variables"]
    value_of = dict(zip(map(id, model.trainable_variables + model.non_trainable_variables), state, strict=True))
    return [value_of[id(variable)] for variable in model.variables]


@jax.jit
def blended(averages, values, share):
    """(1 − share)·average + share·value of each."""
    return [average + share * (value - average) for average, value in zip(averages, values, strict=True)]


def accelerate(model):
    """The model as it is: XLA compiles the whole step of a stock Keras model."""
    return model


def update_adam(optimizer, gradients, variables, slots, learning_rate, l2, first_step):
    """False: XLA fuses the updates of all variables by itself."""
    return False


def update_sgd(optimizer, gradients, variables, slots, learning_rate, l2, momentum, nesterov):
    """False: XLA fuses the updates of all variables by itself."""
    return False


def write_onnx(model, path):
    """Raises InputError: Keras on JAX needs another package for it, which ties down its versions."""
    raise InputError(
        "ONNX is written by torch: run the same command with KERAS_BACKEND=torch (the .keras file is the same)"
    )
