"""Time training in images per second: plain PyTorch, stock Keras and kcifar, in turn.

Every variant (see variants.py) is a process of its own that trains for some seconds when it is its turn and is stopped
while the others have theirs. The order is rotated in every round, so that no variant has the quiet moments of a shared
machine to itself. On the CPU; with --gpu on the first GPU.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from variants import VARIANTS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_EXAMPLES = """\
examples:
  python benchmarks/throughput.py --data cifar-10-batches-py
  python benchmarks/throughput.py --data demo --batch-size 32 --rounds 1 --seconds 1
  python benchmarks/throughput.py --data demo --variants torch kcifar-torch-plain --out plain.json
  python benchmarks/throughput.py --data cifar-10-batches-py --gpu --batch-size 128

variants, of report B's net at batches of 32 and 512 where no net is named:
  report                             the report's program: NCHW, per-step loss.item(), 2 workers with PIL transforms
  torch torch-bf16                   hand-tuned PyTorch, channels_last, no transforms; float32, bf16 autocast
  torch-memory torch-memory-bf16     the same, where glibc keeps freed memory as kcifar.accelerate makes it
  keras-torch keras-jax              stock keras.Model.fit, no transforms
  keras-torch-accelerated            the same after kcifar.accelerate, with Keras's own Adam
  kcifar-torch kcifar-jax            recipes/mixup.py whole: crop, flip, MixUp, normalisation; -bf16 in bfloat16
  kcifar-torch-plain kcifar-jax-plain  the same with transforms=[]; -bf16 in bfloat16
  resnet18-...                       ResNet-18 with the CIFAR stem at a batch of 128
  resnet18-224-torch resnet18-224-kcifar  ResNet-18 at 224x224 and a batch of 50: hand-tuned PyTorch, and
                                     recipes/transfer_resnet18.py whole, from new weights; -memory; -bf16
  resnet20-sgd-torch resnet20-sgd-jax  recipes/sgd_resnet20.py whole; sam, asam; sgd-ema with an average of the weights
  crop-flip-kcifar-torch and others  transforms alone, without a net: chains crop-flip, rotation-jitter and randaugment
                                     (for --batch-size 512), 224 and 224-jitter-first (128); pillow (2 workers), keras
                                     (its layers, on torch), kcifar-torch, kcifar-jax; in no default
  <net>-keras <net>-kcifar           nets of keras.applications on 64x64 images at a batch of 64: stock, accelerated

exit code: 0; 1 if a variant failed; 2 for wrong arguments; 130 for Ctrl-C
"""


_CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


class Child:
    """A variant's process, stopped except while it is asked.

    Its process group holds its workers too. The group is in our session: should we be killed, the kernel hangs up on
    stopped groups that are left behind.
    """

    def __init__(self, variant, source, batch_size, gpu):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # All variants are in memory at once, of which JAX would take three quarters.
        device = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if gpu else _CPU
        environment = {**os.environ, "PYTHONPATH": path, **device, **VARIANTS[variant].environment}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in kill)
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("variants.py"), variant, source, str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            process_group=0,
            text=True,
        )

    def ask(self, seconds=None):
        """Lets it train, then stops it; returns its figures, or {"error": …}. Without seconds: its warm-up."""
        with contextlib.suppress(BrokenPipeError):
            self._signal(signal.SIGCONT)
            if seconds is not None:
                print(seconds, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            return {"error": self._last_words()}
        self._signal(signal.SIGSTOP)
        return json.loads(answer)

    def kill(self):
        """Ends it and its workers."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        for file in (self.process.stdout, self.errors):
            file.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _last_words(self):
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}: {lines[-1] if lines else 'nothing on stderr'}"


def measure(options, variants, batch_size, console):
    """Times the variants at one batch size; a dict for each, as it goes into the JSON, ratios left out."""
    results = [_empty(variant, batch_size) for variant in variants]
    children = {}
    try:
        for result in results:
            console.print(f"batch {batch_size}: starting {result['variant']}")
            child = children[result["variant"]] = Child(result["variant"], options.data, batch_size, options.gpu)
            result["error"] = child.ask().get("error")
        for turn in range(options.rounds):
            first = turn % len(results)
            for result in results[first:] + results[:first]:
                if result["error"] is None:
                    _measure_once(result, children[result["variant"]], turn, options.seconds)
            speeds = {r["variant"]: _of_round(r).get(turn) for r in results}
            figures = [f"{name} {f'{speed:,.0f}' if speed else 'failed'}" for name, speed in speeds.items()]
            console.print(f"batch {batch_size}, round {turn + 1}/{options.rounds}: {', '.join(figures)}")
    finally:
        for child in children.values():
            child.kill()
    return results


def _empty(variant, batch_size):
    return {"variant": variant, "batch_size": batch_size, "error": None, "measurements": []}


def _measure_once(result, child, turn, seconds):
    figures = child.ask(seconds)
    if "error" in figures:
        result["error"] = figures["error"]
        return
    speed = figures["images"] / figures["seconds"]
    result["measurements"].append({"round": turn, "images_per_second": speed, **figures, "load": os.getloadavg()[0]})


def _of_round(result):
    return {m["round"]: m["images_per_second"] for m in result["measurements"]}


