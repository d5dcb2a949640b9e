"""The GPUs of this machine, without a library that would take memory of them."""

import os
import shutil
import subprocess

from kcifar.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible():
    """The names by which CUDA_VISIBLE_DEVICES knows the GPUs that this process may use."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return list(map(str, range(count)))


def take_own():
    """Has this process, of several that torchrun has started on this machine, see one GPU: number 0 in all its threads.

    Where one is visible already, as a batch system may see to, it is that.

    Raises:
        InputError: it is not known which is its own, or there are fewer GPUs than processes.
    """
    gpus, place = visible(), os.environ.get("LOCAL_RANK", "").strip()
    if len(gpus) < 2:
        return
    if not place.isdecimal():
        raise InputError(
            f"this machine has {len(gpus)} GPUs and the variable LOCAL_RANK is '{place}', so it is not known which is "
            "this process's: start the processes by torchrun, or let each see one GPU by CUDA_VISIBLE_DEVICES"
        )
    if int(place) >= len(gpus):
        raise InputError(
            f"process {place} of this machine finds {len(gpus)} GPUs, counted from 0: start as many processes as GPUs"
        )
    os.environ[VISIBLE] = gpus[int(place)]
