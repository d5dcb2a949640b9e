"""What differs on JAX."""

import os

import jax


def compiled(function):
    """The function of arrays, compiled as a whole for each new shape."""
    return jax.jit(function)


def describe():
    """The device that training runs on, and the library's version, as a dict for `environment.json`."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}


def peak_device_bytes():
    """The most memory that arrays took on the GPU so far, in bytes; 0 without a GPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def use_deterministic_algorithms():
    """Makes every operation give the same bits each time. XLA reads this when it first looks for devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def prepares_ahead():
    """Whether a thread that prepares the next batch helps: 4 % on two cores, since XLA computes without Python."""
    return True


def accelerate(model):
    """The model as it is: XLA compiles the whole step of a stock Keras model."""
    return model


def update_adam(optimizer, gradients, variables, slots, learning_rate):
    """False: XLA fuses the updates of all variables by itself."""
    return False


def update_sgd(optimizer, gradients, variables, slots, learning_rate):
    """False: XLA fuses the updates of all variables by itself."""
    return False
