"""Time one model that several processes train together: against one process with all cores, and the exchange alone.

The processes or devices of a training share the cores that one process has: with a thread each, or on JAX as devices
that it is told to see. Each training is a process of its own, in turn with the other kind; the first epoch is not
counted.

With --exchange two processes take steps of one net, in turn with the gradients' exchange behind the backward pass in
one piece, as kcifar does, in buckets while it goes on, as DistributedDataParallel does, and with none.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_EXAMPLES = """\
examples:
  python benchmarks/together.py recipes/sgd_resnet20.py --data images.npz
  python benchmarks/together.py recipes/mixup.py --data images.npz --backend jax --out benchmarks/results/together.json
  torchrun --nproc-per-node=2 benchmarks/together.py --exchange resnet20
"""
_SETTLE = 3  # steps of each way before its first time


def images_per_second(options, several):
    """Of one training, the median of its epochs but the first."""
    count = options.processes if several else 1
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start, variables = [sys.executable], {"KERAS_BACKEND": options.backend}
        given = [f"epochs={options.epochs}", *options.overrides, "--out", str(run)]
        given += ["--data", options.data] if options.data else []
        if options.backend == "jax":
            flags = os.environ.get("XLA_FLAGS", "")
            variables["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
            given += ["--device", "all" if several else "cpu"]
        else:
            variables["OMP_NUM_THREADS"] = str(options.processes // count)
            if several:
                start += ["-m", "torch.distributed.run", f"--nproc-per-node={count}"]
        command = [*start, "-m", "kcifar.train", options.recipe, *given]
        subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads((run / "metrics.json").read_text())
        images = metrics["images_per_second"] * metrics["train_seconds"] / len(metrics["seconds_per_epoch"])
    return images / statistics.median(metrics["seconds_per_epoch"][1:])


def compare(options):
    """The images per second of both kinds, by name, and the ratios of neighbours."""
    count = options.processes
    names = f"1 process, {count} threads", f"{count} processes, 1 thread each"
    names = names if options.backend == "torch" else ("1 device", f"{count} devices of the same cores")
    found = {name: [] for name in names}
    for _ in range(options.rounds):
        for several, name in enumerate(names):
            found[name].append(images_per_second(options, several))
            print(f"{name:<30}{found[name][-1]:,.0f} images/s", flush=True)
    found["ratios"] = [many / one for one, many in zip(*found.values(), strict=True)]
    return found


def exchange(name, steps):
    """The milliseconds of each step, by how gradients are exchanged: of this process, one of several."""
    import kcifar  # noqa: I001 - chooses torch
    import keras
    import torch
    from torch import distributed

    from kcifar import backend, models

    torch.set_num_threads(1)
    processes = backend.join_processes()
    distributed.init_process_group("gloo")
    model = models.build(name)
    kcifar.accelerate(model)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    images = torch.rand(128 // processes.count, 32, 32, 3) * 255
    labels = torch.arange(len(images)) % 10
    values = [variable.value for variable in model.trainable_variables]
    statistics = [variable.value for variable in model.non_trainable_variables if "moving" in variable.name]

    def step(way):
        for value in values:
            value.grad = None
        logits = (wrapped if way == "in buckets" else model)(images, training=True)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        if way == "in one piece":
            processes.mean([*(value.grad for value in values), *statistics])

    found = {"none": [], "in one piece": [], "in buckets": []}
    for place in range(_SETTLE + steps):
        for way, times in found.items():
            distributed.barrier()
            started = time.perf_counter()
            step(way)
            if place >= _SETTLE:
                times.append(1000 * (time.perf_counter() - started))
    megabytes = sum(value.numel() for value in values) * 4 / 1e6
    return {"net": name, "MB": megabytes, "keras": keras.__version__, "torch": torch.__version__, "ms": found}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", metavar="RECIPE", help="its batch has to be divisible; with --exchange a net's name")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--data", help="of the trainings: a file of few images makes short epochs")
    parser.add_argument("--backend", choices=["torch", "jax"], default="torch")
    parser.add_argument("--processes", type=int, default=2, help="that train together, on as many cores (default 2)")
    parser.add_argument("--epochs", type=int, default=5, help="of a training (default 5)")
    parser.add_argument("--rounds", type=int, default=5, help="trainings of each kind, or tens of steps (default 5)")
    parser.add_argument("--exchange", action="store_true", help="time the exchange alone")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    if options.exchange:
        found = exchange(options.recipe, 10 * options.rounds)
        shown = {f"{way}, ms a step": times for way, times in found["ms"].items()}
    else:
        found = shown = compare(options)
    if int(os.environ.get("RANK", 0)):
        return
    for name, values in shown.items():
        values = sorted(values)
        print(f"{name:<30}{statistics.median(values):.4g} ({values[0]:.4g} to {values[-1]:.4g}, n = {len(values)})")
    if options.out:
        about = {"recipe": options.recipe, "overrides": options.overrides, "backend": options.backend}
        about |= {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        options.out.write_text(json.dumps(about | {"found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
