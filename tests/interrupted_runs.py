"""Runs that are killed at every instant, or whose writes fail, or whose files are damaged, and how they end."""

import errno
import json
import shutil
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from kcifar import data
from kcifar.evaluate import main as evaluate
from kcifar.predict import main as predict
from kcifar.report import main as report
from kcifar.runs.folder import RunFolder
from kcifar.train import main as train
from tests.data_fixtures import write_drawn
from tests.fake_trainings import Here, trainings
from tests.instants import distinct, failing, recorded

RECIPE = str(Path(__file__).parents[1] / "recipes" / "mixup.py")
TINY = ["model=tutorial_net()", "batch_size=20", "epochs=2", "schedule=none", "validation=0.2", "select_on=validation"]
FIRST = ["select_from_epoch=1"]
AVERAGED = ["sharpness_aware=SharpnessAware(rho=0.05)", "weight_ema=WeightEMA(decay=0.9)"]
DATA = ["--data", "images.npz"]
COMMANDS = {
    "averaged": [RECIPE, *TINY, *FIRST, *AVERAGED, *DATA, "--out"],
    "frozen": [RECIPE, *TINY, *FIRST, "pretrained=start.keras", "freeze=conv1,conv2", "transforms=[]", *DATA, "--out"],
    "unfrozen": [
        RECIPE, *TINY, *FIRST, *AVERAGED, "pretrained=start.keras", "freeze=conv1", "unfreeze_epoch=1", *DATA, "--out",
    ],
    "late": [RECIPE, *TINY, "select_from_epoch=2", "early_stopping=EarlyStopping(patience=1)", *DATA, "--out"],
    "branch": ["--resume", "begun", "epochs=3", "--out"],  # which has one epoch
}  # fmt: skip
"""Those that train the variants of a run; the folder comes behind."""
ERRORS = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")]


def prepare():
    """Makes in the working directory what the commands need: images, an image alone, weights, a run to go on from."""
    write_drawn("images.npz", 100, 40)
    Image.fromarray(data.load("demo").test.images[0]).save("one.png")
    expect(0, [RECIPE, *TINY, *FIRST, *AVERAGED, "epochs=1", "seed=7", *DATA, "--out", "begun"])
    shutil.copy("begun/best.keras", "start.keras")


def expect(code, arguments, main=train):
    """Raises AssertionError where a command ends by another exit code."""
    found = main([str(argument) for argument in arguments])
    assert found == code, f"{arguments}: exit code {found}"


def end_of(run):
    """All that a run promises to give again, by name."""
    run = Path(run)
    metrics = json.loads((run / "metrics.json").read_text())
    timed = ("feature_seconds", "train_seconds", "seconds_per_epoch", "images_per_second", "peak_memory_bytes")
    found = {name: value for name, value in metrics.items() if name not in timed} | {
        "log": (run / "log.csv").read_text()
    }
    with np.load(run / "last" / "state.npz") as state:
        found |= {name: state[name].tobytes() for name in state.files if name != "record"}
    best = keras.saving.load_model(run / "best.keras")
    return found | {f"best {place}": value.tobytes() for place, value in enumerate(best.get_weights())}


def epochs_of(run):
    """How many epochs a run's folder holds; None where it has not begun."""
    run = RunFolder(run)
    state = run.begun and run.last.read()
    return (state.record["epochs"] if state else 0) if run.begun else None


def ways_on(run, command):
    """The commands that go on with a run: as a user may who sees what is there."""
    resume = [["--resume", run]] if Path(run, "recipe.json").exists() else []
    return resume if RunFolder(run).begun else [*resume, [*command, run]]


