"""From the words and paths of `--data` to a `Dataset`."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from kcifar.data import cache, images, npz, official
from kcifar.errors import InputError, nearest

WORDS = ("auto", "demo")
_TFDS = "tfds:"
EXPECTED = (
    "'auto', 'demo', 'tfds:NAME', or the path of cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python, an"
    " official archive, a folder of images per class, an .npz or a TFDS folder"
)
COARSE = ":coarse"
"""Behind a source of CIFAR-100: its 20 coarse labels, not its 100 fine ones."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A recognised path: how to read it, and the files and folders whose change means other data."""

    path: Path
    read: Callable
    watched: tuple[Path, ...]
    kind: str = ""  # tells apart what is read from one path in several ways


def load(source="auto"):
    """The data set at a source, as arrays.

    Args:
        source: one of
            `"auto"`: what the variable KCIFAR_DATA names, else the data set downloaded earlier, else a download through
                TensorFlow Datasets (170 MB);
            `"demo"`: 5,000 + 1,000 drawn images of ten shapes;
            `"tfds:NAME"`: the data set NAME of TensorFlow Datasets, prepared in its folder or downloaded;
            a path: cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python or cifar-100-binary (or the folder that
                holds it), one of their official archives, a folder with `train/<class>/`, `test/<class>/` and perhaps
                `val/<class>/`, an `.npz` with x_train, y_train, x_test and y_test, or a TFDS folder in the ArrayRecord
                format. A path called like one of the words: `./demo`.
            Of CIFAR-100 `:coarse` behind it takes the coarse labels: `"cifar-100-python:coarse"`.

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
        if source.startswith(_TFDS) and not Path(source).exists():
            return _by_name(source.removeprefix(_TFDS))
        return _cached(identify(source))
    except OSError as error:
        raise InputError(f"'{source}' cannot be read ({error}); expected {EXPECTED}: make it readable") from error


def _cached(found):
    key = os.fsencode(found.path) + found.kind.encode()
    name = f"{found.path.name[:40]}{found.kind.replace(':', '-')}-{hashlib.sha256(key).hexdigest()[:16]}"
    return cache.cached(name, _signature(found), found.read)


def _by_name(name):
    """The data set of TensorFlow Datasets that has this name."""
    from kcifar.data import tfds

    coarse = name.endswith(COARSE)
    name = name.removesuffix(COARSE)
    if coarse and name != "cifar100":
        raise InputError(f"'{_TFDS}{name}{COARSE}': expected ':coarse' behind cifar100 alone: leave it out")
    path = None if coarse else tfds.prepared(name)
    return _cached(identify(path)) if path else _downloaded(name, coarse)


def _downloaded(name, coarse=False):
    from kcifar.data import tfds

    return cache.cached(
        f"{name}{'-coarse' * coarse}-download",
        tfds.ARCHIVES[name].sha256,
        lambda: tfds.download(cache.scratch(), name, coarse),
    )


def _auto():
    chosen = os.environ.get("KCIFAR_DATA", "")
    if chosen not in ("", "auto"):
        try:
            return load(chosen)
        except InputError as error:
            raise InputError(f"the variable KCIFAR_DATA: {error}") from error
    return _downloaded("cifar10")


class NoSourceError(InputError):
    """There is nothing of that name."""


def identify(source):
    """What kind of source a path is, with `:coarse` behind it or not. Raises InputError where it is none."""
    path = Path(os.path.expanduser(source))
    coarse = not path.exists() and str(source).endswith(COARSE)
    if coarse:
        path = Path(os.path.expanduser(str(source).removesuffix(COARSE)))
    if not path.exists():
        hint = nearest(str(source), WORDS) if os.sep not in str(source) else "check the path"
        raise NoSourceError(f"there is no data source '{source}' and no such path; expected {EXPECTED}: {hint}")
    path = path.resolve()
    found = _identify_folder(path, coarse) if path.is_dir() else _identify_file(path, coarse)
    if coarse and found and found.kind != COARSE:
        raise InputError(f"'{source}': expected ':coarse' behind CIFAR-100 alone, its folder or archive: leave it out")
    if found is None:
        if not path.is_dir() and not path.is_file():
            raise InputError(f"'{source}' is no regular file; expected {EXPECTED}: give the path of one of these")
        what = f"a folder that holds {_some_names(path)}" if path.is_dir() else f"a file of {path.stat().st_size} bytes"
        raise InputError(f"'{source}' is {what}; expected {EXPECTED}: give the path of one of these")
    return found


def _identify_folder(path, coarse):
    published = official.find(path, coarse)
    if published:
        layout, folder = published
        layout = layout.coarse() if coarse else layout
        files = tuple(folder / name for name in layout.files)
        return Found(folder, lambda: official.read_folder(layout, folder), files, COARSE * coarse)
    if (path / "dataset_info.json").exists():
        from kcifar.data import tfds

        return Found(path, lambda: tfds.read_folder(path), (path,))
    splits = (*images.SPLITS, *images.VALIDATION)
    if any((path / split).is_dir() for split in splits):
        return Found(path, lambda: images.read(path), tuple(path / split for split in splits))
    return None


def _identify_file(path, coarse):
    if not path.is_file():  # to open a named pipe would be to wait for who writes into it
        raise InputError(f"'{path}' is neither a file nor a folder; expected {EXPECTED}: give the path of one of these")
    if path.suffix == ".npz":
        return Found(path, lambda: npz.read(path), (path,))
    if path.name.endswith((".tar.gz", ".tgz")):
        return Found(path, lambda: official.read_archive(path, coarse), (path,), COARSE * coarse)
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
