"""Processes that train one model together, each on its part of every batch, and what they tell each other."""

import datetime
import os
import pickle

import torch
from keras import ops
from torch import distributed

from kcifar.backend import keras_internals
from kcifar.errors import InputError, ProcessLost, one_line

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("WORLD_SIZE", "RANK", "MASTER_PORT")
_COMING = datetime.timedelta(seconds=60)  # for all to come: torchrun has started them at once
_ANSWERING = datetime.timedelta(minutes=10)


class Processes:
    """This process among those that train one model together.

    They have a group of their own, not torch's default one: for that, Keras 3.16 would wrap the model in
    DistributedDataParallel and add up every step's figures.

    Attributes:
        rank: which this one is, from 0.
        count: how many there are.
    """

    def __init__(self, store, rank, count):
        self.rank, self.count = rank, count
        self._store, self._told = store, 0
        self._device = ops.zeros(()).device
        self._group = _group(store, rank, count, self._device)

    def mean(self, tensors):
        """The mean of each tensor over all processes: one all-reduce of all of them."""
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]) / self.count
        self._done(self._group.allreduce, [flat])
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [
            torch.empty_like(tensor).copy_(part.view(tensor.shape)) for tensor, part in zip(tensors, parts, strict=True)
        ]

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
        except RuntimeError as error:
            why = one_line(error).rpartition("] ")[2]  # gloo names a place in its source first
            raise ProcessLost(
                f"another of the {self.count} processes of this training has ended, or does not answer ({why[:60]})"
            ) from None


def _group(store, rank, count, device):
    store = distributed.PrefixStore("kcifar", store)
    if device.type != "cuda":
        return distributed.ProcessGroupGloo(store, rank, count, _ANSWERING)
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = _ANSWERING
    return distributed.ProcessGroupNCCL(store, rank, count, options)


_JOINED = []


def join_processes():
    """The `Processes` that torchrun, or another by its variables, has started; None where this one is alone.

    Raises:
        InputError: a variable is missing or is no number, or not all have come within a minute.
    """
    if not _JOINED and (joined := _join()):
        _JOINED.append(joined)
    return _JOINED[0] if _JOINED else None


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
    _take_device()
    try:
        store, rank, count = next(distributed.rendezvous("env://", timeout=_COMING))
        store.set_timeout(_COMING)
        store.set(f"kcifar {rank}", "here")
        store.wait([f"kcifar {other}" for other in range(count)])
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"process {os.environ['RANK']} of {count} does not find the others at {where} ({one_line(error)[:80]}): "
            "start all of them by torchrun"
        ) from None
    store.set_timeout(_ANSWERING)
    return Processes(store, rank, count)


def _take_device():
    """One GPU for each process of this machine."""
    if torch.cuda.is_available():
        here, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
        if place >= here:
            raise InputError(f"process {place} of this machine finds {here} GPUs: start as many processes as GPUs")
        torch.cuda.set_device(place)


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


def mean_of_processes(optimizer, gradients):
    """The mean of gradients over all processes, before the optimizer is given them; as they are where it is alone."""
    mean = getattr(optimizer, "mean_of_processes", None) or _mean_of_default_group
    return _each_given(mean, gradients)


def for_the_optimizer(optimizer, gradients):
    """The gradients that an optimizer is to be given by a step of kcifar's own.

    Where somebody has made torch's default group of processes, they are the mean of all: DistributedDataParallel,
    which would see to it in a step of Keras 3.16, does not see these passes.
    """
    return gradients if hasattr(optimizer, "mean_of_processes") else _each_given(_mean_of_default_group, gradients)


def _mean_of_default_group(tensors):
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = (flat / distributed.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for tensor, part in zip(tensors, parts, strict=True)]


def _each_given(function, gradients):
    """The gradients behind a function of those that are there; the others, of variables without any, are None."""
    given = iter(function([gradient for gradient in gradients if gradient is not None]))
    return [None if gradient is None else next(given) for gradient in gradients]
