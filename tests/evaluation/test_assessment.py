"""What `kcifar.evaluate` tells of a run, against plain Keras's predictions."""

import json
import shutil

import numpy as np
import pytest

from kcifar import InputError, data
from kcifar.evaluate import main as evaluate
from kcifar.evaluation import models
from kcifar.evaluation.assessment import Assessment, assess
from kcifar.evaluation.scores import Scores, best_temperature
from kcifar.runs import folder
from tests.voting.test_members import CLASSES, logits, make_run, student, write_images

pytestmark = pytest.mark.once


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images.npz", train=160, test=120)


@pytest.fixture
def run(images, tmp_path):
    return make_run(tmp_path / "run", images, model=student(0, noise=1.3))


def scores(run, split, flip=False):
    outputs = logits(run, split.images)
    if flip:
        outputs = (outputs + logits(run, split.images[:, :, ::-1])) / 2
    return Scores(outputs - np.log(np.exp(outputs).sum(1, keepdims=True)), split.labels)


def printed(capsys, *arguments):
    capsys.readouterr()
    assert evaluate([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert evaluate([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


def cells(text, name):
    """The words of the line that begins with a name, behind it."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).split()


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_figures_before_and_after_temperature(run, images, tta, capsys):
    dataset = data.load(images).split_validation(0.5, 0)
    test = scores(run, dataset.test, tta == "flip")
    temperature = best_temperature(scores(run, dataset.validation, tta == "flip"))
    assert abs(temperature - 1) > 0.1
    text = printed(capsys, run.path, *(["--tta", tta] if tta != "none" else []))
    low, high = test.accuracy_interval()
    assert cells(text, "accuracy") == [
        f"{test.accuracy:.2%}",
        "(95",
        "%",
        "interval",
        f"{low:.2%}",
        "–",
        f"{high:.2%})",
    ]
    assert cells(text, "top-2 accuracy") == [f"{test.top(2):.2%}"]
    tempered = test.tempered(temperature)
    for name, figure in (("loss", "loss"), ("Brier score", "brier"), ("calibration error", "calibration_error")):
        before, *_, after = cells(text, name)
        # printed with four digits, of float32 outputs
        assert float(before) == pytest.approx(getattr(test, figure), abs=1e-4)
        assert float(after) == pytest.approx(getattr(tempered, figure), abs=2e-4)
        assert before != after
    found = cells(text, "temperature")
    assert float(found[0].rstrip(",")) == pytest.approx(temperature, rel=2e-3)
    assert found[1:] == ["fitted", "on", "80", "validation", "images"]
    assert ("test-time augmentation flip" in text) == (tta == "flip")
    assert "not an honest estimate" not in text


def test_json_holds_the_figures_of_plain_keras(run, images, capsys):
    dataset = data.load(images).split_validation(0.5, 0)
    test = scores(run, dataset.test)
    temperature = best_temperature(scores(run, dataset.validation))
    found = json.loads(printed(capsys, run.path, "--json"))
    assert (found["test_accuracy"], found["test_images"]) == (test.accuracy, 120)
    assert (found["model"], found["data"], found["test_time_augmentation"]) == (str(run.best), str(images), "none")
    assert found["test_accuracy_interval"] == list(test.accuracy_interval())
    assert found["confusion"] == test.confusion.tolist()
    assert found["temperature"] == pytest.approx(temperature, rel=1e-3)
    for name, of in (
        ("test_loss", "loss"),
        ("test_brier_score", "brier"),
        ("test_calibration_error", "calibration_error"),
    ):
        assert found[name] == pytest.approx(getattr(test, of), abs=1e-5)  # of float32 outputs
        assert found["with_temperature"][name] == pytest.approx(getattr(test.tempered(temperature), of), abs=1e-4)
    accuracies = [float(np.mean(test.correct[test.labels == label])) for label in range(len(CLASSES))]
    assert [each["test_accuracy"] for each in found["classes"]] == pytest.approx(accuracies)
    (first, *_) = found["mistakes"]
    assert first["label"] != first["predicted"]
    assert first["probability"] == pytest.approx(max(test.confidence[~test.correct]))
    assert found["sharpness"] is None


def test_the_confusion_the_classes_and_the_worst_mistakes(run, images, capsys):
    test = scores(run, data.load(images).test)
    text = printed(capsys, run.path)
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("label and, of its images"))
    assert lines[start + 1].split() == list(CLASSES)
    for place, name in enumerate(CLASSES):
        right = np.flatnonzero(test.labels == place)
        share = (test.predicted[right] == place).mean()
        assert [name, f"{share:.2%}"] in [line.split() for line in lines]
        row = [((test.labels == place) & (test.predicted == other)).sum() for other in range(4)]
        assert lines[start + 2 + place].split() == [name, *map(str, row)]
    start = next(place for place, line in enumerate(lines) if "mistakes it is most confident of" in line)
    wrong = [place for place in range(120) if test.predicted[place] != test.labels[place]]
    wrong.sort(key=lambda place: -test.confidence[place])
    assert len(lines) == start + 1 + 10
    for line, place in zip(lines[start + 1 :], wrong[:10], strict=True):
        label, predicted = CLASSES[test.labels[place]], CLASSES[test.predicted[place]]
        assert line.startswith(f"test image {place:>5}  {label}, predicted {predicted} ")
        assert float(line.split()[-1].rstrip("%")) == pytest.approx(100 * test.confidence[place], abs=0.01)


def test_many_classes_are_told_by_the_best_the_worst_and_the_most_frequent_mistakes(tmp_path):
    """Of 24 classes with 5 test images each, the last without any: class k is right k % 6 times, else taken for the
    next one."""
    classes = 24
    labels = np.repeat(np.arange(classes - 1), 5)
    predicted = np.where(np.tile(np.arange(5), classes - 1) < labels % 6, labels, (labels + 1) % (classes - 1))
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    names = tuple(f"class {place:02}" for place in range(classes))
    split = data.Split(images, labels, classes)
    dataset = data.Dataset(split, split, names, source="made by hand")
    test = Scores(np.log(0.9 * np.eye(classes)[predicted] + 0.1 / classes), labels)
    found = Assessment(folder.RunFolder(tmp_path), dataset, "none", test, None)
    lines = found._extreme_classes().splitlines()
    assert lines[:3] == ["the 10 worst of 24 classes", "class 00    0.00%", "class 06    0.00%"]
    assert lines[11:15] == ["", "the 10 best", "class 17  100.00%", "class 11  100.00%"]
    assert lines[-1] == "1 class has no test images"
    lines = found._confused().splitlines()
    assert lines[0] == "the 20 most frequent mistakes, of the images of the label"
    assert lines[1].split() == ["class", "00,", "predicted", "class", "01", "5", "of", "5", "100.00%"]
    assert lines[5].split() == ["class", "01,", "predicted", "class", "02", "4", "of", "5", "80.00%"]
    assert found._accuracies([23]) == "class 23        –  (no test images)"


def test_other_test_images(run, images, tmp_path, capsys):
    """They lack the images that the run held out, so there is nothing to fit a temperature on."""
    other = write_images(tmp_path / "other.npz", seed=3)
    text = printed(capsys, run.path, "--data", other)
    assert f"50 test images of {other}" in text
    assert " ".join(cells(text, "temperature")) == "not fitted: there are no images here that the run held out"
    test = scores(run, data.load(other).test)
    assert cells(text, "accuracy")[0] == f"{test.accuracy:.2%}"
    assert len(cells(text, "loss")) == 1
    assert assess(run, other).temperature is None


def test_the_same_images_from_elsewhere_have_a_temperature(run, images, tmp_path):
    copied = str(shutil.copy(images, tmp_path / "copied.npz"))
    assert assess(run, copied).temperature == assess(run).temperature is not None


def test_a_run_that_held_nothing_out(images, tmp_path, capsys):
    run = make_run(tmp_path / "run", images, validation=0.0)
    assert cells(printed(capsys, run.path), "temperature")[:2] == ["not", "fitted:"]


def test_an_epoch_that_the_test_set_chose_is_no_honest_estimate(images, tmp_path, capsys):
    run = make_run(tmp_path / "run", images, select_on="test")
    assert "the epoch was chosen on the test set itself: not an honest estimate" in printed(capsys, run.path)


def test_no_mistakes(images, tmp_path, capsys):
    run = make_run(tmp_path / "run", images, model=student(0, noise=0))
    text = printed(capsys, run.path)
    assert cells(text, "accuracy")[0] == "100.00%"
    assert text.splitlines()[-1] == "no mistakes"


def test_a_second_call_opens_no_model(run, capsys, monkeypatch):
    first = printed(capsys, run.path)

    def opened(*_, **__):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(models, "load_model", opened)
    assert printed(capsys, run.path) == first


def test_what_cannot_be_evaluated(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # paths that lie there are told from there: no line is cut
    other = write_images(tmp_path / "other.npz", class_names=("w", "x", "y", "z"))
    line = refused(capsys, run.path, "--data", other)
    assert "'run' was trained on the classes ant, bee, cow, doe, but other.npz has w, x, y, z" in line
    assert "is no run" in refused(capsys, tmp_path / "nowhere")
    run.best.write_bytes(run.best.read_bytes()[:3000])
    assert "'run/best.keras'" in refused(capsys, run.path)
    run.best.unlink()
    assert "has no best.keras" in refused(capsys, run.path)
    with pytest.raises(InputError, match=r"has no best\.keras"):
        assess(run)
