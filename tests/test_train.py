"""The command `kcifar.train`: a whole run, exact resume, and everything a user can get wrong."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kcifar import data
from kcifar.evaluate import main as evaluate
from kcifar.evaluation import models
from kcifar.train import main as train

pytestmark = pytest.mark.usefixtures("quick_compilation", "blank_pictures")

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
FILES = {
    "recipe.py", "recipe.json", "environment.json", "log.csv", "metrics.json", "best.keras", "last",
    "classes.png", "learning_rate.png", "curves.png", "confusion.png", "predictions.png", "predictions", "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An .npz with 200 + 100 of the drawn images: enough for runs of a second."""
    drawn = data.load("demo")
    path = tmp_path_factory.mktemp("small") / "small.npz"
    arrays = {"x_train": drawn.train.images[:200], "y_train": drawn.train.labels[:200]}
    np.savez(path, **arrays, x_test=drawn.test.images[:100], y_test=drawn.test.labels[:100])
    return path


@pytest.fixture(scope="module")
def finished(quick_compilation, small, tmp_path_factory):
    """A finished run of three epochs, not to be changed."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert train([str(RECIPES / "mixup.py"), "epochs=3", "--data", str(small), "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of three epochs."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows(run):
    with open(run / "log.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_folder_holds_all_that_is_promised(run):
    assert {path.name for path in run.iterdir()} == FILES
    assert (run / "recipe.py").read_text() == (RECIPES / "mixup.py").read_text()
    assert json.loads((run / "recipe.json").read_text())["epochs"] == 3
    assert {"keras", "backend", "device", "data_sha256", "started"} <= set(
        json.loads((run / "environment.json").read_text())
    )
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == len(metrics["seconds_per_epoch"]) == 3
    assert metrics["images_per_second"] == pytest.approx(3 * 192 / metrics["train_seconds"])
    assert metrics["peak_memory_bytes"] > 1e8


def test_metrics_are_those_of_the_best_epoch_and_the_saved_model(run, small):
    """select_from_epoch is 10, the run has 3: the last epoch is the only one that may be chosen."""
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["best_epoch"] == 3
    assert metrics["selected_on"] == "test"
    assert metrics["test_accuracy"] == pytest.approx(float(rows(run)[-1]["test_accuracy"]), abs=1e-6)
    model = keras.saving.load_model(run / "best.keras")
    assert not model.compiled
    assert not any("kcifar" in type(layer).__module__ for layer in model.layers)
    with np.load(small) as arrays:
        accuracy = (model.predict(arrays["x_test"], verbose=0).argmax(1) == arrays["y_test"]).mean()
    assert metrics["test_accuracy"] == pytest.approx(accuracy)


@pytest.mark.once
def test_test_set_is_read_once_unless_it_selects(small, tmp_path):
    path = tmp_path / "honest"
    overrides = ["epochs=2", "validation=0.2", "select_on=validation", "select_from_epoch=1"]
    assert train([str(RECIPES / "mixup.py"), *overrides, "--data", str(small), "--out", str(path)]) == 0
    row = rows(path)[0]
    assert "validation_accuracy" in row
    assert "test_accuracy" not in row
    metrics = json.loads((path / "metrics.json").read_text())
    best = max(rows(path), key=lambda row: float(row["validation_accuracy"]))
    assert str(metrics["best_epoch"]) == best["epoch"]


@pytest.mark.once
def test_early_stopping_ends_a_run_and_resuming_it_trains_no_further(small, tmp_path, capsys):
    path = tmp_path / "stopped"
    overrides = [
        "epochs=30",
        "early_stopping=EarlyStopping(patience=1)",
        "optimizer.learning_rate=0.0",
        "schedule=none",
    ]
    assert train([str(RECIPES / "mixup.py"), *overrides, "--data", str(small), "--out", str(path)]) == 0
    stopped_after = len(rows(path))
    assert stopped_after < 30
    assert "complete" not in capsys.readouterr().out
    assert train(["--resume", str(path)]) == 0
    assert "this run was complete" in capsys.readouterr().out
    assert len(rows(path)) == stopped_after


def test_a_selecting_test_set_is_said_wherever_it_is_shown(run, capsys):
    assert evaluate([str(run)]) == 0
    assert "not an honest estimate" in capsys.readouterr().out


def test_evaluate_prints_accuracy_loss_and_every_class(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    capsys.readouterr()
    assert evaluate([str(run)]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy           {metrics['test_accuracy']:.2%}  (95 % interval" in printed
    assert f"loss               {metrics['test_loss']:.4f}\n" in printed
    classes = [line.split()[0] for line in printed.splitlines() if re.fullmatch(r"\w+ +[\d.]+%", line)]
    assert classes == list(data.CLASS_NAMES)


def test_evaluate_with_test_time_augmentation_says_so(run, capsys):
    test = data.load(json.loads((run / "recipe.json").read_text())["data"]).test
    losses = [models.evaluate(models.load_model(run / "best.keras"), test, tta).loss for tta in ("none", "flip")]
    assert f"{losses[0]:.4f}" != f"{losses[1]:.4f}"
    assert evaluate([str(run), "--tta", "flip"]) == 0
    said = capsys.readouterr().out
    assert "small.npz, test-time augmentation flip\n" in said
    assert f"loss               {losses[1]:.4f}\n" in said
    assert evaluate([str(run), "--tta", "flop"]) == 2
    assert "argument --tta: 'flop' is unknown; did you mean 'flip'?" in capsys.readouterr().err


def test_dry_run_writes_nothing(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train([str(RECIPES / "mixup.py"), "--data", str(small), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "float32" in printed
    assert "6 of 32 an epoch, 1,200 in 200 epochs" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
def test_default_folder_is_named_after_recipe_and_seed_and_never_reused(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert train([str(RECIPES / "tutorial_net.py"), "epochs=1", "--seed", "3", "--data", str(small)]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tutorial_net-seed3", "tutorial_net-seed3-2"]


RESUMED = ["epochs=4", "validation=0.2", "select_on=validation", "early_stopping=EarlyStopping(patience=3)"]
UNFROZEN = ["freeze=conv1,norm1", "unfreeze_epoch=2"]
AVERAGED = [
    "sharpness_aware=SharpnessAware(rho=0.5,adaptive=True)",
    "weight_ema=WeightEMA(decay=0.9)",
    "loss=AsymmetricLoss()",
    "schedule=WarmupCosine(warmup_epochs=1)",
]


@pytest.mark.once  # on JAX those of tests/callbacks/test_unfreeze.py
@pytest.mark.parametrize(
    "overrides", [RESUMED + UNFROZEN + ["accumulate=3"], RESUMED + AVERAGED], ids=["unfrozen", "asam-ema"]
)
def test_killed_and_resumed_equals_uninterrupted_to_the_last_bit(small, tmp_path, overrides):
    """SIGKILL in epoch 3; dropout, MixUp, schedule, Adam's slots, averages, patience and best epoch have to go on."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [str(RECIPES / "mixup.py"), *overrides, "--data", str(small), "--out"]
    assert train([*command, str(whole)]) == 0
    # In another process: what ends with it, as the state of a generator, shows too.
    process = subprocess.Popen(
        [sys.executable, "-m", "kcifar.train", *command, killed], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(rows(killed)) < 4
    assert train(["--resume", str(killed)]) == 0

    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    with np.load(whole / "last" / "state.npz") as one, np.load(killed / "last" / "state.npz") as other:
        assert one.files == other.files
        assert all(np.array_equal(one[name], other[name]) for name in one.files if name != "record")
    assert timeless(whole) == timeless(killed)


def test_the_average_is_what_is_evaluated_and_saved(small, tmp_path, capsys):
    """The file's accuracy and loss on each split, in plain Keras, are those logged for its epoch."""
    out = tmp_path / "run"
    command = ["validation=0.2", "select_on=validation", "epochs=4", "--data", str(small), "--out", str(out)]
    assert train([str(RECIPES / "mixup.py"), *AVERAGED, *command]) == 0
    assert "WeightEMA(decay=0.9)" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    model = keras.saving.load_model(out / "best.keras")
    dataset = data.load(str(small)).split_validation(0.2, 0)
    best = rows(out)[metrics["best_epoch"] - 1]
    for name in ("train", "validation"):
        split = getattr(dataset, name)
        predicted = model.predict(split.images.astype("float32"), verbose=0).argmax(axis=1)
        assert (predicted == split.labels).mean() == pytest.approx(float(best[f"{name}_accuracy"]), abs=1e-6)
    predicted = model.predict(dataset.test.images.astype("float32"), verbose=0).argmax(axis=1)
    assert (predicted == dataset.test.labels).mean() == pytest.approx(metrics["test_accuracy"], abs=1e-12)


@pytest.mark.parametrize("sharpness_aware", [pytest.param("none", marks=pytest.mark.once), "SharpnessAware(rho=0.05)"])
def test_a_loss_that_is_no_number_ends_the_run_and_the_last_good_checkpoint_stays(
    small, tmp_path, capsys, sharpness_aware
):
    """The learning rate explodes at epoch 3."""
    out = tmp_path / "run"
    overrides = ["schedule=PiecewiseConstant(boundary_epochs=(2,),factors=(1,1e30))", "epochs=4"]
    kind = f"sharpness_aware={sharpness_aware}"
    line = complaint(capsys, train, RECIPES / "mixup.py", *overrides, kind, "--data", small, "--out", out)
    assert "the loss is nan in epoch 3 at step " in line or "the loss is inf in epoch 3 at step " in line
    assert "the checkpoint of epoch 2 stays" in line
    assert line.endswith(f"--resume {out} optimizer.global_clipnorm=1 --out NEW")
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    with np.load(out / "last" / "state.npz") as state:
        assert all(np.isfinite(state[name]).all() for name in state.files)
        assert json.loads(state["record"].tobytes())["epochs"] == 2


@pytest.mark.once
def test_a_loss_that_is_no_number_from_the_start_says_that_nothing_was_saved(small, tmp_path, capsys):
    out = tmp_path / "run"
    rate = ["optimizer=SGD(learning_rate=1e30)", "schedule=none"]
    line = complaint(capsys, train, RECIPES / "mixup.py", *rate, "--data", small, "--out", out)
    assert "in epoch 1 at step " in line
    assert "nothing was saved yet" in line


@pytest.mark.once
@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("can't allocate memory: you tried 9 bytes")])
def test_where_memory_ends_the_line_says_what_to_try(small, tmp_path, monkeypatch, capsys, error):
    def fit(model, *arguments, **options):
        raise error

    monkeypatch.setattr(keras.Model, "fit", fit)
    command = [RECIPES / "mixup.py", "--data", small, "--out"]
    line = complaint(capsys, train, *command, tmp_path / "run", "batch_size=20")
    assert f"out of memory ({error}) with batch_size=20 in float32: start a new run with accumulate=2 (the" in line
    line = complaint(capsys, train, *command, tmp_path / "parts", "batch_size=7", "accumulate=4")
    assert "start a new run with batch_size=3 or" in line


