"""Processes that train one model together, each on its part of every batch, and what they tell each other."""

import atexit
import datetime
import os
import pickle

import torch
from keras import ops
from torch import distributed

from kcifar.backend import keras_internals
from kcifar.backend.torch.watch import Watch
from kcifar.errors import InputError, ProcessLost, one_line

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("WORLD_SIZE", "RANK", "MASTER_PORT")
_COMING = datetime.timedelta(seconds=60)  # for all to come: torchrun has started them at once
_ANSWERING = datetime.timedelta(minutes=10)  # of one that is there, as `Watch` sees


class Processes:
    """This process among those that train one model together.

    They have a group of their own, not torch's default one: for that, Keras 3.16 would wrap the model in
    DistributedDataParallel and add up every step's figures.

    Attributes:
        rank: which this one is, from 0.
        count: how many there are.
        watch: what sees whether the others are there.
    """

    def __init__(self, store, rank, count):
        self.rank, self.count = rank, count
        self.watch = Watch(store, rank, count)
        self._store, self._told = store, 0
        self._device = ops.zeros(()).device
        self._group = _group(store, rank, count, self._device)

    def mean(self, tensors):
        """The mean of each tensor over all processes: one all-reduce of all of them."""
        flat = torch.empty(sum(tensor.numel() for tensor in tensors), device=self._device)
        parts = [
            part.view(tensor.shape)
            for part, tensor in zip(flat.split([tensor.numel() for tensor in tensors]), tensors, strict=True)
        ]
        torch._foreach_copy_(parts, [tensor.detach() for tensor in tensors])
        flat /= self.count
        self._done(self._group.allreduce, [flat])
        means = [torch.empty_like(tensor) for tensor in tensors]  # as these lie in memory
        torch._foreach_copy_(means, parts)
        return means

    def any(self, flag):
        """Whether it is true of one of the processes."""
        return bool(self.mean([torch.full((), float(flag), device=self._device)])[0] > 0)

    def told_by_all(self, value):
        """What each process tells, by rank: any small value, the same list in all."""
        self._told += 1
        self._done(self._store.set, f"{self._told} {self.rank}", pickle.dumps(value))
        return [pickle.loads(self._done(self._store.get, f"{self._told} {rank}")) for rank in range(self.count)]

    def told_by_first(self, value):
        """What process 0 tells: any value, as large as a model's weights. That of the others is not used."""
        data = pickle.dumps(value) if self.rank == 0 else b""
        size = self.told_by_all(len(data))[0]
        tensor = torch.empty(size, dtype=torch.uint8)
        if self.rank == 0:
            tensor[:] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tensor = tensor.to(self._device)
        self._done(self._group.broadcast, tensor, 0)
        return value if self.rank == 0 else pickle.loads(tensor.cpu().numpy().tobytes())

    def _done(self, begin, *arguments):
        """What a call gives, when it is done by all."""
        try:
            work = begin(*arguments)
            if hasattr(work, "wait"):
                work.wait()
            return work
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.watch.lost(_last_words(error)) from None


def _last_words(error):
    """Of an error of gloo or NCCL: behind the place in its source, and what is only its version."""
    return one_line(str(error).rpartition("Last error:")[2] or error).rpartition("] ")[2][:80]


def _group(store, rank, count, device):
    store = distributed.PrefixStore("kcifar", store)
    if device.type == "cpu":
        return distributed.ProcessGroupGloo(store, rank, count, _ANSWERING)
    if device.type != "cuda":
        raise InputError(
            f"several processes train together on GPUs of NVIDIA or on CPUs, but Keras computes on {device.type}: "
            "give --device cpu"
        )
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = _ANSWERING
    return distributed.ProcessGroupNCCL(store, rank, count, options)


_JOINED = []


def joined_processes():
    """What `join_processes` gave, where it was called and this process is not alone; else None."""
    return _JOINED[0] if _JOINED else None


def join_processes():
    """The `Processes` that torchrun, or another by its variables, has started; None where this one is alone.

    Raises:
        InputError: a variable is missing or is no number, not all have come within a minute, or they cannot exchange
            tensors.
    """
    if not _JOINED and (joined := _join()):
        _JOINED.append(joined)
    return joined_processes()


