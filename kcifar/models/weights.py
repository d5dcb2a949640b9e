"""Where pretrained weights come from: files, and names that are fetched once."""

import io
import os
import urllib.error
import zipfile
from pathlib import Path

import h5py
import numpy as np

from kcifar import backend
from kcifar.checksum import sha256
from kcifar.errors import InputError, nearest, one_line

PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
KERAS_SUFFIXES = (".keras", ".weights.h5")

TORCHVISION = "https://download.pytorch.org/models/"
# The eight digits in a file's name are the first of its SHA-256.
_FILES = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50.IMAGENET1K_V2": "resnet50-11ad3fa6.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnet152.IMAGENET1K_V2": "resnet152-f82ba261.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "densenet169": "densenet169-b2777c0a.pth",
}


def locate(source):
    """The file that a path or a name stands for; a name's is fetched where the cache does not have it.

    Raises:
        InputError: there is no such file or name, or it cannot be fetched.
    """
    path, (publisher, _, name) = Path(os.path.expanduser(source)), str(source).partition("/")
    if path.name.endswith((*PYTORCH_SUFFIXES, *KERAS_SUFFIXES)):
        if not path.is_file():
            raise InputError(f"no weights at '{path}'; give the path of a file, or a name as torchvision/resnet18")
        return path
    if publisher == "torchvision":
        return _of_torchvision(name)
    if publisher == "timm":
        return _of_timm(name)
    suffixes = ", ".join((*PYTORCH_SUFFIXES, *KERAS_SUFFIXES))
    raise InputError(
        f"'{source}' is neither a file of weights ({suffixes}) nor a name, as torchvision/resnet18 or "
        "timm/resnet18.fb_swsl_ig1b_ft_in1k"
    )


def _of_torchvision(name):
    import platformdirs

    name = name.removesuffix(".IMAGENET1K_V1")
    if name not in _FILES:
        raise InputError(f"unknown weights 'torchvision/{name}'; {nearest(name, _FILES)}")
    file = _FILES[name]
    path = Path(platformdirs.user_cache_dir("kcifar")) / "weights" / file
    published = file.rpartition("-")[2].removesuffix(".pth")
    if not path.exists():
        try:
            backend.download(TORCHVISION + file, path, published)
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise InputError(
                f"cannot fetch 'torchvision/{name}' ({reason}): put {TORCHVISION}{file} at '{path}', or give its path"
            ) from None
    found = sha256(path)
    if not found.startswith(published):
        raise InputError(f"'{path}' is damaged: its SHA-256 begins {found[:8]}, published is {published}; delete it")
    return path


def _of_timm(name):
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository = f"timm/{name}"
    file = repository, "model.safetensors"
    try:
        return Path(hf_hub_download(*file, local_files_only=True))
    except errors.HFValidationError as error:
        raise InputError(f"unknown weights '{repository}': {error}") from None
    except errors.LocalEntryNotFoundError:
        pass  # it is fetched below
    try:
        get_hf_file_metadata(hf_hub_url(*file))  # gives up at once, where the download would try for half a minute
        return Path(hf_hub_download(*file))
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError):
        raise InputError(
            f"unknown weights '{repository}': no repository of this name with a model.safetensors is published; "
            "expected one as timm/resnet18.fb_swsl_ig1b_ft_in1k"
        ) from None
    except Exception as error:  # of whatever library huggingface_hub speaks HTTP with
        raise InputError(
            f"cannot fetch '{repository}' ({one_line(error)}): fetch the model.safetensors of the "
            f"repository {repository} on another machine, and give its path"
        ) from None


def read_keras(path):
    """The numbers in a `.keras` or `.weights.h5` file, float32 arrays by the layer's name and place, as `stem_conv/0`.

    Nothing else is read.

    Raises:
        InputError: the file is damaged, or of another kind.
    """
    try:
        if path.suffix != ".keras":
            with h5py.File(path) as file:
                return _of_layers(file)
        with zipfile.ZipFile(path) as archive:  # read whole, which checks it, and is faster than to seek in it
            inside = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(inside) as file:
            return _of_layers(file)
    except Exception as error:  # whatever zip, zlib and HDF5 raise
        raise InputError(f"'{path}' is no whole file of Keras's weights ({one_line(error)}): save it again") from None


def _of_layers(file):
    """Keras writes a layer's variables as `0`, `1`, … in a group `…/vars` that bears the layer's name."""
    found = {}

    def visit(path, group):
        own = path.startswith("layers/") and path.endswith("/vars") and "/seed_generator/" not in path
        if own and "name" in group.attrs:
            values = {f"{group.attrs['name']}/{place}": _values(group, place) for place in group}
            if found.keys() & values.keys():
                raise ValueError(f"several layers '{group.attrs['name']}'")
            found.update(values)

    file.visititems(visit)
    if not found:
        raise ValueError("no variables of layers with names")
    return found


def _values(group, place):
    """A dataset's values, float32, if they are in this file: others HDF5 would fetch from wherever the file says."""
    if not isinstance(group.get(place, getlink=True), h5py.HardLink):
        raise ValueError(f"{group.attrs['name']}/{place} is a link")
    values = group[place]
    if values.external or values.is_virtual or values.id.get_storage_size() < values.nbytes:
        raise ValueError(f"{group.attrs['name']}/{place}, of shape {values.shape}, is not in it")
    return np.asarray(values, np.float32)