@pytest.mark.once
def test_evaluate_says_how_sharp_the_minimum_is(run, capsys):
    assert evaluate([str(run), "--sharpness", "--images", "100", "--rho", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "sharpness, CategoricalCrossentropy() on 100 training images" in said
    assert "uphill at radius 0.1" in said
    assert "top eigenvalue of the Hessian" in said
    assert "--rho is 0.0; expected a number above 0" in complaint(capsys, evaluate, run, "--sharpness", "--rho", "0")
    assert "give --sharpness too" in complaint(capsys, evaluate, run, "--images", "10")


def timeless(run):
    """The run's metrics without what a clock or the machine had a part in."""
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("feature_seconds", "train_seconds", "seconds_per_epoch", "images_per_second", "peak_memory_bytes"):
        del metrics[name]
    return metrics


@pytest.fixture
def broken(tmp_path):
    """Recipe files that are wrong, by what is wrong with them."""
    text = (RECIPES / "mixup.py").read_text()
    files = {
        "does not parse": "recipe = Recipe(\n",
        "does not run": "1 / 0",
        "defines nothing": "x = 1",
        "wrong type": text.replace("epochs=200", "epochs='many'"),
        "unknown model": text.replace('"elu_cnn"', '"elu_cn"'),
        "unknown transform": text.replace('"MixUp"', '"Mixup"'),
        "unknown argument": text.replace("alpha=0.4", "alfa=0.4"),
        "missing field": text.replace("    epochs=200,\n", ""),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    return tmp_path


def complaint(capsys, command, *arguments):
    """Runs a command in this process and gives its one line on stderr."""
    capsys.readouterr()
    assert command([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("does not parse", "line 1"),
        ("does not run", "ZeroDivisionError"),
        ("defines nothing", "expected recipe = Recipe("),
        ("wrong type", "'epochs' is 'many'; expected a whole number"),
        ("unknown model", "did you mean 'elu_cnn'?"),
        ("unknown transform", "did you mean 'MixUp'?"),
        ("unknown argument", "did you mean 'alpha'?"),
        ("missing field", "epochs"),
        ("missing file", "no recipe at"),
    ],
)
def test_wrong_recipes(broken, small, capsys, name, said):
    out = broken / "out"
    line = complaint(capsys, train, broken / f"{name}.py", "--data", small, "--out", out)
    assert said in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epoch=3", "did you mean 'epochs'?"),
        ("epochs=three", "expected a whole number"),
        ("epochs=0", "at least 1"),
        ("epochs", "expected key=value"),
        ("optimizer.lr=1", "Adam has no argument 'lr'; did you mean 'learning_rate'?"),
        ("optimizer.learning_rate=none", "expected a number"),
        ("optimizer.learning_rate=fast", "expected a number"),
        ("optimizer.learning_rate=-1.0", "expected a number ≥ 0"),
        ("transforms.MixUp.alpha=-1", "MixUp(alpha=-1.0): expected a number ≥ 0"),
        ("transforms.RandomCrop.size=64", "larger than the padded image"),
        ("batch_size=500", "200 images"),
        ("batch_size=0", "at least 1"),
        ("validation=1.5", "fraction"),
        ("select_on=tests", "'validation', 'test' or 'last'"),
        ("select_on=validation", "validation=0.1"),
        ("optimizer=Adagrad(learning_rate=1.0)", "unknown"),
        ("optimizer=Adam()", "'learning_rate' is missing"),
        ("schedule=CyclicLR(base=2,maximum=1,step_size_up=3)", "0 ≤ base ≤ maximum"),
        ("model.depth=3", "unknown option 'depth'"),
        ("model=elu_cnn(seed=3)", "follows from the recipe"),
        ("precision=float16", "'float32' or 'bfloat16'"),
        ("std=(0.0,0.1,0.1)", "positive"),
        ("mean=none", "both"),
        ("seed=-1", "2**64"),
        ("early_stopping=EarlyStopping(patience=0)", "at least 1 epoch"),
        ("early_stopping=EarlyStopping(patience=3) select_on=last", "select on 'validation'"),
        ("optimizer.global_clipnorm=0.0", "expected above 0, or None"),
        ("sharpness_aware=SharpnessAware(rho=0.0)", "rho=0.0"),
        ("sharpness_aware=SharpnessAware(rho=0.1,adaptive=True,eta=-0.5)", "eta=-0.5"),
        ("sharpness_aware=SAM(rho=0.1)", "known: SharpnessAware"),
        ("sharpness_aware=SharpnessAware(model=3)", "has no argument 'model'"),
        ("weight_ema=WeightEMA(decay=1.0)", "decay=1.0"),
        ("weight_ema=WeightEMA()", "'decay' is missing"),
        ("loss=AsymmetricLoss(gamma_neg=-1.0)", "gamma_neg=-1.0"),
        ("loss=AsymmetricLoss(from_logits=False)", "has no argument 'from_logits'"),
        ("schedule=WarmupCosine(warmup_epochs=200)", "less than all"),
        ("schedule=WarmupCosine(learning_rate=1.0)", "has no argument 'learning_rate'"),
        ("schedule=StepDecay(decay_epochs=0)", "at least 1"),
        ("schedule=PiecewiseConstant(boundary_epochs=(5,3),factors=(1,0.5,0.1))", "rising whole numbers"),
        ("schedule=PiecewiseConstant(boundary_epochs=(5,),factors=(1,))", "one factor more"),
        ("schedule=OneCycle(up_epochs=200)", "less than all"),
        ("transforms=[ColorJitter(hue=0.6)]", "at most 0.5"),
        ("transforms=[Cutout(size=0)]", "at least 1"),
        ("transforms=[Resize(size=40)]", "the transforms give images of 40×40 pixels, the model takes 32×32"),
        ("transforms=[Resize(size=40)] resize=48 center_crop=44", "40×40 pixels, the model takes 32×32 or 44×44"),
        ("transforms=[CenterCrop(size=40)]", "use a smaller crop"),
        ("model=elu_cnn(resize=64)", "follows from the recipe"),
        ("center_crop=40", "use a smaller crop"),
        ("resize=28 model=densenet121()", "(28, 28, 3) cannot be built"),
        ("freeze=layer9", "no group of layers 'layer9'"),
        ("model=resnet20() freeze=stem,layer1,layer2,layer3,head", "leaves nothing to train"),
        ("unfreeze_epoch=3", "freeze is empty"),
        ("pretrained=weights.pth", "no weights at 'weights.pth'"),
        ("pretrained=resnet18", "or a name, as torchvision/resnet18"),
        ("pretrained=torchvision/resnet19", "did you mean 'resnet18'?"),
    ],
)
@pytest.mark.once
def test_wrong_overrides(small, tmp_path, capsys, override, said):
    out = tmp_path / "out"
    line = complaint(capsys, train, RECIPES / "mixup.py", *override.split(" "), "--data", small, "--out", out)
    assert said in line
    assert not out.exists()


def test_wrong_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # its paths are short in a line
    assert "did you mean 'demo'?" in complaint(capsys, train, RECIPES / "mixup.py", "--data", "dmeo")
    half = tmp_path / "cifar-10-batches-py"
    half.mkdir()
    (half / "data_batch_1").write_bytes(b"")
    line = complaint(capsys, train, RECIPES / "mixup.py", "--data", half)
    assert "data_batch_2" in line
    assert "test_batch" in line
    np.savez(tmp_path / "half.npz", x_train=np.zeros((1, 32, 32, 3), np.uint8))
    assert "y_train" in complaint(capsys, train, RECIPES / "mixup.py", "--data", tmp_path / "half.npz")


def test_an_existing_run_is_never_touched(run, small, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    mixup = RECIPES / "mixup.py"
    assert "--resume" in complaint(capsys, train, mixup, "--data", small, "--out", run)
    said = complaint(capsys, train, RECIPES / "elu_cnn.py", "--data", small, "--resume", run)
    assert "run of another recipe" in said
    assert "seed is 42 there" in complaint(capsys, train, "seed=1", "--resume", run)
    assert "choose another" in complaint(capsys, train, mixup, "--data", small, "--out", run / "log.csv")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resuming_what_cannot_be_resumed(run, small, tmp_path, monkeypatch, capsys):
    assert "is no run" in complaint(capsys, train, "--resume", tmp_path / "nowhere")
    assert "is no run" in complaint(capsys, train, "--resume", tmp_path)
    assert "is no run" in complaint(capsys, evaluate, tmp_path)
    environment = (run / "environment.json").read_text()
    (run / "environment.json").write_text("{}")
    assert "environment.json' is damaged" in complaint(capsys, train, "--resume", run)
    (run / "environment.json").write_text(environment)
    for state in (run / "last").glob("*.npz"):
        state.write_bytes(state.read_bytes()[:1000])
    monkeypatch.chdir(run.parent)  # a line with long paths is cut
    line = complaint(capsys, train, "--resume", run.name)
    assert re.search(r"state\.npz' is damaged .* and so is state-previous\.npz: start a new run", line)
    (run / "best.keras").write_bytes(b"no model")
    assert "cannot be opened" in complaint(capsys, evaluate, run)
    (run / "recipe.json").write_text("{")
    assert "not JSON" in complaint(capsys, evaluate, run)


@pytest.mark.once
def test_a_run_killed_in_its_first_epoch_starts_again(run, finished):
    """Between log.csv and the first state there is a log, a half-written file, and nothing to go on from."""
    shutil.rmtree(run / "last")
    (run / "best.keras").rename(run / ".kcifar-best-abc.keras")
    assert train(["--resume", str(run)]) == 0
    assert (run / "log.csv").read_bytes() == (finished / "log.csv").read_bytes()
    assert {path.name for path in run.iterdir()} == FILES


def test_resuming_on_other_images_is_refused(run, small, capsys):
    with np.load(small) as arrays:
        other = {name: arrays[name].copy() for name in arrays.files}
    other["x_train"][0, 0, 0, 0] ^= 1
    np.savez(small, **other)
    try:
        assert "other images" in complaint(capsys, train, "--resume", run)
    finally:
        other["x_train"][0, 0, 0, 0] ^= 1
        np.savez(small, **other)


def test_a_folder_that_cannot_be_written(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = complaint(capsys, train, RECIPES / "mixup.py", "--data", small, "--out", tmp_path / "file" / "run")
    assert "cannot write the run" in line


@pytest.mark.once
def test_a_full_disk_ends_a_run_in_one_line_and_keeps_the_last_epoch(small, tmp_path, capsys, monkeypatch):
    path = tmp_path / "full"
    save, saved = np.savez, []

    def full(*arguments, **arrays):
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(save(*arguments, **arrays))

    monkeypatch.setattr(np, "savez", full)
    line = complaint(capsys, train, RECIPES / "mixup.py", "epochs=3", "--data", small, "--out", path)
    assert "No space left on device" in line
    monkeypatch.undo()
    assert sorted(p.name for p in (path / "last").iterdir()) == ["state.npz"]
    assert train(["--resume", str(path)]) == 0
    assert len(rows(path)) == 3


@pytest.mark.once
def test_in_a_process_of_its_own_there_is_no_traceback(tmp_path):
    """What the in-process tests cannot see: the exit code and stderr of the real command."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "kcifar.train", "recipes/mixpu.py"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["train: no recipe at 'recipes/mixpu.py'; did you mean 'recipes/mixup.py'?"]


@pytest.mark.once
def test_interrupting_says_how_to_go_on(small, tmp_path):
    """Also where the process starts with SIGINT ignored, as behind `nohup make test &` of a script."""
    command = [sys.executable, "-m", "kcifar.train", RECIPES / "mixup.py", "epochs=9", "--data", small]
    ignoring = ["sh", "-c", "trap '' INT && exec \"$@\"", "sh", *command, "--out", tmp_path / "run"]
    process = subprocess.Popen(ignoring, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines() == [f"interrupted; go on with: python -m kcifar.train --resume {tmp_path / 'run'}"]


@pytest.mark.once
@pytest.mark.parametrize("backend", ["jx", "tensorflow"])
def test_another_backend_is_refused_in_one_line(backend):
    command = [sys.executable, "-m", "kcifar.train", RECIPES / "demo.py", "--dry-run"]
    result = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"train: the variable KERAS_BACKEND is '{backend}'; expected torch or jax: unset it or set one of them"
    ]


@pytest.mark.once
def test_a_run_goes_on_when_the_reader_of_its_output_is_gone(small, tmp_path):
    command = [sys.executable, "-m", "kcifar.train", RECIPES / "mixup.py", "epochs=2", "--data", small]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--out", tmp_path / "run"], **pipes) as process:
        next(line for line in process.stdout if line.startswith("run "))
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert len(rows(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "metrics.json").exists()


def test_what_is_no_python_file_is_no_recipe(small, capsys):
    assert "expected a Python file" in complaint(capsys, train, small)


def test_a_run_in_bfloat16(small, tmp_path, capsys):
    """It says so, learns as much, and its file computes in bfloat16 in plain Keras too."""
    assert train([str(RECIPES / "mixup.py"), "epochs=2", "precision=bfloat16", "--data", str(small), "--dry-run"]) == 0
    assert "bfloat16" in capsys.readouterr().out
    out = tmp_path / "run"
    command = [str(RECIPES / "mixup.py"), "epochs=2", "precision=bfloat16", "--data", str(small), "--out", str(out)]
    assert train(command) == 0
    model = keras.saving.load_model(out / "best.keras", compile=False)
    assert model.get_layer("conv2").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert json.loads((out / "recipe.json").read_text())["precision"] == "bfloat16"


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked for huge pages")
@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [
        ("jax", None, "glibc.malloc.hugetlb=1"),
        ("torch", None, None),
        ("jax", "glibc.malloc.check=0", "glibc.malloc.check=0"),
    ],
)
def test_jax_gets_huge_pages(tmp_path, backend, given, expected):
    """In the process that was started, with its arguments; what the user set stays."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import os, sys\nsys.exit(f'{os.getpid()} {os.environ.get(\"GLIBC_TUNABLES\")} {sys.argv[2:]}')")
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"KERAS_BACKEND": backend} | ({"GLIBC_TUNABLES": given} if given else {})
    command = [sys.executable, "-m", "kcifar.train", recipe, "epochs=1"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said = process.communicate()[1]
    assert f"{process.pid} {expected} ['epochs=1']" in said
