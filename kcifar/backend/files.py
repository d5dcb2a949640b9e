"""PyTorch's files and downloads, on either backend. torch is imported when one is asked for."""

import re
import warnings

from kcifar.errors import InputError, one_line

# Where programs put the tensors among other things that they keep.
_INSIDE = ("state_dict", "model_state_dict", "model", "net")


def read_pytorch(path):
    """The tensors of a `.safetensors` file, or of what `torch.save` wrote, as NumPy arrays by name; float32 if real.

    A pickle is read by torch's weights-only loading: nothing in it runs.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    import torch

    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not tensors or not all(isinstance(name, str) and torch.is_tensor(value) for name, value in tensors.items()):
        raise InputError(f"'{path}' holds no dictionary of tensors by name; expected a model's state_dict()")
    return {name: _array(path, name, tensor) for name, tensor in tensors.items()}


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError, OverflowError) as error:
        raise InputError(
            f"'{path}' is no whole safetensors file ({one_line(error)}): delete it and fetch it again"
        ) from None


def _read_pickle(path):
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of unusual pickles
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives and pickles raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise InputError(
                f"'{path}' is a pickle that wants {wanted[1]!r}, of which nothing was run; expected tensors alone: "
                "save the model's state_dict()"
            ) from None
        raise InputError(
            f"'{path}' is no file of torch.save, or damaged ({one_line(error)}): delete it and fetch it again"
        ) from None
    if not isinstance(found, dict):
        return {}
    return next((found[name] for name in _INSIDE if isinstance(found.get(name), dict)), found)


def _array(path, name, tensor):
    try:
        if tensor.is_complex():
            raise TypeError("complex")
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantized or without memory
        raise InputError(f"'{path}': the tensor {name} is not made of plain numbers ({one_line(error)})") from None


def download(url, path, sha256_prefix):
    """Fetches a file, with a progress bar; `path` is written whole or not at all.

    Raises:
        OSError: it cannot be reached or written.
        InputError: its SHA-256 does not begin so.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), sha256_prefix)
    except RuntimeError as error:
        raise InputError(f"{url} came with other bytes than published ({one_line(error)}): try again later") from None
