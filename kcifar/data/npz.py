"""An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test`, as `keras.datasets.cifar10` and NumPy users save it."""

import numpy as np

from kcifar.data.dataset import CLASS_NAMES, Dataset, Split, check_labels
from kcifar.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read(path):
    """The `Dataset` in an `.npz`.

    Images are uint8 `(n, 32, 32, 3)`, labels whole numbers `(n,)` or `(n, 1)`. `class_names`, an array of strings, may
    be there too; without it the classes are CIFAR-10's.

    Raises:
        InputError: an array is missing, of another shape or dtype, or needs a pickle; a label is out of range.
    """
    try:
        arrays = _arrays(path)
    except InputError:
        raise
    except Exception as error:  # damage to the zip, to deflate and to the headers raise each their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"'{path}' cannot be read as an .npz of plain arrays ({reason}); expected {', '.join(ARRAYS)}: save them"
            " with numpy.savez"
        ) from error
    names = _names(path, arrays.get("class_names"))
    splits = (_split(path, arrays, which, len(names)) for which in ("train", "test"))
    return Dataset(*splits, class_names=names, source=str(path))


def _arrays(path):
    # Opened here: numpy.load leaves the file open where it finds a damaged zip.
    with open(path, "rb") as opened:
        file = np.load(opened, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        missing = [name for name in ARRAYS if name not in file.files]
        if missing:
            held = ", ".join(file.files) or "nothing"
            raise InputError(
                f"'{path}' lacks {', '.join(missing)} (it holds {held}); expected {', '.join(ARRAYS)}: save them"
                " with numpy.savez"
            )
        return {name: file[name] for name in (*ARRAYS, "class_names") if name in file.files}


def _names(path, names):
    if names is None:
        return CLASS_NAMES
    if names.ndim != 1 or names.dtype.kind not in "US" or not len(names):
        raise InputError(f"'{path}': class_names is {names.dtype} {names.shape}; expected a list of strings")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())


def _split(path, arrays, which, classes):
    images, labels = arrays[f"x_{which}"], arrays[f"y_{which}"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise InputError(
            f"'{path}': x_{which} is {images.dtype} {images.shape}; expected uint8 (n, 32, 32, 3): convert it first"
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise InputError(
            f"'{path}': y_{which} is {labels.dtype} {labels.shape}; expected whole numbers of shape ({len(images)},)"
        )
    check_labels(labels.reshape(-1), classes, f"'{path}': a label of y_{which}")
    return Split(np.ascontiguousarray(images), labels.reshape(-1).astype(np.int64), classes)
