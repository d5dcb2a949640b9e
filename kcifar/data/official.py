"""The two published forms of CIFAR-10, Python and binary, as folders and as archives.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, which also publishes the archives' MD5 sums. The SHA-256 sums
here are the same files' (the binary one's is also in TensorFlow Datasets' `url_checksums/cifar10.txt`).
"""

import dataclasses
import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kcifar.data import pickles
from kcifar.data.dataset import CLASS_NAMES, Dataset, Split, check_labels
from kcifar.errors import InputError

PER_BATCH = 10_000
"""Images in each of the five training batches and in the test batch."""

MAX_FILE_BYTES = 64 * 2**20
"""No published file is half as large; larger ones are not read."""

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def _parse_pickle(content, where):
    batch = pickles.read(content, where)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (PER_BATCH, 3072):
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError(f"{where}: 'data' is {found}; expected uint8 ({PER_BATCH}, 3072): unpack the archive again")
    if not (
        isinstance(labels, list) and len(labels) == PER_BATCH and all(type(x) is int and abs(x) < 2**31 for x in labels)
    ):
        found = f"{len(labels)} values" if isinstance(labels, list) else type(labels).__name__
        raise InputError(
            f"{where}: 'labels' is {found}; expected a list of {PER_BATCH} whole numbers: unpack the archive again"
        )
    return _channels_last(data), np.array(labels, np.int64)


def _parse_binary(content, where):
    if len(content) != PER_BATCH * 3073:
        raise InputError(
            f"{where} has {len(content)} bytes; expected {PER_BATCH * 3073} ({PER_BATCH} images of 3073):"
            " unpack the archive again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(PER_BATCH, 3073)
    return _channels_last(rows[:, 1:]), rows[:, 0].astype(np.int64)


def _pickled_names(content, where):
    names = pickles.read(content, where).get("label_names")
    return [_decoded(name) for name in names] if isinstance(names, list) else names


def _binary_names(content, where):
    return _decoded(content).split()


def _decoded(name):
    return name.decode("latin1") if isinstance(name, bytes) else name


def _channels_last(rows):
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published form: its folder, its files in order, how each is parsed, and its archive."""

    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    parse: Callable
    class_names: Callable
    archive: str
    sha256: str
    md5: str

    @property
    def files(self):
        return (*self.train, self.test, self.meta)


PYTHON = Layout(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    parse=_parse_pickle,
    class_names=_pickled_names,
    archive="cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    md5="c58f30108f718f92721af3b95e74349a",
)
BINARY = Layout(
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    meta="batches.meta.txt",
    parse=_parse_binary,
    class_names=_binary_names,
    archive="cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
LAYOUTS = (PYTHON, BINARY)


def find(path):
    """`(layout, folder)` where `path` is a published folder, whole or not, or holds one; otherwise None."""
    for folder_of in (lambda layout: path, lambda layout: path / layout.folder):
        for layout in LAYOUTS:
            folder = folder_of(layout)
            if folder.is_dir() and (folder.name == layout.folder or any((folder / f).exists() for f in layout.files)):
                return layout, folder
    return None


def read_folder(layout, folder):
    """The `Dataset` in an unpacked archive. Raises InputError: files missing, damaged or of other contents."""
    missing = [name for name in layout.files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"'{folder}' lacks {', '.join(missing)}; expected all {len(layout.files)} files of {layout.archive}:"
            f" unpack it again ({PAGE})"
        )
    for name in layout.files:
        _check_size(f"'{folder / name}'", (folder / name).stat().st_size)
    contents = ((name, (folder / name).read_bytes()) for name in layout.files)
    return _assemble(layout, contents, folder)


def read_archive(path):
    """The `Dataset` in an official archive, its members read in memory and nothing written to disk.

    Raises:
        InputError: the SHA-256 sum is neither archive's, or a member is missing, no plain file or too large.
    """
    path = Path(path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        layout = next((layout for layout in LAYOUTS if layout.sha256 == found), None)
        if layout is None:
            expected = " or ".join(f"{one.sha256} ({one.archive}, md5 {one.md5})" for one in LAYOUTS)
            raise InputError(
                f"'{path}' has {path.stat().st_size} bytes and the SHA-256 sum {found}; expected {expected}:"
                f" download it again from {PAGE}"
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r|gz") as archive:
                return _assemble(layout, _members(layout, archive, path), path)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"'{path}' cannot be read as an archive ({error}); download it from {PAGE}") from error


def _members(layout, archive, path):
    wanted = {f"{layout.folder}/{name}": name for name in layout.files}
    for member in archive:
        name = wanted.pop(member.name, None)
        if name is None:
            continue
        where = f"'{member.name}' in '{path}'"
        if not member.isreg():
            raise InputError(f"{where} is no plain file; expected the published archive: download it from {PAGE}")
        _check_size(where, member.size)
        yield name, archive.extractfile(member).read()
        if not wanted:
            return
    missing = ", ".join(wanted)
    raise InputError(f"'{path}' lacks {missing}; expected the published archive: download it from {PAGE}")


def _assemble(layout, contents, where):
    batches, names = {}, None
    for name, content in contents:
        what = f"'{where}/{name}'"
        if name == layout.meta:
            names = layout.class_names(content, what)
            if names != list(CLASS_NAMES):
                raise InputError(f"{what} names the classes {names}; expected {', '.join(CLASS_NAMES)}")
        else:
            images, labels = layout.parse(content, what)
            check_labels(labels, len(CLASS_NAMES), f"{what}: a label")
            batches[name] = images, labels
    train = (np.concatenate([batches[name][part] for name in layout.train]) for part in (0, 1))
    return Dataset(
        train=Split(*train, len(CLASS_NAMES)),
        test=Split(*batches[layout.test], len(CLASS_NAMES)),
        class_names=CLASS_NAMES,
        source=str(where),
    )


def _check_size(where, size):
    if size > MAX_FILE_BYTES:
        raise InputError(f"{where} has {size} bytes; expected at most {MAX_FILE_BYTES}: fetch the data set again")
