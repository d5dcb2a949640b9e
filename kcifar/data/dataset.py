"""What a data source becomes: images and labels in memory, split as published."""

import collections
import dataclasses
import functools
import hashlib

import numpy as np

from kcifar import chance
from kcifar.errors import InputError
from kcifar.output import printable

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes, in the order of their labels."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled images, both arrays read-only (a memory map where they come from the cache).

    Args:
        images: uint8 `(n, height, width, channels)`, 0–255, n ≥ 1, of 1 channel (grey) or 3 (RGB).
        labels: int64 `(n,)`, each in 0 … `classes` − 1.
        classes: how many classes there are, whether or not each of them occurs.

    Raises:
        InputError: a shape, a dtype or a label is another.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int

    def __post_init__(self):
        for name in ("images", "labels"):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray):
                raise InputError(f"{name} are a {type(array).__name__}; expected a NumPy array")
            object.__setattr__(self, name, _read_only(array))
        _check_images(self.images)
        _check_labels(self.labels, len(self.images))
        if not len(self.images):
            raise InputError("a split has no images; expected at least one")
        if not isinstance(self.classes, int) or self.classes < 1:
            raise InputError(f"classes is {self.classes!r}; expected a whole number of at least 1")
        check_labels(self.labels, self.classes)

    def __len__(self):
        return len(self.images)

    def take(self, rows):
        """The split of these rows, in their order, copied."""
        return Split(self.images[rows], self.labels[rows], self.classes)

    @functools.cached_property
    def fingerprint(self):
        """SHA-256, in hex, of pixels and labels."""
        digest = hashlib.sha256()
        self.add_to(digest)
        return digest.hexdigest()

    def add_to(self, digest):
        """Adds pixels and labels to a hash of `hashlib`."""
        digest.update(len(self).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels, "<i8"))

    def __repr__(self):
        return f"Split({len(self)} images, {self.classes} classes)"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set and the names of its classes.

    Args:
        train, test: the published splits, in the published order where the source tells it.
        class_names: one name per label, all different.
        validation: the source's own, where it has one; else None until `split_validation` takes it from `train`.
        source: what was loaded, for people to read.

    Raises:
        InputError: the splits and the names disagree on the number of classes, a name occurs twice, or the splits have
            images of different shapes.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    validation: Split | None = None
    source: str = ""

    def __post_init__(self):
        names = tuple(self.class_names)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "source", printable(self.source))
        if len(set(names)) != len(names):
            twice = [name for name, count in collections.Counter(names).items() if count > 1]
            raise InputError(f"several classes are named {' or '.join(twice)}; expected each name once")
        splits = {name: getattr(self, name) for name in ("train", "validation", "test")}
        splits = {name: split for name, split in splits.items() if split is not None}
        for split in splits.values():
            if split.classes != len(names):
                raise InputError(f"a split has {split.classes} classes but there are {len(names)} class names")
        if len({split.images.shape[1:] for split in splits.values()}) > 1:
            sizes = ", ".join(
                f"{shape_text(split.images.shape[1:])} ({len(split):,} in {name})" for name, split in splits.items()
            )
            whose = f"the splits of '{self.source}'" if self.source else "the splits"
            raise InputError(f"{whose} have images of several sizes: {sizes}; expected one: scale them first")

    @property
    def image_shape(self):
        """(height, width, channels) of every image."""
        return self.train.images.shape[1:]

    def split_validation(self, fraction=0.1, seed=0):
        """Takes a random part of `train` away as `validation`.

        The part is the first `round(fraction · n)` of a permutation drawn by Philox with the key `(seed, SPLIT)`
        (see `kcifar.chance`); the rest stays `train`. Within each part the images keep their order.
        Both parts are copies in memory: a random choice of rows cannot be a view of the memory-mapped file.

        Args:
            fraction: of `train`, in (0, 1), so that both parts have at least one image.
            seed: a whole number in 0 … 2**64 − 1.

        Returns:
            A `Dataset` with `.train`, `.validation` and the same `.test`.

        Raises:
            InputError: `fraction` or `seed` is out of range, or a validation split has been taken already.
        """
        if self.validation is not None:
            raise InputError(
                "this data set has a validation split already, its own or one that was taken before; expected one"
                " without: use .validation as it is"
            )
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise InputError(f"validation fraction is {fraction!r}; expected a number between 0 and 1, both excluded")
        n = len(self.train)
        rows = validation_rows(n, fraction, seed)
        if not 0 < len(rows) < n:
            raise InputError(
                f"validation fraction {fraction} of {n} training images leaves {n - len(rows)} for training and"
                f" {len(rows)} for validation; expected at least one in each: change the fraction"
            )
        rest = np.setdiff1d(np.arange(n), rows, assume_unique=True)
        return dataclasses.replace(self, train=self.train.take(rest), validation=self.train.take(rows))

    def fingerprint(self):
        """SHA-256, in hex, of pixels, labels and class names: the same for equal data from whatever source."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in (self.train, self.validation, self.test):
            if split is not None:
                split.add_to(digest)
        return digest.hexdigest()


def validation_rows(n, fraction, seed):
    """The rows of `n` training images that `split_validation` holds out, in order: int64 (count,)."""
    return np.sort(chance.generator(seed, chance.SPLIT).permutation(n)[: round(n * fraction)])


def check_labels(labels, classes, what="a label", advice=""):
    """Raises InputError, naming the first one, unless all labels are in 0 … classes − 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise InputError(
            f"{what} is out of range: {labels[wrong[0]]} at index {wrong[0]} ({len(wrong)} such);"
            f" expected 0 to {classes - 1}{advice}"
        )


def shape_text(shape):
    """`96×96` of (96, 96, 3), `28×28 grey` of (28, 28, 1)."""
    return f"{shape[0]}×{shape[1]}{' grey' if shape[2:] == (1,) else ''}"


def _check_images(images):
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise InputError(
            f"images are {images.dtype} of shape {images.shape}; expected uint8 of shape (n, height, width, channels),"
            " 1 channel or 3"
        )


def _check_labels(labels, count):
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise InputError(f"labels are {labels.dtype} of shape {labels.shape}; expected int64 of shape {(count,)}")


def _read_only(array):
    # A plain ndarray over the memory map: np.memmap's own indexing is slower and buys nothing.
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
