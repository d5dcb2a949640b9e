"""The published forms of CIFAR-10 and CIFAR-100, Python and binary, as folders and as archives.

What is in them, and where that is published, is in `kcifar.data.layouts`.
"""

import hashlib
import tarfile
from pathlib import Path

import numpy as np

from kcifar.data.dataset import Dataset, Split
from kcifar.data.layouts import LAYOUTS
from kcifar.errors import InputError

MAX_FILE_BYTES = 256 * 2**20
"""The largest published file has 155 MB; larger ones are not read."""

MAX_ARCHIVE_BYTES = 256 * 2**20
"""The largest published archive has 171 MB."""

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def find(path, coarse=False):
    """`(layout, folder)` where `path` is a published folder, whole or not, or holds one; otherwise None.

    Raises:
        InputError: it holds both CIFAR-10 and CIFAR-100, and coarse labels, which tell them apart, are not asked for.
    """
    found = [(layout, path) for layout in LAYOUTS if _is(layout, path)][:1]
    found = found or [(layout, path / layout.folder) for layout in LAYOUTS if _is(layout, path / layout.folder)]
    if coarse:
        found = [(layout, folder) for layout, folder in found if layout.data == "CIFAR-100"] or found
    if len({layout.data for layout, _ in found}) > 1:
        folders = " and ".join(layout.folder for layout, _ in found)
        raise InputError(f"'{path}' holds {folders}; expected one data set: give the path of one of them")
    return found[0] if found else None


def _is(layout, folder):
    """Whether a folder is of this layout, by its name or by a file of images."""
    return folder.is_dir() and (
        folder.name == layout.folder or any((folder / name).is_file() for name in (*layout.train, layout.test))
    )


def read_folder(layout, folder):
    """The `Dataset` in an unpacked archive. Raises InputError: files missing, damaged or of other contents."""
    missing = [name for name in layout.files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"'{folder}' lacks {', '.join(missing)}; expected all {len(layout.files)} files of {layout.archive}:"
            f" unpack it again ({PAGE})"
        )
    for name in layout.files:
        _check_size(f"'{folder / name}'", (folder / name).stat().st_size, MAX_FILE_BYTES)
    contents = ((name, (folder / name).read_bytes()) for name in layout.files)
    return _assemble(layout, contents, folder)


def read_archive(path, coarse=False):
    """The `Dataset` in an official archive, its members read in memory and nothing written to disk.

    Args:
        path: of the archive, whatever its name.
        coarse: take the coarse labels of CIFAR-100.

    Raises:
        InputError: the SHA-256 sum is no published archive's, or a member is missing, no plain file or too large.
    """
    path = Path(path)
    _check_size(f"'{path}'", path.stat().st_size, MAX_ARCHIVE_BYTES)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        layout = next((layout for layout in LAYOUTS if layout.sha256 == found), None)
        if layout is None:
            raise InputError(
                f"'{path}', of {path.stat().st_size} bytes, SHA-256 sum {found[:8]}…, is not as published; expected"
                f" {', '.join(one.archive for one in LAYOUTS[:-1])} or {LAYOUTS[-1].archive}, whole: download it again"
                f" from {PAGE}"
            )
        layout = layout.coarse() if coarse else layout
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
        _check_size(where, member.size, MAX_FILE_BYTES)
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
            names = layout.names(content, what)
        else:
            batches[name] = layout.images(name, content, what)
    train = (np.concatenate([batches[name][part] for name in layout.train]) for part in (0, 1))
    return Dataset(
        train=Split(*train, len(names)),
        test=Split(*batches[layout.test], len(names)),
        class_names=names,
        source=f"{where}, coarse labels" if layout.is_coarse else str(where),
    )


def _check_size(where, size, most):
    if size > most:
        raise InputError(f"{where} has {size} bytes; expected at most {most}: fetch the data set again")
