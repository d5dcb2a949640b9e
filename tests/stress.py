"""Runs under kills and faults, and processes that want into one folder: the long form of what the tests try in short.

kills: runs are killed by SIGKILL at random instants, in processes of their own, and again while they go on; their ends
are compared with that of a run that nothing interrupted. instants: of every variant of a run, each instant between two
changes of its folder; each write fails, by a full disk and by an error; files are cut short and bits turned. lock:
processes of two machines, by their names, try to get into one folder at once; some are killed inside.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "mixup.py"
COMMON = ["batch_size=20", "epochs=4", "validation=0.2", "select_on=validation", "--data", "images.npz"]
AVERAGED = ["sharpness_aware=SharpnessAware(rho=0.05)", "weight_ema=WeightEMA(decay=0.9)"]
VARIANTS = {
    "averaged": [  # the recipe has MixUp, a cyclic learning rate and dropout
        *AVERAGED, "select_from_epoch=1", "early_stopping=EarlyStopping(patience=3)",
    ],
    "frozen": [
        "pretrained=start.keras", "freeze=conv1,norm1", "unfreeze_epoch=2", "select_from_epoch=1",
    ],
    "late": ["select_from_epoch=3", "model=tutorial_net()"],
    "features": ["pretrained=start.keras", "freeze=conv1,conv2,conv3,norm1,norm2,norm3", "transforms=[]"],
}  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
_EXAMPLES = """\
examples:
  KERAS_BACKEND=torch python -m tests.stress kills 60 --out kills-torch.json
  KERAS_BACKEND=jax python -m tests.stress kills 60 --variant averaged
  KERAS_BACKEND=torch python -m tests.stress instants 100     # and 100 damaged files
  python -m tests.stress lock 200
"""


def train(*arguments):
    command = [sys.executable, "-m", "kcifar.train", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def expect_trained(*arguments):
    """The seconds that it took. Raises RuntimeError where the command fails."""
    started, process = time.monotonic(), train(*arguments)
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{arguments}: exit code {process.returncode}\n{errors}")
    return time.monotonic() - started


def go_on(run, command):
    """The arguments that go on with a run that was killed."""
    return ["--resume", run] if (run / "recipe.json").exists() else [*command, "--out", run]


def kills(count, rng, variants):
    """Counts of kills by variant, at least so many in all, and of ends that differ."""
    from tests.data_fixtures import write_drawn
    from tests.interrupted_runs import end_of

    ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(Path("compiled").absolute())  # else JAX compiles most of the time
    ENVIRONMENT["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    write_drawn("images.npz", 200, 60)
    expect_trained(RECIPE, *COMMON, "epochs=1", "seed=7", "select_from_epoch=1", "--out", "start")
    Path("start.keras").write_bytes(Path("start/best.keras").read_bytes())
    wholes, killed, differing = {}, Counter(), []
    for place in itertools.count():
        if killed.total() >= count:
            return {"runs": place, "kills": killed, "differing": differing}
        name = variants[place % len(variants)]
        command = [RECIPE, *COMMON, *VARIANTS[name]]
        if name not in wholes:
            whole = Path(f"whole{place}")
            expect_trained(*command, "--out", whole)
            wholes[name] = end_of(whole), expect_trained(*command, "--out", f"again{place}")
        expected, seconds = wholes[name]
        run = Path(f"run{place}")
        for _ in range(rng.choice([1, 1, 2, 3])):
            process = train(*go_on(run, command))
            time.sleep(rng.uniform(0.2, 1.05) * seconds)
            process.kill()
            errors = process.communicate()[1]
            killed[name] += process.returncode == -signal.SIGKILL
            if "Traceback" in errors or process.returncode not in (0, -signal.SIGKILL):
                differing.append([name, place, errors[-300:]])
        expect_trained(*go_on(run, command))
        found = end_of(run)
        different = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        if different:
            differing.append([name, place, sorted(different)[:5]])
        print(f"{killed.total()} of {count}: {name}: {'differs' if different else 'equal'}", flush=True)


def instants(count, rng):
    """What every instant, every failing write and so many damaged files came to, by variant."""
    from tests import interrupted_runs as runs
    from tests.blank_pictures import blanked

    texts, found = [io.StringIO(), io.StringIO()], {}

    def capture():
        said = [text.getvalue() for text in texts]
        for text in texts:
            text.seek(0)
            text.truncate()
        return said

    def tell(name, check, *arguments, **options):
        folder = Path(name.replace(" ", "-").replace("/", "-")).absolute()
        folder.mkdir()
        started = time.monotonic()
        found[name] = check(*arguments, folder, **options)
        print(f"{name}: {found[name]}, {time.monotonic() - started:.0f} s", file=sys.__stdout__, flush=True)

    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]), blanked():
        runs.prepare()
        for variant, command in runs.COMMANDS.items():
            tell(f"killed {variant}", runs.expect_every_instant_survived, command, capture=capture)
        for variant, more in (("longer", ["epochs=3"]), ("state before", [])):
            run = Path(f"whole {variant}").absolute()
            runs.expect(0, [*runs.COMMANDS["averaged"], run])
            if not more:
                (run / "metrics.json").unlink()
                (run / "last" / "state.npz").write_bytes(b"")
            command = ["--resume", run, *more]
            tell(f"killed {variant}", runs.expect_every_instant_survived, command, capture=capture, whole=run)
        range_command = runs.COMMANDS["frozen"]
        tell("killed range of seeds", runs.expect_every_instant_of_a_range_survived, range_command)
        for error, variant in itertools.product(runs.ERRORS, ("averaged", "frozen", "branch")):
            command, name = runs.COMMANDS[variant], f"{error.strerror} {variant}"
            tell(name, runs.expect_failing_writes_survived, command, capture=capture, error=error)
        for variant in ("averaged", "late"):
            run = Path(f"killed {variant}".replace(" ", "-"), "whole").absolute()
            tell(f"damaged {variant}", runs.expect_damage_noticed, run, capture=capture, rng=rng, tries=count // 2)
    return found


# A process that wants in, of the machine that it says it is; it stays for a moment, or until it is killed.
_VISITOR = """
import os, random, socket, sys, time
from kcifar.errors import InputError
from kcifar.runs import lock
machine, stays, lock._LEASE_SECONDS = sys.argv[1], float(sys.argv[2]), 2
socket.gethostname = lambda: machine
try:
    with lock.writing("folder") as writer:
        print("in", time.monotonic(), flush=True)
        time.sleep(stays)
        writer.expect_mine()
        print("out", time.monotonic(), flush=True)
