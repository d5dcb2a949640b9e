"""The command `kcifar.vote`: figures from plain Keras's predictions, what it writes, what a user can get wrong."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kcifar import data
from kcifar.data.dataset import validation_rows
from kcifar.evaluation import models
from kcifar.evaluation.scores import Scores
from kcifar.vote import main as vote
from kcifar.voting.selection import accuracies
from tests.voting.test_members import CLASSES, logits, make_run, student, write_images

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEEDS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """(folder with four runs, their images), not to be changed."""
    path = tmp_path_factory.mktemp("four")
    images = write_images(path / "images.npz", train=160, test=120)
    for seed in SEEDS:
        make_run(path / "runs" / f"seed{seed}", images, seed, model=student(seed, noise=2 - 0.2 * seed))
    return path / "runs", images


@pytest.fixture
def runs(four, tmp_path):
    """A copy of the folder with four runs."""
    return Path(shutil.copytree(four[0], tmp_path / "runs"))


def called(capsys, *arguments):
    """(stdout, lines of stderr) of a call that ends well."""
    capsys.readouterr()
    assert vote([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr()
    return said.out, said.err.strip().splitlines()


def refused(capsys, *arguments):
    """The one line on stderr of a call that does not, with nothing on stdout."""
    capsys.readouterr()
    assert vote([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith("vote: ")
    return line


# --- Figures ---


def probabilities(folder, split):
    """Of each run in plain Keras, (runs, n, classes)."""
    from kcifar.runs.folder import RunFolder

    outputs = np.stack([logits(RunFolder(folder / f"seed{seed}"), split.images) for seed in SEEDS])
    powers = np.exp(outputs - outputs.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def votes_of(given):
    """How many members are for each class, (n, classes)."""
    return np.stack([(given.argmax(-1) == k).sum(0) for k in range(len(CLASSES))], -1)


def voted(given, mode):
    """The class of each image; between equal numbers of votes the mean decides."""
    return (given.mean(0) + (votes_of(given) if mode == "hard" else 0)).argmax(-1)


def expected_sizes(on_validation, validation, on_test, test, mode):
    found = []
    for size in range(1, len(SEEDS) + 1):
        subsets = [list(subset) for subset in itertools.combinations(range(len(SEEDS)), size)]
        there = [(voted(on_validation[s], mode) == validation.labels).mean() for s in subsets]
        here = [(voted(on_test[s], mode) == test.labels).mean() for s in subsets]
        best = there.index(max(there))
        votes = votes_of(on_test[subsets[best]])
        ties = ((votes == votes.max(1, keepdims=True)).sum(1) > 1).sum()
        found.append((subsets[best], there[best], here[best], ties, here))
    return found


def test_the_figures_are_those_of_plain_keras(four, capsys):
    """Each is a count of images divided by all: equal but for the last bit of the division."""
    folder, images = four
    found = json.loads(called(capsys, folder, "--json")[0])
    dataset = data.load(images)
    validation = dataset.train.take(validation_rows(160, 0.5, 0))
    on_validation, on_test = probabilities(folder, validation), probabilities(folder, dataset.test)
    paths = [str(folder / f"seed{seed}") for seed in SEEDS]

    assert (found["test_images"], found["validation_images"], found["warnings"]) == (120, 80, [])
    assert [member["run"] for member in found["members"]] == paths
    for place, member in enumerate(found["members"]):
        right = on_test[place].argmax(1) == dataset.test.labels
        assert member["test_accuracy"] == pytest.approx(right.mean(), abs=1e-12)
        there = (on_validation[place].argmax(1) == validation.labels).mean()
        assert member["validation_accuracy"] == pytest.approx(there, abs=1e-12)
        low, high = member["test_accuracy_interval"]
        assert low < right.mean() < high
    predicted = on_test.argmax(-1)
    same = [[(one == other).mean() for other in predicted] for one in predicted]
    np.testing.assert_allclose(found["agreement"], same, atol=1e-12)
    for mode in ("soft", "hard"):
        expected = expected_sizes(on_validation, validation, on_test, dataset.test, mode)
        for size, (members, there, here, ties, every) in zip(found["sizes"][mode], expected, strict=True):
            assert size["members"] == [paths[place] for place in members]
            assert size["validation_accuracy"] == pytest.approx(there, abs=1e-12)
            assert size["test_accuracy"] == pytest.approx(here, abs=1e-12)
            assert size["ties"] == ties
            assert sorted(size["all_test_accuracies"]) == pytest.approx(sorted(every), abs=1e-12)
    best = max(found["sizes"]["soft"], key=lambda size: size["validation_accuracy"])
    assert found["best"] == {"mode": "soft", **best}
    assert found["soup"] is None


def test_the_mode_is_that_of_the_best(runs, capsys):
    both = [json.loads(called(capsys, runs, "--json", "--mode", mode)[0]) for mode in ("soft", "hard")]
    assert both[0]["sizes"] == both[1]["sizes"]
    for found, mode in zip(both, ("soft", "hard"), strict=True):
        best = max(found["sizes"][mode], key=lambda size: size["validation_accuracy"])
        assert found["best"] == {"mode": mode, **best}


def test_what_is_printed(runs, capsys):
    figures = json.loads(called(capsys, runs, "--json")[0])
    said, warnings = called(capsys, runs)
    assert warnings == []
    lines = said.splitlines()
    assert lines[0].startswith("4 members, 120 test images of ")
    assert lines[0].endswith("sizes chosen on 80 validation images")
    for place, member in enumerate(figures["members"], start=1):
        line = next(line for line in lines if member["run"] in line)
        assert line.split()[:4] == [
            str(place),
            member["run"],
            f"{member['validation_accuracy']:.2%}",
            f"{member['test_accuracy']:.2%}",
        ]
    for mode in ("soft", "hard"):
        start = next(place for place, line in enumerate(lines) if line.startswith(f"{mode} vote: ")) + 2
        for count, size in enumerate(figures["sizes"][mode]):
            cells = lines[start + count].split()
            every = size["all_test_accuracies"]
            shown = [f"{size[which]:.2%}" for which in ("validation_accuracy", "test_accuracy")]
            shown += [str(size["ties"])] * (mode == "hard") + [f"{np.mean(every):.2%}"]
            assert cells[: len(shown) + 1] == [str(count + 1), *shown]
            places = [str(1 + SEEDS.index(int(path[-1]))) for path in size["members"]]
            assert cells[-len(places) :] == places
    best = figures["best"]
    low, high = best["test_accuracy_interval"]
    accuracy = f"{best['test_accuracy']:.2%} on test (95 % interval {low:.1%} – {high:.1%})"
    assert lines[-1] == f"best: {len(best['members'])} members, soft vote (chosen on validation), {accuracy}"


def test_the_mean_of_the_weights(runs, four, capsys):
    """Linear models: the mean of the weights gives the mean of the logits."""
    test = data.load(four[1]).test
    mean = np.mean([keras.saving.load_model(runs / f"seed{seed}" / "best.keras").get_weights()[0] for seed in SEEDS], 0)
    outputs = (test.images.reshape(120, -1) / 255 - 0.5) @ np.float64(mean)
    scores = Scores(outputs - np.log(np.exp(outputs).sum(1, keepdims=True)), test.labels)
    found = json.loads(called(capsys, runs, "--soup", "--json")[0])["soup"]
    assert found["test_accuracy"] == pytest.approx(scores.accuracy, abs=1e-12)
    assert found["test_loss"] == pytest.approx(scores.loss, rel=1e-4)
    assert f"mean of the weights of all: {scores.accuracy:.2%} on test" in called(capsys, runs, "--soup")[0]


# --- The file ---


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_file_has_the_accuracy_that_was_named(mode, runs, four, tmp_path, capsys):
    out = tmp_path / "new folder" / "ensemble.keras"
    said, written = called(capsys, runs, "--mode", mode, "--out", out, "--json")
    assert written == [f"wrote {out}"]
    best = json.loads(said)["best"]
    assert len(best["members"]) == 3
    assert best["members"] != [str(runs / f"seed{seed}") for seed in SEEDS[:3]]  # so that others would show
    model, test = keras.saving.load_model(out), data.load(four[1]).test
    predicted = model.predict(np.float32(test.images), verbose=0).argmax(1)
    assert (predicted == test.labels).mean() == pytest.approx(best["test_accuracy"], abs=1e-12)
    assert sum("member" in layer.name for layer in model.layers if layer.count_params()) == len(best["members"])
    assert called(capsys, runs, "--mode", mode, "--out", out)[0].splitlines()[-1] == f"wrote {out}"


def test_a_second_call_opens_no_model(runs, capsys, monkeypatch):
    first = called(capsys, runs, "--json")[0]
    assert {path.name for path in (runs / "seed1" / "predictions").iterdir()} == {"test.npz", "validation.npz"}

    def opened(*_, **__):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(models, "load_model", opened)
    monkeypatch.setattr(keras.saving, "load_model", opened)
    assert called(capsys, runs, "--json")[0] == first
    (runs / "seed2" / "predictions" / "test.npz").unlink()
    with pytest.raises(AssertionError, match="was opened"):
        vote([str(runs)])


def test_what_is_kept_is_told_without_importing_keras(runs):
    """That takes longer than all the rest: eleven members are to vote in seconds."""
    vote([str(runs)])
    heavy = {"keras", "torch", "jax", "matplotlib", "scipy"}
    program = f"import sys; from kcifar.vote import main; main(sys.argv[1:]); print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program, str(runs)], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()", result.stderr


# --- What a user can get wrong ---


@pytest.mark.once
def test_stderr_is_empty_where_it_is_no_terminal(runs, capsys):
    """No trace of a progress bar in a log, or above the one line of an error."""
    for _ in range(2):
        assert vote([str(runs)]) == 0
        assert capsys.readouterr().err == ""


def test_overlapping_validation_images_are_warned_of(runs, four, capsys):
    make_run(runs / "seed7", four[1], 7, validation_seed=1)
    common = np.intersect1d(validation_rows(160, 0.5, 0), validation_rows(160, 0.5, 1))
    said, (warning,) = called(capsys, runs)
    assert warning.startswith("vote: warning: members were trained on validation images of others")
    assert f" {len(common)}, too few to choose on" in warning
    assert "5 members, soft vote (not chosen: " in said


def test_without_validation_images_no_size_is_chosen(runs, four, capsys):
    make_run(runs / "seed7", four[1], 7, validation=0.0)
    said, (warning,) = called(capsys, runs, "--json")
    assert warning.startswith("vote: warning: no training image was held out from all")
    found = json.loads(said)
    assert found["validation_images"] == 0
    assert found["members"][0]["validation_accuracy"] is None
    assert found["best"]["validation_accuracy"] is None
    assert len(found["best"]["members"]) == 5
    assert "5 members, soft vote (not chosen: no image is left to choose it on)" in called(capsys, runs)[0]


@pytest.mark.once
def test_no_members_and_one(runs, tmp_path, capsys):
    assert vote([]) == 2
    assert "the following arguments are required: RUN" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert f"'{tmp_path / 'empty'}' is no run" in refused(capsys, tmp_path / "empty")
    assert f"one member, '{runs / 'seed1'}'" in refused(capsys, runs / "seed1")
    assert "is named twice" in refused(capsys, runs, runs / "seed2")


@pytest.mark.once
def test_other_classes(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    make_run(Path("other"), write_images("other.npz", class_names=("w", "x", "y", "z")))
    line = refused(capsys, "seed1", "other")
    assert "'seed1' was trained on the classes ant, bee, cow, doe, 'other' on w, x, y, z" in line


@pytest.mark.once
def test_runs_without_a_model_that_opens(runs, capsys):
    best = runs / "seed3" / "best.keras"
    best.write_bytes(best.read_bytes()[:2000])
    assert f"'{best}'" in refused(capsys, runs)
    best.unlink()
    assert f"'{runs / 'seed3'}' has no best.keras" in refused(capsys, runs)


def test_what_cannot_be_written(runs, four, tmp_path, capsys):
    assert "ends in .keras" in refused(capsys, runs, "--out", tmp_path / "ensemble.h5")
    assert "give --out" in refused(capsys, runs, "--export", "onnx")
    for seed in SEEDS[1:]:
        shutil.rmtree(runs / f"seed{seed}")
    make_run(runs / "worse", four[1], model=student(9, noise=50.0))
    assert vote([str(runs), "--out", str(tmp_path / "one.keras")]) == 2
    assert f"one member is best, '{runs / 'seed1'}'" in capsys.readouterr().err
    assert not (tmp_path / "one.keras").exists()
    assert "size is 3; expected 2 to 2" in refused(capsys, runs, "--size", "3", "--out", tmp_path / "three.keras")
    assert "give --out" in refused(capsys, runs, "--all")
    for asked in (["--size", "2"], ["--all"]):
        assert vote([str(runs), *asked, "--out", str(tmp_path / "two.keras")]) == 0
        members = keras.saving.load_model(tmp_path / "two.keras").layers
        assert sum(isinstance(layer, keras.Model) for layer in members) == 2


def test_a_soup_of_different_architectures(runs, four, capsys):
    other = keras.Sequential([layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(4)])
    make_run(runs / "small", four[1], model=other)
    assert "different architectures" in refused(capsys, runs, "--soup")


@pytest.mark.once
def test_the_figures_are_of_distinguishable_members(four):
    """So that a wrong subset, mode or split would show in the figures above."""
    test = data.load(four[1]).test
    given = probabilities(four[0], test)
    scores = [Scores(np.log(of_member), test.labels) for of_member in given]
    subsets = list(itertools.combinations(range(4), 2)) + list(itertools.combinations(range(4), 3))
    assert len(set(accuracies(scores, subsets, "soft"))) >= 6
    assert (accuracies(scores, subsets, "soft") != accuracies(scores, subsets, "hard")).any()