def expect_every_instant_survived(command, folder, capture, whole=None, tells=True):
    """A run killed at any instant gives the end that it would have had, and trains no epoch twice that was over.

    Args:
        command: that trains it, without its folder.
        folder: an empty one.
        capture: gives what was printed since it was asked last: stdout and stderr.
        whole: a run that is there already, which the command goes on with.
        tells: whether evaluate, report and predict are tried on what is left, too.

    Returns:
        How many different folders a kill leaves.
    """
    run = whole or folder / "whole"
    with recorded(run, folder / "instants") as recorder:
        expect(0, command if whole else [*command, run])
    assert recorder.written_in_place <= {"writer.lock"}
    expected, left = end_of(run), distinct(recorder.copies)
    for copy in left:
        before, had_best = epochs_of(copy), (copy / "best.keras").exists()
        for tell, arguments in ((evaluate, [copy]), (report, [copy]), (predict, [copy, "one.png"])) if tells else ():
            capture()
            expect(0 if had_best else 2, arguments, tell)
            assert had_best or len(capture()[1].splitlines()) == 1, copy
        for way in [command] if whole else ways_on(copy, command):
            again = shutil.copytree(copy, folder / "again")
            capture()
            expect(0, [again if argument in (copy, whole) else argument for argument in way])
            shown = capture()[0]
            last = json.loads((again / "recipe.json").read_text())["epochs"]
            for epoch in range(1, last + 1):
                assert (before or 0) < epoch or f"epoch {epoch}/{last}" not in shown, copy
            assert end_of(again) == expected, copy
            shutil.rmtree(again)
    return len(left)


def expect_every_instant_of_a_range_survived(command, folder):
    """A range of seeds that is killed while it trains the first one gives both, by the same command again.

    Returns:
        How many different folders a kill leaves.
    """
    runs = folder / "runs"
    with recorded(runs / "seed0", folder / "instants") as recorder:
        expect(0, [*command, runs / "seed0", "seed=0"])
    expect(0, [*command, runs / "seed1", "seed=1"])
    expected, left = end_of(runs / "seed0"), distinct(recorder.copies)
    for copy in left:
        shutil.rmtree(runs / "seed0")
        shutil.copytree(copy, runs / "seed0")
        with trainings(Here):
            expect(0, [*command, runs, "seed=0..1"])
        assert end_of(runs / "seed0") == expected, copy
        assert (runs / "seed0" / "report.html").exists()
    return len(left)


def expect_failing_writes_survived(command, folder, capture, error, first=1, stride=1):
    """Where a write fails, a line says so, and the run goes on to the end that it would have had.

    Returns:
        How many writes failed, and of how many commands that was the end.
    """
    with failing(folder / "whole", 0, error) as whole:
        expect(0, [*command, folder / "whole"])
    expected, ended, places = end_of(folder / "whole"), 0, range(first, whole.seen + 1, stride)
    for at in places:
        run = folder / f"run{at}"
        capture()
        with failing(run, at, error):
            code = train([*command, str(run)])
        lines = capture()[1].splitlines()
        assert (code, len(lines)) in ((2, 1), (0, 0)), (at, lines)  # what can be done again is not complained of
        ended += code == 2
        expect(0, ways_on(run, command)[0])
        assert end_of(run) == expected, at
        shutil.rmtree(run)
    return len(places), ended


def expect_damage_noticed(run, folder, capture, rng, tries):
    """A file of a whole run is cut short, or a bit of it turned: nothing that is damaged is taken for whole.

    What tells a run's figures without a checksum, as text does, is left out: log.csv, metrics.json, recipe.json,
    environment.json, the page and the pictures.

    Returns:
        Of the tries how many went on to the right end, and how many were refused in a line.
    """
    expected, right = end_of(run), 0
    names = ["last/state.npz", "last/state-previous.npz", "best.keras", "last/best-previous.keras"]
    names = [name for name in names if (run / name).exists()]
    for attempt in range(tries):
        again = shutil.copytree(run, folder / "damaged")
        (again / "metrics.json").unlink()
        path = again / names[attempt % len(names)]
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        if rng.random() < 0.5:
            content = content[:place]
        else:
            content[place] ^= 1 << rng.randrange(8)
        path.unlink()  # it may have a second name
        path.write_bytes(content)
        capture()
        code = train(["--resume", str(again)])
        lines = capture()[1].splitlines()
        assert code in (0, 2), (path.name, place, code)
        if code == 0:
            assert end_of(again) == expected, (path.name, place)
            right += 1
        else:
            assert len(lines) == 1, lines
        shutil.rmtree(again)
    return right, tries - right
