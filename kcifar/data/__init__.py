"""CIFAR-10, CIFAR-100 and other labelled images of one size, from any of their forms, as arrays and as batches.

`load` reads a source into a `Dataset` of `Split`s (NumPy only); `Batches` feeds one to Keras and is imported when it
is first asked for, so that `import kcifar.data` stays free of Keras.
"""

from kcifar.data.dataset import CLASS_NAMES, Dataset, Split
from kcifar.data.sources import load

__all__ = ["CLASS_NAMES", "Batches", "Dataset", "Split", "load"]


def __getattr__(name):
    if name == "Batches":
        from kcifar.data.batches import Batches

        return Batches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
