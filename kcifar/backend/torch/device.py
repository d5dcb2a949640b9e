"""What differs on torch."""

import os

import torch
from keras import ops

from kcifar.backend.torch.processes import join_processes
from kcifar.errors import InputError


def use_device(name):
    """Has all that this process computes be computed on the device of this name. Called before anything is computed.

    Args:
        name: as torch writes it: "cpu", "cuda", "cuda:1", "mps"; "gpu" for "cuda". Keras has read the same from the
            variable KERAS_TORCH_DEVICE when it was imported.

    Raises:
        InputError: there is no such device here, or Keras was imported before and computes on another.
    """
    if name == "all":
        raise InputError(
            "the device is 'all', but Keras runs on torch, where each process has one: start one for each by "
            "torchrun --nproc-per-node=N -m kcifar.train …"
        )
    wanted = name.replace("gpu", "cuda")
    wanted = f"{wanted}:0" if wanted in ("cuda", "xpu") else wanted
    there = ["cpu", *(f"cuda:{place}" for place in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += [f"xpu:{place}" for place in range(torch.xpu.device_count())]
    if wanted not in there:
        raise InputError(f"the device is '{name}', which is not here; expected {' or '.join(there)}")
    if wanted.startswith("cuda"):
        torch.cuda.set_device(wanted)
    if (in_use := _device()) != torch.device("mps:0" if wanted == "mps" else wanted):
        raise InputError(f"the device is '{name}', but Keras was imported before and computes on {in_use}: name that")


def device_count():
    """1: the devices among which this process shares each batch."""
    return 1


def describe():
    """What training runs on, as a dict for `environment.json`: the library, the device, threads, processes."""
    device, processes = _device(), join_processes()
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes.count if processes else 1,
    }


def peak_device_bytes():
    """The most memory that tensors took on the GPU so far, in bytes; 0 without a GPU."""
    device = _device()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def is_out_of_memory(error):
    """Whether an error says that the device, or the machine, has no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def prepares_ahead():
    """Whether a thread that prepares the next batch helps: on a GPU.

    On the CPU a second thread has OpenMP threads of its own, which wait for cores that the first one's have: 0.6 times
    the images per second on two cores.
    """
    return _device().type == "cuda"


def generator_states():
    """The states of torch's global generators of random numbers, as NumPy arrays: of the CPU and of the GPU in use."""
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [state.numpy() for state in (torch.get_rng_state(), *on_gpu)]


def restore_generators(states):
    """Sets torch's global generators to what `generator_states` gave, as far as there are such here."""
    for state, restore in zip(states, (torch.set_rng_state, torch.cuda.set_rng_state), strict=False):
        if restore is torch.set_rng_state or torch.cuda.is_initialized():
            restore(torch.tensor(state))


def use_deterministic_algorithms():
    """Makes every operation give the same bits each time; one that cannot raises an error when it is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling memory that is about to be written only hides bugs, at the price of a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False


def _device():
    """That Keras computes on."""
    return ops.zeros(()).device
