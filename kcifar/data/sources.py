"""From the words and paths of `--data` to a `Dataset`."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from kcifar.data import cache, images, npz, official
from kcifar.errors import InputError, nearest

WORDS = ("auto", "demo")
EXPECTED = (
    "'auto', 'demo', or the path of cifar-10-batches-py, cifar-10-batches-bin, an official archive, a folder of images"
    " per class, an .npz or a TFDS folder"
)


@dataclasses.dataclass(frozen=True)
class Found:
    """A recognised path: how to read it, and the files and folders whose change means other data."""

    path: Path
    read: Callable
    watched: tuple[Path, ...]


def load(source="auto"):
    """The data set at a source, as arrays.

    Args:
        source: one of
            `"auto"`: what the variable KCIFAR_DATA names, else the data set downloaded earlier, else a download through
                TensorFlow Datasets (170 MB);
            `"demo"`: 5,000 + 1,000 drawn images of ten shapes;
            a path: cifar-10-batches-py or cifar-10-batches-bin (or the folder that holds it), either official archive,
                a folder with `train/<class>/` and `test/<class>/`, an `.npz` with x_train, y_train, x_test and
                y_test, or a TFDS folder in the ArrayRecord format. A path called like one of the words: `./demo`.

    Returns:
        A `Dataset`. The first load of a path keeps its arrays in the cache (see `kcifar.data.cache`); later ones
        map them into memory. They are read-only either way.

    Raises:
        InputError: there is no such source, or what is there is not what it should be.
    """
    source = os.fspath(source)
    if source == "auto":
        return _auto()
    if source == "demo":
        from kcifar.data import demo

        return demo.draw()
    try:
        found = identify(source)
        name = f"{found.path.name[:40]}-{hashlib.sha256(os.fsencode(found.path)).hexdigest()[:16]}"
        return cache.cached(name, _signature(found), found.read)
    except OSError as error:
        raise InputError(f"'{source}' cannot be read ({error}); expected {EXPECTED}: make it readable") from error


def _auto():
    chosen = os.environ.get("KCIFAR_DATA", "")
    if chosen not in ("", "auto"):
        try:
            return load(chosen)
        except InputError as error:
            raise InputError(f"the variable KCIFAR_DATA: {error}") from error
    from kcifar.data import tfds

    return cache.cached("cifar10-download", tfds.SIGNATURE, lambda: tfds.download(cache.scratch()))


def identify(source):
    """What kind of source a path is. Raises InputError where it is none."""
    path = Path(source).expanduser()
    if not path.exists():
        hint = nearest(str(source), WORDS) if os.sep not in str(source) else "check the path"
        raise InputError(f"there is no data source '{source}' and no such path; expected {EXPECTED}: {hint}")
    path = path.resolve()
    found = _identify_folder(path) if path.is_dir() else _identify_file(path)
    if found is None:
        what = f"a folder that holds {_some_names(path)}" if path.is_dir() else f"a file of {path.stat().st_size} bytes"
        raise InputError(f"'{source}' is {what}; expected {EXPECTED}: give the path of one of these")
    return found


def _identify_folder(path):
    published = official.find(path)
    if published:
        layout, folder = published
        return Found(folder, lambda: official.read_folder(layout, folder), tuple(folder / f for f in layout.files))
    if (path / "dataset_info.json").exists():
        from kcifar.data import tfds

        return Found(path, lambda: tfds.read_folder(path), (path,))
    if any((path / split).is_dir() for split in images.SPLITS):
        return Found(path, lambda: images.read(path), tuple(path / split for split in images.SPLITS))
    return None


def _identify_file(path):
    if path.suffix == ".npz":
        return Found(path, lambda: npz.read(path), (path,))
    if path.name.endswith((".tar.gz", ".tgz")):
        return Found(path, lambda: official.read_archive(path), (path,))
    return None


def _some_names(path, most=5):
    names = sorted(os.listdir(path))
    return (", ".join(names[:most]) + (", …" if len(names) > most else "")) or "nothing"


def _signature(found):
    """SHA-256 over the relative name, size and time of change of every watched file.

    A file rewritten with as many bytes within one tick of the file system's clock goes unnoticed.
    """
    digest = hashlib.sha256()
    for path in found.watched:
        for name, size, mtime_ns in _walk(path, path.name):
            digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(path, name, depth=2):
    """`(relative name, bytes, mtime in ns)` of a file, or of the files below a folder, sorted by name."""
    if not path.is_dir():
        if path.exists():
            status = path.stat()
            yield name, status.st_size, status.st_mtime_ns
        return
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if depth and entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/{entry.name}", depth - 1)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:  # a link to nowhere: what reads it will say so
            yield f"{name}/{entry.name}", -1, 0
        else:
            yield f"{name}/{entry.name}", status.st_size, status.st_mtime_ns
