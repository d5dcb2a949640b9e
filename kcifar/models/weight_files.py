"""Files of weights, by what is in them: how they are called says nothing."""

import io

import h5py
import numpy as np

from kcifar import reading
from kcifar.errors import InputError, one_line

_OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
    b"\x1f\x8b": "an archive (gzip): unpack it, and give the file in it",
    b"BZh": "an archive (bzip2): unpack it, and give the file in it",
    b"\xfd7zXZ": "an archive (xz): unpack it, and give the file in it",
    b"7z\xbc\xaf": "an archive (7-Zip): unpack it, and give the file in it",
    b"<": "a page of HTML or XML, as where a download was refused: fetch it again",
}


def is_keras(path):
    """Whether a file is one of Keras's weights, `.keras` or `.weights.h5`, rather than one of PyTorch's.

    Raises:
        InputError: it is neither; what it is, is said where that can be told.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(b"\x89HDF\r\n"):
        return True
    if start.startswith(b"PK"):
        return _holds_keras(path)
    if start[:1] == b"\x80" or start[8:9] == b"{":  # a pickle; safetensors
        return False
    what = next((what for magic, what in _OTHERS.items() if start.lstrip().startswith(magic)), None)
    what = "an archive (tar): unpack it, and give the file in it" if start[257:262] == b"ustar" else what
    if not start:
        what = "empty: fetch it again"
    expected = "no file of weights; expected one of torch.save, .safetensors, .keras or .weights.h5"
    raise InputError(f"'{path}' is {what or expected}")


def _holds_keras(path):
    try:
        with reading.archive(path) as archive:
            names = archive.namelist()
    except Exception as error:  # whatever zip raises
        raise InputError(f"'{path}' is no whole archive ({one_line(error)}): fetch it again") from None
    if "model.weights.h5" in names or any(name.endswith("data.pkl") for name in names):
        return "model.weights.h5" in names
    raise InputError(
        f"'{path}' is an archive without weights; expected model.weights.h5 in it, as in Keras's files, or data.pkl, "
        "as in those of torch.save"
    )


def read_keras(path):
    """The numbers in a `.keras` or `.weights.h5` file, float32 arrays by the layer's name and place, as `stem_conv/0`.

    Nothing else is read.

    Raises:
        InputError: the file is damaged, or of another kind.
    """
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                return _of_layers(file)
        with reading.archive(path) as archive, h5py.File(_weights_in(archive)) as file:
            return _of_layers(file)
    except MemoryError:
        raise
    except Exception as error:  # whatever zip, zlib and HDF5 raise
        raise InputError(f"'{path}' is no whole file of Keras's weights ({one_line(error)}): save it again") from None


def _weights_in(archive):
    """What is in a `.keras` file, whose archive is open, as an HDF5 file: read whole, which checks it."""
    return io.BytesIO(archive.read("model.weights.h5"))


def expect_stored(archive):
    """Raises ValueError unless all arrays in a `.keras` file, whose archive is open, are in it, as Keras writes them.

    Returns:
        How many bytes they have.
    """
    with h5py.File(_weights_in(archive)) as file:
        arrays = []
        file.visititems(lambda path, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        for array in arrays:
            _expect_stored(array.name, array)
        return sum(array.nbytes for array in arrays)


def _of_layers(file):
    """Keras writes a layer's variables as `0`, `1`, … in a group `…/vars` that bears the layer's name."""
    found, left = {}, file.id.get_filesize()

    def visit(path, group):
        nonlocal left
        own = path.startswith("layers/") and path.endswith("/vars") and "/seed_generator/" not in path
        if own and isinstance(group.attrs.get("name"), str):
            stored = {f"{group.attrs['name']}/{place}": _stored(group, place) for place in group}
            left -= sum(array.nbytes for array in stored.values())
            if left < 0:  # the same array under many names
                raise ValueError("more values than the file has bytes")
            values = {name: np.asarray(array, np.float32) for name, array in stored.items()}
            if found.keys() & values.keys():
                raise ValueError(f"several layers '{group.attrs['name']}'")
            found.update(values)

    file.visititems(visit)
    if not found:
        raise ValueError("no variables of layers with names")
    return found


def _expect_stored(name, values):
    if values.external or values.is_virtual or values.id.get_storage_size() < values.nbytes:
        raise ValueError(f"{name}, of shape {values.shape}, is not in it")


def _stored(group, place):
    """A dataset, if its values are in this file: others HDF5 would fetch from wherever the file says."""
    if not isinstance(group.get(place, getlink=True), h5py.HardLink):
        raise ValueError(f"{group.attrs['name']}/{place} is a link")
    _expect_stored(f"{group.attrs['name']}/{place}", group[place])
    return group[place]
