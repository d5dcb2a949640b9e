"""What is in the published forms of CIFAR-10 and CIFAR-100: their files, and how each of these is parsed.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, which also publishes the archives' MD5 sums. The SHA-256 sums are
the same files': those of the Python archives are also in Keras's `datasets/cifar10.py` and `cifar100.py`, those of the
binary ones in TensorFlow Datasets' `url_checksums/cifar10.txt` and `cifar100.txt`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from kcifar.data import pickles
from kcifar.data.dataset import CLASS_NAMES, check_labels
from kcifar.errors import InputError

PER_BATCH = 10_000
"""Images in a test file; there are five times as many for training."""

_BATCHES = 5
_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Labels:
    """A kind of label: its key in a pickle, that of its names, its byte before an image in the binary form."""

    key: str
    names: str
    byte: int
    classes: int


_PLAIN = Labels("labels", "label_names", 0, 10)
_FINE = Labels("fine_labels", "fine_label_names", 1, 100)
_COARSE = Labels("coarse_labels", "coarse_label_names", 0, 20)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published form: its folder, its files in order, how each is parsed, and its archive."""

    data: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    parse_images: Callable
    parse_names: Callable
    labels: Labels
    archive: str
    sha256: str
    md5: str

    @property
    def files(self):
        return (*self.train, self.test, self.meta)

    @property
    def is_coarse(self):
        return self.labels is _COARSE

    def coarse(self):
        """The same files with the coarse labels. Raises InputError where they have none."""
        if self.labels is _PLAIN:
            raise InputError(f"{self.data} has no coarse labels; expected CIFAR-100: leave ':coarse' out")
        names = self.meta.replace(self.labels.names, _COARSE.names)
        return dataclasses.replace(self, labels=_COARSE, meta=names)

    def images(self, name, content, where):
        """(images uint8 (n, 32, 32, 3), labels int64 (n,)) of one of the files. Raises InputError: it is damaged."""
        count = PER_BATCH if name == self.test else _BATCHES * PER_BATCH // len(self.train)
        rows, labels = self.parse_images(self.labels, count, content, where)
        check_labels(labels, self.labels.classes, f"{where}: a label")
        return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels

    def names(self, content, where):
        """The names of the classes, in order. Raises InputError: there are others, or not so many."""
        names = self.parse_names(self.labels, content, where)
        if self.labels is _PLAIN and names != list(CLASS_NAMES):
            raise InputError(f"{where} names the classes {names}; expected {', '.join(CLASS_NAMES)}")
        if not isinstance(names, list) or len(names) != self.labels.classes:
            found = len(names) if isinstance(names, list) else f"no {self.labels.names}, or no list of"
            raise InputError(f"{where} has {found} names; expected {self.labels.classes}: unpack the archive again")
        return tuple(names)


def _pickled_images(labels_of, count, content, where):
    batch = pickles.read(content, where)
    data, labels = batch.get("data"), batch.get(labels_of.key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, _PIXELS):
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError(f"{where}: 'data' is {found}; expected uint8 ({count}, {_PIXELS}): unpack the archive again")
    if not (
        isinstance(labels, list) and len(labels) == count and all(type(x) is int and abs(x) < 2**31 for x in labels)
    ):
        found = f"{len(labels)} values" if isinstance(labels, list) else type(labels).__name__
        raise InputError(
            f"{where}: '{labels_of.key}' is {found}; expected a list of {count} whole numbers: unpack the archive again"
        )
    return data, np.array(labels, np.int64)


def _binary_images(labels_of, count, content, where):
    before = 1 if labels_of is _PLAIN else 2
    size = _PIXELS + before
    if len(content) != count * size:
        raise InputError(
            f"{where} has {len(content)} bytes; expected {count * size} ({count} images of {size}): unpack the archive"
            " again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(count, size)
    return rows[:, before:], rows[:, labels_of.byte].astype(np.int64)


def _pickled_names(labels_of, content, where):
    names = pickles.read(content, where).get(labels_of.names)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        return None
    return [_decoded(name) for name in names]


def _binary_names(labels_of, content, where):
    return _decoded(content).split()


def _decoded(name):
    return name.decode("latin1") if isinstance(name, bytes) else name


PYTHON = Layout(
    data="CIFAR-10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    parse_images=_pickled_images,
    parse_names=_pickled_names,
    labels=_PLAIN,
    archive="cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    md5="c58f30108f718f92721af3b95e74349a",
)
BINARY = Layout(
    data="CIFAR-10",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    meta="batches.meta.txt",
    parse_images=_binary_images,
    parse_names=_binary_names,
    labels=_PLAIN,
    archive="cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
PYTHON_100 = Layout(
    data="CIFAR-100",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    parse_images=_pickled_images,
    parse_names=_pickled_names,
    labels=_FINE,
    archive="cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
)
BINARY_100 = Layout(
    data="CIFAR-100",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    meta="fine_label_names.txt",
    parse_images=_binary_images,
    parse_names=_binary_names,
    labels=_FINE,
    archive="cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    md5="03b5dce01913d631647c71ecec9e9cb8",
)
LAYOUTS = (PYTHON, BINARY, PYTHON_100, BINARY_100)