def summarise(results):
    """Adds medians, spread and ratios to the results of one batch size.

    A ratio is the median over the rounds of the ratio within a round, which a drift of the machine does not touch.
    """
    by_name = {result["variant"]: _of_round(result) for result in results}
    for result in results:
        own = by_name[result["variant"]]
        if own:
            speeds = own.values()
            result["images_per_second"] = {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
            result["peak_memory_bytes"] = max(m["peak_memory_bytes"] for m in result["measurements"])
        bases = VARIANTS[result["variant"]].versus
        result["ratio"] = {base: _ratio(own, by_name[base]) for base in bases if base in by_name}


def _ratio(own, base):
    """Median, least and greatest over the rounds in which both were measured; None where there is none."""
    ratios = [own[turn] / base[turn] for turn in own.keys() & base.keys()]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None


def table(results):
    """All results as a rich table."""
    shown = Table(title="Training: images per second, medians over the rounds")
    for name in ("variant", "batch", "images/s", "min–max", "peak MB", "is, times another (min–max)"):
        shown.add_column(name, justify="left" if name[0] in "vi" and name != "images/s" else "right", no_wrap=True)
    for result in results:
        name, batch = result["variant"], str(result["batch_size"])
        if not result["measurements"]:
            shown.add_row(name, batch, "failed")
            continue
        speed = result["images_per_second"]
        ratios = "\n".join(
            f"{ratio['median']:.2f} {base} ({ratio['min']:.2f}–{ratio['max']:.2f})"
            for base, ratio in result["ratio"].items()
            if ratio
        )
        spread = f"{speed['min']:,.0f}–{speed['max']:,.0f}"
        memory = f"{result['peak_memory_bytes'] / 1e6:,.0f}"
        shown.add_row(name, batch, f"{speed['median']:,.0f}", spread, memory, ratios)
    return shown


def environment(gpu):
    """Machine, versions and commit, for the JSON."""
    names = ("torch", "jax", "jaxlib", "keras", "numpy", "pillow")
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    machine = {"cpu": cpu or platform.processor(), "cores": cores, "omp_num_threads": threads}
    if gpu:
        machine["gpu"] = _gpu()
    changes = _git("status", "--porcelain", "--", "kcifar", "recipes", "benchmarks/*.py")
    return {"machine": machine, "versions": versions, "commit": _git("rev-parse", "HEAD"), "dirty": changes != ""}


def _git(*arguments):
    return _output("git", "-C", ROOT, *arguments)


def _gpu():
    """Name and driver of the first GPU."""
    return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0")


def _output(*command):
    """What a program prints; None where it fails or is not there."""
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None


def run(options):
    """Measures, prints and writes; returns the exit code."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    started = datetime.datetime.now(datetime.UTC)
    out = options.out or RESULTS / f"throughput-{started:%Y%m%d-%H%M%S}.json"
    found = {"started": started.isoformat(timespec="seconds"), **environment(options.gpu)}
    found["arguments"] = {name: value for name, value in vars(options).items() if name != "out"}
    found["arguments"]["data"] = Path(options.data).name  # where it lies is of no interest elsewhere
    found["machine"]["load_at_start"] = os.getloadavg()
    results = []
    for batch_size in options.batch_size:
        variants = options.variants or [name for name, of in VARIANTS.items() if batch_size in of.batch_sizes]
        measured = measure(options, variants, batch_size, console)
        summarise(measured)
        results += measured
    found["machine"]["load_at_end"] = os.getloadavg()

    from kcifar.runs.files import write_json

    write_json(out, {**found, "results": results})
    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(table(results))
    failed = [result for result in results if result["error"]]
    for result in failed:
        console.print(
            f"throughput.py: {result['variant']}, batch {result['batch_size']}: {result['error']}", markup=False
        )
    console.print(f"written to {out}")
    return 1 if failed else 0


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="auto", metavar="SOURCE", help="what kcifar.data.load takes (default: auto)")
    parser.add_argument(
        "--batch-size", type=_positive(int), nargs="+", default=[32, 64, 128, 512], metavar="N", help="default: all"
    )
    parser.add_argument("--gpu", action="store_true", help="on a GPU (default: on the CPU)")
    parser.add_argument(
        "--rounds", type=_positive(int), default=5, metavar="N", help="turns of each variant (default: 5)"
    )
    parser.add_argument("--seconds", type=_positive(float), default=5.0, metavar="S", help="of a turn (default: 5)")
    parser.add_argument(
        "--variants", choices=VARIANTS, nargs="+", metavar="NAME", help="default: those of each batch size"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/throughput-<time>.json")
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(ROOT))
    from kcifar import InputError, data

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        data.load(options.data)  # a wrong source fails here, and the variants find it in the cache
        if options.gpu and not _gpu():
            raise InputError("--gpu is given, but nvidia-smi shows no GPU; leave it out to measure on the CPU")
        if not options.out:
            RESULTS.mkdir(exist_ok=True)
        elif not os.access(options.out.parent, os.W_OK) or options.out.is_dir():
            raise InputError(f"--out is '{options.out}'; expected a file in a folder that exists and can be written to")
        return run(options)
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130


def _positive(kind):
    def parse(text):
        if not 0 < kind(text) < math.inf:
            raise ValueError
        return kind(text)

    parse.__name__ = f"positive {kind.__name__}"
    return parse


if __name__ == "__main__":
    sys.exit(main())