except InputError as error:
    print("refused", error, flush=True)
"""


def lock(tries, rng):
    """How often a process got in, was refused or was killed inside, and how often two were in at once."""
    Path("folder").mkdir()
    counts, inside = Counter(), []
    for _ in range(tries // 4):
        visitors = []
        for _ in range(4):
            dies = rng.random() < 0.3
            arguments = [rng.choice(["one", "other"]), str(60 if dies else rng.uniform(0, 0.3))]
            command = [sys.executable, "-c", _VISITOR, *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            visitors.append((process, dies))
            time.sleep(rng.uniform(0, 0.2))
        for process, dies in visitors:
            line = first_word_known(process.stdout)
            if line[:1] == ["in"] and dies:
                time.sleep(rng.uniform(0, 0.5))
                inside.append((float(line[1]), time.monotonic()))
                process.kill()
                counts["killed inside"] += 1
            rest = process.communicate()[0].split()
            if line[:1] == ["in"] and not dies:
                counts["in"] += 1
                inside.append((float(line[1]), float(rest[1]) if rest[:1] == ["out"] else float("inf")))
            elif line[:1] != ["in"]:
                counts["refused" if line[:1] == ["refused"] else "failed"] += 1
    inside.sort()
    twice = sum(later[0] < earlier[1] for earlier, later in itertools.pairwise(inside))
    with subprocess.Popen([sys.executable, "-c", _VISITOR, "third", "0"], stdout=subprocess.PIPE, text=True) as last:
        left = first_word_known(last.stdout)[:1] != ["in"]
    return {"tries": tries, **counts, "two at once": twice, "left by the dead": left}


def first_word_known(lines):
    """The words of the first line that says whether a visitor is in; before, it may say that it waits."""
    return next((line.split() for line in lines if line.split()[:1] in (["in"], ["refused"])), [])


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("kills", "instants", "lock"))
    parser.add_argument("count", type=int, help="kills, damaged files, or tries to get in")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="of kills: this one; may be given again")
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    out = options.out and options.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rng = random.Random(options.seed)
        if options.what == "kills":
            found = kills(options.count, rng, options.variant or list(VARIANTS))
        else:
            found = {"instants": instants, "lock": lock}[options.what](options.count, rng)
        os.chdir("/")
    found |= {"backend": os.environ.get("KERAS_BACKEND", "torch"), "seed": options.seed}
    print(json.dumps(found, indent=1))
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(found.get(name) for name in ("differing", "failed", "two at once", "left by the dead")))


if __name__ == "__main__":
    main()
