"""Every instant at which a run may be killed, and what each command does with what is left then."""

import errno
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from kcifar import data
from kcifar.evaluate import main as evaluate
from kcifar.predict import main as predict
from kcifar.report import main as report
from kcifar.runs.folder import RunFolder
from kcifar.train import main as train
from tests.instants import distinct, failing, recorded

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

RECIPE = str(Path(__file__).parents[1] / "recipes" / "mixup.py")
TINY = ["model=tutorial_net()", "batch_size=20", "epochs=2", "schedule=none", "validation=0.2", "select_on=validation"]
FIRST = ["select_from_epoch=1"]
VARIANTS = {
    "sam-ema": [*FIRST, "sharpness_aware=SharpnessAware(rho=0.05)", "weight_ema=WeightEMA(decay=0.9)"],
    "frozen": [*FIRST, "pretrained=start.keras", "freeze=conv1,conv2", "transforms=[]"],
    "late": ["select_from_epoch=2", "early_stopping=EarlyStopping(patience=1)"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the images, an image alone, and weights to start from."""
    folder = tmp_path_factory.mktemp("instants")
    drawn = data.load("demo")
    arrays = {"x_train": drawn.train.images[:100], "y_train": drawn.train.labels[:100]}
    np.savez(folder / "images.npz", **arrays, x_test=drawn.test.images[:40], y_test=drawn.test.labels[:40])
    Image.fromarray(drawn.test.images[0]).save(folder / "one.png")
    return folder


@pytest.fixture(params=VARIANTS)
def command(request, folder, monkeypatch):
    """The command that trains a variant, without --out."""
    monkeypatch.chdir(folder)
    if not Path("start.keras").exists():
        assert train([RECIPE, *TINY, *FIRST, "epochs=1", "seed=7", "--data", "images.npz", "--out", "start"]) == 0
        shutil.copy("start/best.keras", "start.keras")
    return [RECIPE, *TINY, *VARIANTS[request.param], "--data", "images.npz"]


def end_of(run):
    """All that a run promises to give again, by name."""
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


def test_killed_at_any_instant_a_run_gives_what_it_would_have_given(command, tmp_path, capsys):
    """One epoch at most is lost; what can be told of the run is told, else one line says what to do."""
    with recorded(tmp_path / "whole", tmp_path / "instants") as recorder:
        assert train([*command, "--out", str(tmp_path / "whole")]) == 0
    assert recorder.written_in_place == {"writer.lock"}
    expected = end_of(tmp_path / "whole")
    epochs = [epochs_of(copy) for copy in recorder.copies]
    assert epochs == sorted(epochs, key=lambda count: -1 if count is None else count)
    assert set(epochs) == {None, 0, 1, 2}

    for copy in distinct(recorder.copies):
        run = str(tmp_path / "run")
        shutil.copytree(copy, run)
        before, had_best = epochs_of(run), Path(run, "best.keras").exists()
        for tell, arguments in ((evaluate, [run]), (report, [run]), (predict, [run, "one.png"])):
            capsys.readouterr()
            assert tell(arguments) == (0 if had_best else 2), copy
            assert had_best or len(capsys.readouterr().err.splitlines()) == 1
        ways = [["--resume", run]] if Path(run, "recipe.json").exists() else []
        ways += [[*command, "--out", run]] if before is None else []
        for way in ways:
            shutil.rmtree(run)
            shutil.copytree(copy, run)
            assert train(way) == 0, copy
            shown = capsys.readouterr().out
            trained = [f"epoch {epoch}/2" in shown for epoch in (1, 2)]
            assert trained == [(before or 0) < epoch for epoch in (1, 2)], copy
            assert end_of(Path(run)) == expected, copy
        shutil.rmtree(run)


def test_killed_while_it_goes_on_from_the_state_before(folder, tmp_path, monkeypatch):
    """The newest state is damaged: that of the first epoch takes its place, and the second is trained again."""
    monkeypatch.chdir(folder)
    command = [RECIPE, *TINY, *VARIANTS["sam-ema"], "--data", "images.npz", "--out", str(tmp_path / "whole")]
    assert train(command) == 0
    expected = end_of(tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", run)
    (run / "metrics.json").unlink()
    (run / "last" / "state.npz").write_bytes(b"")
    with recorded(run, tmp_path / "instants") as recorder:
        assert train(["--resume", str(run)]) == 0
    assert end_of(run) == expected
    for copy in distinct(recorder.copies):
        assert train(["--resume", str(copy)]) == 0, copy
        assert end_of(copy) == expected, copy


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error")])
def test_where_a_write_fails_a_line_says_so_and_nothing_is_lost(error, folder, tmp_path, monkeypatch, capsys):
    """Every seventh of the writes of a run, which then goes on to the end that it would have had."""
    monkeypatch.chdir(folder)
    command = [RECIPE, *TINY, *VARIANTS["late"], "--data", "images.npz", "--out"]
    with failing(tmp_path / "whole", 0, error) as whole:
        assert train([*command, str(tmp_path / "whole")]) == 0
    expected, failed = end_of(tmp_path / "whole"), 0
    for at in range(1 + error.errno % 3, whole.seen + 1, 7):
        run = tmp_path / f"run{at}"
        capsys.readouterr()
        with failing(run, at, error):
            code = train([*command, str(run)])
        errors = capsys.readouterr().err.splitlines()
        assert (code, len(errors)) in ((2, 1), (0, 0)), (at, errors)  # what can be done again is not complained of
        failed += code == 2
        before = epochs_of(run)
        assert train(["--resume", str(run)] if (run / "recipe.json").exists() else [*command, str(run)]) == 0, at
        shown = capsys.readouterr().out
        assert [f"epoch {epoch}/2" in shown for epoch in (1, 2)] == [(before or 0) < epoch for epoch in (1, 2)], at
        assert end_of(run) == expected, at
    assert failed > whole.seen / 7 * 0.7
