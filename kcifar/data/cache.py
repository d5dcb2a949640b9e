"""Keeps what was read as `.npy` files, so that the next load maps them into memory instead of reading the source.

`user_cache_dir("kcifar")/data/<name>/` holds two arrays of each split and `meta.json`. An entry is written to a
temporary folder beside its place and renamed, so it is there whole or not at all, however many processes load at once.
It counts as damaged, and is written anew, when a file is missing or is not the one written, judged by size and time of
change: hashing 184 MB at every load would cost more than the load.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from kcifar import reading
from kcifar.data.dataset import Dataset, Split

FORMAT = 2
_DAY_SECONDS = 86_400
_SPLITS = ("train", "test", "validation")  # the last where the source has one


def root():
    """Where the entries are: follows XDG_CACHE_HOME on Linux."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("kcifar")) / "data"


def scratch():
    """A folder for large temporary files: the cache's own, or None, the system's, where that cannot be written."""
    try:
        root().mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return root() if os.access(root(), os.W_OK) else None


def cached(name, signature, read):
    """The `Dataset` that `read()` gives, from the cache where the entry `name` still has the same `signature`.

    Args:
        name: the entry's folder name, one per source.
        signature: changes when the source does; an entry of another signature is replaced.
        read: called without arguments when the cache does not hold it.

    Returns:
        A `Dataset` whose arrays are memory-mapped, read-only. Where the cache cannot be written a warning says so
        and the arrays stay in memory.
    """
    folder = root() / name
    found = get(name, signature)
    if found is None:
        dataset = read()
        try:
            _put(folder, signature, dataset)
        except OSError as error:
            warnings.warn(
                f"the data cache '{folder.parent}' cannot be written ({error}): the source is read anew each time;"
                " set XDG_CACHE_HOME to a folder that can be",
                stacklevel=3,
            )
        found = get(name, signature) or dataset
    return found


def get(name, signature):
    """The cached `Dataset`, or None where there is none of this signature or it is damaged."""
    folder = root() / name
    try:
        meta = reading.parsed_json(reading.text(folder / "meta.json"))
        if (meta["format"], meta["signature"]) != (FORMAT, signature):
            return None
        if any(stamp != _stamp(folder / f"{part}.npy") for part, stamp in meta["files"].items()):
            return None
        splits = {name: _mapped(folder, name, len(meta["class_names"])) for name in meta["splits"]}
        return Dataset(**splits, class_names=tuple(meta["class_names"]), source=meta["source"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # anything that damaged files can cause
        return None


def _mapped(folder, name, classes):
    images, labels = (
        np.load(folder / f"{name}_{part}.npy", mmap_mode="r", allow_pickle=False) for part in ("images", "labels")
    )
    return Split(images, labels, classes)


def _put(folder, signature, dataset):
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(temporary, signature, dataset)
        _publish(temporary, folder, signature)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder, signature, dataset):
    splits = {name: getattr(dataset, name) for name in _SPLITS if getattr(dataset, name) is not None}
    parts = {f"{name}_images": split.images for name, split in splits.items()}
    parts |= {f"{name}_labels": split.labels for name, split in splits.items()}
    for part, array in parts.items():
        with open(folder / f"{part}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            _sync(file)
    meta = {
        "format": FORMAT,
        "signature": signature,
        "source": dataset.source,
        "class_names": list(dataset.class_names),
        "sha256": dataset.fingerprint(),
        "splits": list(splits),
        "files": {part: _stamp(folder / f"{part}.npy") for part in parts},
    }
    with open(folder / "meta.json", "w") as file:
        json.dump(meta, file, indent=1)
        _sync(file)


def _publish(temporary, folder, signature):
    for _ in range(3):
        try:
            os.rename(temporary, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        if get(folder.name, signature) is not None:
            return  # another process was first
        # A stale or damaged entry: moved away in one step, since whoever has it mapped keeps it.
        old = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
        with old as place, contextlib.suppress(FileNotFoundError):
            os.rename(folder, Path(place) / "old")


def _sweep(parent):
    """Removes what a killed process left half written."""
    for entry in parent.glob(".*-*"):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _DAY_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def _stamp(path):
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
