"""A new run that goes on where another is, with something changed."""

import json
import shutil
from pathlib import Path

import pytest

from kcifar.experiment.planning import plan
from kcifar.runs.folder import RunFolder
from kcifar.train import main as train
from tests.data_fixtures import write_drawn

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("blank_pictures")]

RECIPE = str(Path(__file__).parents[2] / "recipes" / "mixup.py")
TINY = ["model=tutorial_net()", "batch_size=20", "schedule=none", "optimizer=Adam(learning_rate=0.001)"]
PARTS = ["weight_ema=WeightEMA(decay=0.9)", "sharpness_aware=SharpnessAware(rho=0.05)", "select_from_epoch=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With images, and a run of two epochs."""
    folder = tmp_path_factory.mktemp("branching")
    write_drawn(folder / "images.npz", 60, 40)
    begin(folder, folder / "run", "epochs=2")
    return folder


def begin(folder, out, *overrides):
    arguments = [RECIPE, *TINY, *PARTS, *overrides, "--data", str(folder / "images.npz"), "--out", str(out)]
    assert train(arguments) == 0


def branched(folder, out, *overrides):
    assert train(["--resume", str(folder / "run"), *overrides, "--out", str(out)]) == 0
    return RunFolder(out)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(run):
    return (run / "log.csv").read_text().splitlines()[1:]


def test_with_nothing_changed_it_is_the_run_that_went_on(folder, tmp_path, capsys):
    """And says where it comes from; of the first run nothing is changed. Killed before its first epoch, it goes on."""
    before = files(folder / "run")
    new = branched(folder, tmp_path / "new", "epochs=4")
    assert "continues" in capsys.readouterr().out
    assert files(folder / "run") == before
    begin(folder, tmp_path / "whole", "epochs=4")
    whole = RunFolder(tmp_path / "whole")
    expected, found = whole.last.read().arrays, new.last.read().arrays
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
    assert rows(new.path) == rows(whole.path)[2:]
    metrics = json.loads(new.metrics.read_text())
    assert metrics["best_epoch"] >= 3
    assert (metrics["epochs"], len(metrics["seconds_per_epoch"])) == (4, 2)
    origin = new.began_in()["continues"]
    assert origin == {"run": str(folder / "run"), "epochs": 2, "changed": {"epochs": ["2", "4"]}}
    page = new.report.read_text()
    assert "behind epoch 2, with epochs 4, not 2" in page

    killed = RunFolder(tmp_path / "killed")
    killed.path.mkdir()
    for path in (new.recipe_json, new.recipe_source, new.environment):
        shutil.copy(path, killed.path)
    killed.last.make()
    shutil.copy(new.last.previous, killed.last.newest)  # behind epoch 3
    assert train(["--resume", str(killed.path)]) == 0
    assert all((expected[name] == found).all() for name, found in killed.last.read().arrays.items())


def test_the_optimizer_is_kept_and_what_is_given_changed(folder, tmp_path):
    """By a learning rate of 0 the weights stay; Adam's averages of gradients go on from those that there were."""
    new = branched(
        folder, tmp_path / "new", "epochs=3", "optimizer.learning_rate=0", "batch_size=30", "weight_ema=none"
    )
    state, before = new.last.read(), RunFolder(folder / "run").last.read()
    planned = plan(new.recipe)
    names = [variable.path for variable in planned.model.trainable_variables]
    place = [index for index, v in enumerate(planned.model.variables) if v.path in names]
    averages = dict(zip(_floats(planned.model), before.record["callbacks"][0]["others"], strict=True))
    for index in place:
        assert (state.arrays[f"variable_{index}"] == averages[index]).all()  # the weights, not their averages
    assert state.arrays["learning_rate"] == 0
    assert rows(new.path)[0].startswith("3,0.0,")
    assert state.arrays["optimizer_0"] == 3 * 2  # steps of three epochs of two batches
    assert not (state.arrays["optimizer_1"] == before.arrays["optimizer_1"]).all()
    assert set(new.began_in()["continues"]["changed"]) == {"epochs", "optimizer", "batch_size", "weight_ema"}


def _floats(model):
    return [index for index, v in enumerate(model.variables) if "float" in v.dtype]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "is behind epoch 2 already, and epochs is 2: give more, as epochs=4"),
        (["epochs=3", "optimizer=SGD(learning_rate=0.1)"], "cannot go on with the state of Adam"),
        (["epochs=3", "model=elu_cnn()"], "saved from another model or optimizer"),
    ],
)
def test_what_it_cannot_go_on_with_is_refused(overrides, expected, folder, tmp_path, capsys):
    capsys.readouterr()
    assert train(["--resume", str(folder / "run"), *overrides, "--out", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "new").exists()