def _join():
    count = os.environ.get("WORLD_SIZE", "").strip()
    if count in ("", "1"):
        return None
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    wrong = [name for name in _NUMBERS if name not in missing and not os.environ[name].strip().isdecimal()]
    if missing or wrong:
        why = f"without {', '.join(missing)}" if missing else f"and {wrong[0]} is '{os.environ[wrong[0]]}', no number"
        raise InputError(
            f"the variable WORLD_SIZE is '{count}', {why}: start the processes by torchrun --nproc-per-node=N -m "
            "kcifar.train …, or unset WORLD_SIZE"
        )
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, count = next(distributed.rendezvous("env://", timeout=_COMING))
        store.set_timeout(_COMING)
        store.set(f"kcifar {rank}", "here")
        store.wait([f"kcifar {other}" for other in range(count)])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {os.environ['RANK']} of {count} does not find the others at {where} ({one_line(error)[:80]}): "
            "start all of them by torchrun"
        ) from None
    store.set_timeout(_ANSWERING)
    try:
        processes = Processes(store, rank, count)
        processes.any(False)  # NCCL connects with the first exchange
    except (RuntimeError, ProcessLost) as error:
        why = _last_words(error) if isinstance(error, RuntimeError) else str(error)
        raise InputError(
            f"process {rank} has found the others at {where}, but cannot exchange tensors with them ({why}): see "
            "whether each has a GPU of its own; between machines name the network by GLOO_SOCKET_IFNAME or "
            "NCCL_SOCKET_IFNAME"
        ) from None
    atexit.register(processes.watch.leave)
    return processes


def average_gradients(model, processes):
    """Has a compiled model's optimizer apply the mean of all processes' gradients.

    Moving statistics, which a process has of its part of the batch, become the mean of all with them.
    """
    optimizer = model.optimizer
    apply = optimizer.apply

    def apply_mean(gradients, variables=None):
        statistics = [variable.value for variable in keras_internals.moving_statistics(model)]
        with torch.no_grad():
            means = _each_given(processes.mean, [*gradients, *statistics])
            for own, mean in zip(statistics, means[len(gradients) :], strict=True):
                own.copy_(mean)
        return apply(means[: len(gradients)], variables)

    optimizer.apply = apply_mean
    optimizer.mean_of_processes = processes.mean


def mean_of_processes(model, gradients):
    """The mean of gradients over all processes, before the optimizer is given them; as they are where it is alone."""
    mean = getattr(model.optimizer, "mean_of_processes", None) or _mean_of_default_group(model)
    return _each_given(mean, gradients) if mean else gradients


def for_the_optimizer(model, gradients):
    """The gradients that an optimizer is to be given by a step of kcifar's own.

    Where Keras, from 3.16 on, trains a model by torch's default group, they are the mean of all: its
    DistributedDataParallel, which sees to it in a step of Keras, does not see these passes.
    """
    mean = None if hasattr(model.optimizer, "mean_of_processes") else _mean_of_default_group(model)
    return _each_given(mean, gradients) if mean else gradients


def _mean_of_default_group(model):
    """The function of tensors that averages them in torch's default group; None where there is none.

    Raises:
        InputError: there is one, of which this Keras does not know: nothing made the processes' weights equal.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return None
    if getattr(model, "ddp_model", None) is None:
        raise InputError(
            f"{type(model).__name__}: torch's default group has {distributed.get_world_size()} processes, but fit of "
            "this Keras trains each model for itself: start them by torchrun -m kcifar.train, or take Keras 3.16"
        )
    return _averaged


def _averaged(tensors):
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = (flat / distributed.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for tensor, part in zip(tensors, parts, strict=True)]


def _each_given(function, gradients):
    """The gradients behind a function of those that are there; the others, of variables without any, are None."""
    given = iter(function([gradient for gradient in gradients if gradient is not None]))
    return [None if gradient is None else next(given) for gradient in gradients]
