"""PyTorch's files and downloads, on either backend. torch is imported when one is asked for."""

import io
import mmap
import os
import pickletools
import re
import warnings
import zipfile

from kcifar import reading
from kcifar.errors import InputError, one_line, some

# Where programs put a model's tensors among other things that they keep.
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|shadow)([._]|$)")
_OTHERS = re.compile(r"optim|sched|scaler|loss|hyper|config|args|callback|rng")  # and what is not a model's
_MOST_DEPTH = 3
_MOST_REPEATED = 2**28  # bytes of tensors that have more values than the file
_MOST_ITEMS = 10**6  # of a tuple with those in it
_PICKLES = 5  # of which a file of torch.save consists, before its numbers; in an archive it is one


def read_pytorch(path, inside=None):
    """The tensors of a `.safetensors` file, or of what `torch.save` wrote, as NumPy arrays by name; float32 if real.

    A pickle is read by torch's weights-only loading: nothing in it runs. What is no tensor of numbers by name, as an
    epoch or the state of an optimizer, is left out.

    Args:
        path: of the file; what it is is told by its content.
        inside: the name of the dictionary in the file, where it has several; None for the one there is, and of raw and
            averaged weights the averaged ones.

    Returns:
        The tensors, and the names of the dictionaries in the file, of which the first was read.

    Raises:
        InputError: the file is damaged, or holds something else, or several dictionaries none of which is known.
    """
    import torch

    found = {"": _read_safetensors(path)} if _is_safetensors(path) else dict(_dictionaries(_read_pickle(path)))
    if not found:
        raise InputError(f"'{path}' holds no dictionary of tensors by name; expected a model's state_dict()")
    chosen = _chosen(path, found, inside)
    tensors = {name: value for name, value in found[chosen].items() if torch.is_tensor(value)}
    _expect_held(path, tensors.values())
    names = [chosen, *(name for name in found if name != chosen)]
    return {name: _array(path, name, tensor) for name, tensor in tensors.items()}, names


def is_averaged(name):
    """Whether a name says that what it is of are averaged weights: model_ema, ema_model, averaged, swa."""
    return bool(_AVERAGED.search(name))


def _is_safetensors(path):
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _dictionaries(found, name="", depth=0, seen=None):
    """(name, dictionary) of each dictionary of tensors by name that is in what was read, outermost first.

    What holds such is looked into once, wherever else it is: in a pickle of few bytes that may be in a billion places.
    """
    import torch

    seen = set() if seen is None else seen
    if not isinstance(found, dict) or depth > _MOST_DEPTH or id(found) in seen:
        return
    named = {key: value for key, value in found.items() if isinstance(key, str)}
    if any(torch.is_tensor(value) and value.ndim for value in named.values()):
        yield name, named
        return
    seen.add(id(found))
    for key, value in named.items():
        if not _OTHERS.search(key.lower()):
            yield from _dictionaries(value, f"{name}.{key}" if name else key, depth + 1, seen)


def _chosen(path, found, inside):
    if inside is not None:
        if inside not in found:
            raise InputError(f"'{path}' has no '{inside}'; it has {some(map(repr, found))}")
        return inside
    averaged = [name for name in found if is_averaged(name)]
    known = [name for name in _INSIDE if name in found]
    chosen = list(found) if len(found) == 1 else averaged or known
    if not chosen:
        raise InputError(
            f"'{path}' holds several models, {some(map(repr, found))}: say which, '{path}:{next(iter(found))}'"
        )
    return chosen[0]


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

    _expect_untangled(path)
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
    return found


def _expect_untangled(path):
    """Raises InputError where tuples hold the same ones again and again, so that to hash one would take for ever."""
    most = 0
    try:
        with _pickles(path) as file:
            for items in _items_of_tuples(file):
                most = max(most, items)
                if most > _MOST_ITEMS:
                    break
    except (OSError, MemoryError):
        raise
    except Exception:  # it is damaged from here on, or no pickle, which torch tells
        pass
    if most > _MOST_ITEMS:
        raise InputError(f"'{path}' has a tuple of {most:.0e} items; expected tensors alone: save the state_dict()")


def _pickles(path):
    """What is pickled in a file of torch.save, to read from; unlike a file it makes no room for more than there is."""
    if zipfile.is_zipfile(path):
        with reading.archive(path) as archive:
            return io.BytesIO(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _items_of_tuples(file):
    """How many items each tuple of the first pickles in a file has, with those of the tuples in it, again and again.

    By the operations that write it, of which none is run.
    """
    stack, marks, memo = [], [], {}
    for _ in range(_PICKLES):
        for code, argument, _ in pickletools.genops(file):
            before, after = code.stack_before, code.stack_after
            popped = []
            if pickletools.markobject in before:
                mark = marks.pop()
                popped = stack[mark:]
                del stack[mark:]
                before = before[: before.index(pickletools.markobject)]
            popped += [stack.pop() for _ in before]
            if code.name.startswith("TUPLE"):
                stack.append(sum(popped) or 1)
                yield stack[-1]
            elif code.name == "MARK":
                marks.append(len(stack))
            elif code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                stack += popped
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            else:
                stack += [1] * len(after)


def _expect_held(path, tensors):
    """Raises InputError where tensors of the same few values again and again would take more memory than is meant."""
    wanted, size = 4 * sum(tensor.numel() for tensor in tensors), os.path.getsize(path)
    if wanted > max(_MOST_REPEATED, 8 * size):
        raise InputError(
            f"'{path}' has {size:,} bytes, and its tensors would have {wanted:,}: save the model's state_dict() again"
        )


def _array(path, name, tensor):
    try:
        if tensor.is_complex():
            raise TypeError("complex")
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
    except (RuntimeError, TypeError, NotImplementedError, ValueError) as error:
        # It is sparse, quantized, without memory, or of a shape that no array has, as (0, 2**62).
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
