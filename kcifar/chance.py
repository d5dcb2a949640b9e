"""Where every random number of kcifar comes from: NumPy's Philox generator, keyed by what it is drawn for.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a function of a key and a counter, so the
numbers of any step can be drawn without those of the steps before it: no generator state has to be saved, and both
backends see the same numbers.
"""

import dataclasses

import numpy as np

from kcifar.errors import InputError

# The second word of the key: what the numbers are for. Appended to, never renumbered: results depend on them.
ORDER, TRANSFORMS, WEIGHTS, SPLIT, DEMO, MIRRORS = range(6)


def generator(seed, purpose, epoch=0, step=0):
    """The generator for one purpose at one step.

    Args:
        seed: int in [0, 2**64).
        purpose: one of `ORDER`, `TRANSFORMS`, `WEIGHTS`, `SPLIT`, `DEMO`, `MIRRORS`.
        epoch, step: ints ≥ 0, counted from 0.

    Returns:
        A `numpy.random.Generator` that depends on the four arguments and on nothing else. Streams of different
        arguments never overlap: the key is (seed, purpose), the counter starts at (0, 0, step, epoch).
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; expected an integer from 0 to 2**64 - 1")
    key = np.array([seed, purpose], np.uint64)
    counter = np.array([0, 0, step, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Which images a batch has, and when.

    Attributes:
        seed: of the training.
        epoch: counted from 0.
        images: the places of its images in their split, int (batch,).
    """

    seed: int
    epoch: int
    images: np.ndarray


def drawn_by(transform, rng, batch_size, image_shape, place=None):
    """What a transform draws; `place` is given to one that has `by_image = True`."""
    if getattr(transform, "by_image", False):
        return transform.draw(rng, batch_size, image_shape, place)
    return transform.draw(rng, batch_size, image_shape)
