"""Every reader is given what nobody should have written: damaged files, and files that mean harm.

Inputs are real ones, small, that seeded mutations damage; each reader's valid ones are read first. A reader is called
in a process of its own, as its command calls it. It may read the input, or refuse it in one line; anything else is a
failure: a traceback, a process that dies, more than 5 seconds, 1.5 GB or 300 signs, a file written elsewhere, a program
started.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import fuzz_inputs
from tests.fuzz_worker import READERS

MOST_SECONDS, MOST_BYTES, MOST_SIGNS = 5, 1.5e9, 300
_AT_ONCE = 300  # inputs that one process reads: what a library keeps of each adds up
_START_SECONDS = 120  # for a first call, which imports Keras
_EXAMPLES = """\
examples:
  python -m tests.fuzz 5000 --out counts.json
  python -m tests.fuzz 300 --seed 1 --reader "saved model" --keep failures
"""


class Worker:
    """A process that reads, begun anew where it died or has read much.

    Args:
        folder: that the readers may write to: it has their homes, caches and temporary files.
    """

    def __init__(self, folder):
        self.folder, self.process, self.inputs, self.known = Path(folder), None, 0, set()

    def read(self, reader, case, seconds):
        """What `tests.fuzz_worker` says of an input; {"died": …} where it does not within so many seconds."""
        if self.process is None:
            self._start()
        self.inputs += 1
        self.known.add(reader)
        self.process.stdin.write(json.dumps({"reader": reader, "case": str(case)}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.stop()
            return {"died": f"more than {seconds} s"}
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.stop()
            return {"died": f"exit code {code}"}
        return json.loads(line)

    def _start(self):
        self.stop()
        places = {name: self.folder / name for name in ("home", "cache", "tmp", "case", "here")}
        for place in places.values():
            place.mkdir(exist_ok=True)
        environment = (
            os.environ
            | {
                "HOME": str(places["home"]),
                "XDG_CACHE_HOME": str(places["cache"]),
                "MPLCONFIGDIR": str(places["cache"]),
                "TORCHINDUCTOR_CACHE_DIR": str(places["cache"]),
                "TMPDIR": str(places["tmp"]),
                "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": "1000000",  # what is freed is given back, and not of the next input's memory
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:2]]),
            }
        )
        command = [sys.executable, "-m", "tests.fuzz_worker", *(str(places[n]) for n in ("cache", "tmp", "case"))]
        self.process = subprocess.Popen(
            command, cwd=places["here"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.inputs = 0

    def stop(self):
        """Ends the process, where there is one."""
        self.known.clear()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


class Fuzz:
    """Gives inputs to readers, and counts what comes of them.

    Args:
        folder: to work in, which is empty.
        readers: names, of `tests.fuzz_worker.READERS`.
        seed: of the mutations.
        keep: a folder for the inputs that a reader failed on; None to keep none.
    """

    def __init__(self, folder, readers=READERS, seed=0, keep=None):
        self.folder, self.keep, self.seed = Path(folder), keep, seed
        self.readers = list(readers)
        self.seeds = fuzz_inputs.make_seeds(self.folder / "seeds", self.readers)
        self.worker = Worker(self.folder / "work")
        self.worker.folder.mkdir()
        self.case = self.worker.folder / "case"
        self.counts = {name: collections.Counter() for name in self.readers}
        self.most = {name: {"seconds": 0.0, "bytes": 0} for name in self.readers}
        self.failures, self.warm = [], set()

    def run(self, count, tell=lambda text: None):
        """Gives each reader its valid inputs, then so many damaged ones over all readers. Returns the counts."""
        with contextlib.closing(self):
            for place in range(count):
                reader = self.readers[place % len(self.readers)]
                if reader not in self.warm:
                    self._read_valid(reader)
                self._read_damaged(reader, place, tell)
                if (place + 1) % 100 == 0:
                    tell(f"{place + 1} of {count}, {len(self.failures)} failures")
        return self.found()

    def close(self):
        """Ends the process that reads."""
        self.worker.stop()

    def found(self):
        """The counts by reader, and what failed."""
        by_reader = {
            name: {"inputs": sum(self.counts[name].values()), **self.counts[name], **self.most[name]}
            for name in self.readers
        }
        return {"readers": by_reader, "failures": self.failures}

    def _read_valid(self, reader):
        self.warm.add(reader)
        for seed in self.seeds[reader]:
            self._put(seed)
            answer = self.worker.read(reader, self.case, _START_SECONDS)
            if answer.get("code") != 0:
                self.failures.append({"reader": reader, "how": "none", "why": "a valid input", **answer})

    def _read_damaged(self, reader, place, tell):
        rng = random.Random(f"{self.seed} {reader} {place}")
        self._put(rng.choice(self.seeds[reader]))
        how = fuzz_inputs.damage(self.case, reader, rng, self.seeds[reader])
        if self.worker.inputs >= _AT_ONCE:
            self.worker.stop()
        before = self._outside()
        answer = self._read_warm(reader)
        why = self._wrong(answer, before)
        outcome = "failed" if why else "read" if answer["code"] == 0 else "refused"
        self.counts[reader][outcome] += 1
        for name in self.most[reader]:
            self.most[reader][name] = max(self.most[reader][name], answer.get(name, 0))
        if why:
            self.worker.stop()
            said = answer.get("said", "")[-600:]
            self.failures.append({"reader": reader, "place": place, "how": how, "why": why, "said": said})
            tell(json.dumps(self.failures[-1]))
            if self.keep:
                kept = Path(self.keep) / f"{place}"
                shutil.copytree(self.case, kept, symlinks=True, dirs_exist_ok=True, ignore=_special)

    def _read_warm(self, reader):
        """The answer of a process that has read by this reader before: a first call imports what it needs."""
        self._warm_up(reader)
        answer = self.worker.read(reader, self.case, MOST_SECONDS)
        if answer.get("died", "").startswith("more than"):
            # It hangs, or others need the cores: then the process itself says how long it computed.
            self._warm_up(reader)
            answer = self.worker.read(reader, self.case, 4 * MOST_SECONDS)
        return answer

    def _warm_up(self, reader):
        if reader in self.worker.known:
            return
        aside = self.case.with_name("aside")
        os.rename(self.case, aside)
        self._put(self.seeds[reader][0])
        self.worker.read(reader, self.case, _START_SECONDS)
        shutil.rmtree(self.case)
        os.rename(aside, self.case)

    def _put(self, seed):
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(seed, self.case, symlinks=True)

    def _outside(self):
        """What lies where no reader may write, or has to leave nothing, with sizes and times."""
        places = [*self.worker.folder.iterdir()]
        for name in ("here", "home", "tmp"):
            places += (self.worker.folder / name).rglob("*")
        stats = [(path, path.lstat()) for path in places]
        return {(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats if path.is_file()}

    def _wrong(self, answer, before):
        """Why an answer is a failure; None where it is none."""
        if "died" in answer:
            return answer["died"]
        if answer["code"] not in (0, 2):
            return "traceback" if answer["code"] is None else f"exit code {answer['code']}"
        if "out of memory" in answer["said"]:
            return "out of memory"
        if answer["seconds"] > MOST_SECONDS:
            return f"{answer['seconds']:.1f} s"
        if answer["bytes"] > MOST_BYTES:
            return f"{answer['bytes'] / 1e9:.1f} GB"
        lines = answer["said"].splitlines()
        if any(len(line) > MOST_SIGNS for line in lines):
            return f"a line of {max(map(len, lines)):,} signs"
        if not answer["said"].replace("\n", "").isprintable():
            return "signs that a terminal obeys"
        if answer["did"]:
            return "; ".join(answer["did"])
        changed = self._outside() ^ before
        return f"changed {sorted(changed)[0]}" if changed else None


def _special(folder, names):
    return [name for name in names if not (Path(folder) / name).is_dir() and not (Path(folder) / name).is_file()]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("count", type=int, help="inputs, over all readers")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--reader", action="append", choices=READERS, help="this one alone; may be given again")
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that failed")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(folder, options.reader or READERS, options.seed, options.keep and options.keep.absolute())
        found = fuzz.run(options.count, tell=lambda text: print(text, flush=True))
    found |= {"inputs": options.count, "seed": options.seed, "minutes": round((time.monotonic() - started) / 60, 1)}
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
