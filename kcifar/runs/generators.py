"""The states of the generators of random numbers by which Keras shuffles what it is given."""

import random

import numpy as np

from kcifar import backend


def states():
    """The states of Python's, NumPy's and the backend's global generators, as JSON can hold them, and NumPy arrays."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        backend.name: backend.generator_states(),
    }


def restore(states):
    """Sets them to the states that `states` gave; those of another backend are left alone."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])
    backend.restore_generators(states.get(backend.name, []))
