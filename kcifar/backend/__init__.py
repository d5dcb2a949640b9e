"""The only room that imports torch or jax. Both files in it define the same functions; this picks one."""

import keras

from kcifar.errors import InputError

name = keras.backend.backend()
if name == "torch":
    from kcifar.backend.torch import describe, peak_device_bytes, use_deterministic_algorithms
elif name == "jax":
    from kcifar.backend.jax import describe, peak_device_bytes, use_deterministic_algorithms
else:
    raise InputError(f"Keras's backend is '{name}'; kcifar runs on 'torch' and 'jax': set KERAS_BACKEND to one of them")

__all__ = ["describe", "name", "peak_device_bytes", "use_deterministic_algorithms"]
