"""An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test`, as `keras.datasets.cifar10` and NumPy users save it."""

import zipfile

import numpy as np

from kcifar import reading
from kcifar.data.dataset import CLASS_NAMES, Dataset, Split, check_labels
from kcifar.errors import InputError, one_line, some

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_MOST_UNNAMED = 1000  # classes without names; a greater label is an error


def read(path):
    """The `Dataset` in an `.npz`.

    Images are uint8 `(n, height, width, channels)` of 3 channels (RGB) or 1, or `(n, height, width)`, grey; labels
    whole numbers `(n,)` or `(n, 1)`. `class_names`, an array of strings, may be there too. Without it the classes are
    CIFAR-10's where images are 32×32 RGB, else "class 0", "class 1" and so on, up to the greatest label.

    Raises:
        InputError: an array is missing, of another shape or dtype, or needs a pickle; a label is out of range.
    """
    try:
        arrays = _arrays(path)
    except MemoryError:
        raise
    except Exception as error:  # damage to the zip, to deflate and to the headers raise each their own
        raise InputError(
            f"'{path}' cannot be read as an .npz of plain arrays ({one_line(error)}); expected "
            f"{', '.join(ARRAYS)}: save them with numpy.savez"
        ) from error
    missing = [name for name in ARRAYS if arrays.get(name) is None]
    if missing:
        raise InputError(
            f"'{path}' lacks {', '.join(missing)} (it holds {some(list(arrays)) or 'nothing'}); expected "
            f"{', '.join(ARRAYS)}: save them with numpy.savez"
        )
    images = {which: _images(path, f"x_{which}", arrays[f"x_{which}"]) for which in ("train", "test")}
    names = _names(path, arrays, images["train"].shape[1:])
    splits = {which: _split(path, arrays, which, images[which], names) for which in images}
    return Dataset(**splits, class_names=names, source=str(path))


def _arrays(path):
    """By name those that are taken; of others None."""
    if not zipfile.is_zipfile(path):  # NumPy would take it for a single array, or advise to trust a pickle
        raise InputError("it is no zip archive, or not all of one")
    with reading.npz(path) as file:
        return {name: file[name] if name in (*ARRAYS, "class_names") else None for name in file.files}


def _names(path, arrays, image_shape):
    names = arrays.get("class_names")
    if names is None:
        if image_shape == (32, 32, 3):
            return CLASS_NAMES
        whole = [
            labels for labels in (arrays["y_train"], arrays["y_test"]) if labels.dtype.kind in "iu" and labels.size
        ]
        greatest = max((int(labels.max()) for labels in whole), default=0)
        return tuple(f"class {label}" for label in range(max(0, min(greatest, _MOST_UNNAMED - 1)) + 1))
    if names.ndim != 1 or names.dtype.kind not in "US" or not len(names):
        raise InputError(f"'{path}': class_names is {names.dtype} {names.shape}; expected a list of strings")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    except (SystemError, ValueError) as error:  # numbers that are no signs
        raise InputError(f"'{path}': class_names is damaged ({one_line(error)}); expected a list of strings") from None


def _images(path, name, images):
    """The images as uint8 (n, height, width, channels). Raises InputError, with the line that converts others."""
    shape = images.shape
    expected = (
        f"'{path}': {name} is {images.dtype} {shape}; expected uint8 (n, height, width, 3), or 1 or none for grey"
    )
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise InputError(f"{expected}: {name} = {name}.transpose(0, 2, 3, 1)")
    if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
        raise InputError(f"{expected}: convert it first")
    if not len(images):
        raise InputError(f"{expected}: there are no images in it, leave no split empty")
    if images.dtype != np.uint8:
        raise InputError(f"{expected}: {_conversion(name, images)}")
    return np.ascontiguousarray(images if images.ndim == 4 else images[..., None])


def _conversion(name, images):
    """What to do with images of another dtype."""
    if images.dtype.kind not in "fiub" or not images.size:
        return "convert it first"
    least, most = images.min(), images.max()
    if np.isnan(least):
        return "some of its values are NaN, save the images as they were read, 0 to 255"
    if not 0 <= least <= most <= 255:
        return f"its values go from {least:g} to {most:g}, save the images before they are normalised, 0 to 255"
    if images.dtype.kind == "f" and most <= 1:
        return f"its values go from {least:g} to {most:g}, so {name} = np.round(255 * {name}).astype('uint8')"
    rounded = f"np.round({name})" if images.dtype.kind == "f" else name
    return f"its values go from {least:g} to {most:g}, so {name} = {rounded}.astype('uint8')"


def _split(path, arrays, which, images, names):
    labels = arrays[f"y_{which}"]
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise InputError(
            f"'{path}': y_{which} is {labels.dtype} {labels.shape}; expected whole numbers of shape ({len(images)},)"
        )
    advice = ""
    if "class_names" not in arrays:
        whose = ", the classes of CIFAR-10" if names == CLASS_NAMES else ""
        advice = f"{whose}, as there is no class_names: add this array, a name for each class"
    check_labels(labels.reshape(-1), len(names), f"'{path}': a label of y_{which}", advice)
    return Split(images, labels.reshape(-1).astype(np.int64), len(names))
