"""Where pretrained weights come from: files, and names that are fetched once."""

import os
import urllib.error
from pathlib import Path

from kcifar import backend
from kcifar.checksum import sha256
from kcifar.errors import InputError, nearest, one_line

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
    path, _ = split(source)
    if path.is_file():
        return path
    if path.exists():
        model = path / "best.keras"
        hint = f"give '{model}'" if model.is_file() else "give the path of a file"
        what = "a folder" if path.is_dir() else "neither file nor folder"
        raise InputError(f"'{path}' is no file of weights but {what}: {hint}")
    publisher, _, name = str(source).partition("/")
    if publisher == "torchvision":
        return _of_torchvision(name)
    if publisher == "timm":
        return _of_timm(name)
    raise InputError(
        f"no weights at '{source}'; expected the path of a file, or a name, as torchvision/resnet18 or "
        "timm/resnet18.fb_swsl_ig1b_ft_in1k"
    )


def split(source):
    """The path that a source names, and which of several models in the file, as `checkpoint.pth:model_ema`; or None."""
    path, (front, _, inside) = Path(os.path.expanduser(source)), str(source).rpartition(":")
    if inside and not path.exists() and Path(os.path.expanduser(front)).is_file():
        return Path(os.path.expanduser(front)), inside
    return path, None


def _of_torchvision(name):
    import platformdirs

    name = name.removesuffix(".IMAGENET1K_V1")
    if name not in _FILES:
        raise InputError(f"unknown weights 'torchvision/{name}': torchvision has no '{name}'; {nearest(name, _FILES)}")
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
