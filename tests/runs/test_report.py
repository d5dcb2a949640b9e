"""The report of one run and of several: what it says, that it needs nothing else, and what it refuses."""

import base64
import csv
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

from kcifar import data, recipe
from kcifar.errors import InputError
from kcifar.evaluation import models
from kcifar.evaluation.reporting import write_report
from kcifar.evaluation.scores import Scores
from kcifar.experiment import plan
from kcifar.report import main as report
from kcifar.runs import folder
from kcifar.runs.report import comparison, pictures, records, single, words
from kcifar.runs.state import save_model
from tests.data_fixtures import make, npz_arrays
from tests.report_runs import RECIPE, make_runs, write_images

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the runs honest, chosen and going, not to be changed."""
    return make_runs(tmp_path_factory.mktemp("report"))


@pytest.fixture
def runs(trained, tmp_path):
    """The folder of the three runs; its path has characters that mean something in HTML."""
    return shutil.copytree(trained, tmp_path / "a<b>&\"'")


class Page(HTMLParser):
    """What the tests ask of a page: its text, and its tags with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.pieces = [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.pieces.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def of(run, images="test"):
    """Logits and labels of a run's best model by plain Keras."""
    dataset = data.load(folder.find(run).recipe.data)
    split = dataset.test if images == "test" else dataset.split_validation(0.2, 0).validation
    return keras.saving.load_model(run / "best.keras").predict(split.images, verbose=0), split.labels


def percent(fraction):
    return f"{100 * fraction:.2f} %"


def test_one_run_is_reported_in_its_folder(runs, capsys):
    assert report([str(runs / "honest")]) == 0
    assert capsys.readouterr().out == f"{runs / 'honest' / 'report.html'}\n"
    page = Page(runs / "honest" / "report.html")
    logits, labels = of(runs / "honest")
    right = logits.argmax(1) == labels
    assert "mixup, seed 42" in page.text
    assert f"Test accuracy {percent(right.mean())} 95 % interval" in page.text
    top = np.mean([label in row.argsort()[-2:] for row, label in zip(logits, labels, strict=True)])
    assert f"Top-2 accuracy {percent(top)}" in page.text
    assert "of 8 chosen on validation" in page.text
    assert f"{(~right).sum()} of 100 test images are wrong" in page.text
    assert "transforms" in page.text
    assert "MixUp(alpha=" in page.text
    assert "python -m kcifar.train" in page.text
    assert len(page.all("img")) == 3 + 1 + 16 + min(12, (~right).sum())


def test_the_temperature_is_the_one_of_least_loss_on_validation(runs):
    assert report([str(runs / "honest")]) == 0
    text = Page(runs / "honest" / "report.html").text
    before, after, temperature = re.search(
        r"test images is ([\d.]+) % as trained, and ([\d.]+) % with the logits .* temperature of ([\d.]+),", text
    ).groups()
    logits, labels = of(runs / "honest", "validation")

    def loss(temperature):
        logs = logits / temperature - np.log(np.exp(logits / temperature).sum(1, keepdims=True))
        return -logs[np.arange(len(labels)), labels].mean()

    assert loss(float(temperature)) < min(loss(float(temperature) * 1.02), loss(float(temperature) / 1.02))
    logits, labels = of(runs / "honest")
    for said, divisor in ((before, 1), (after, float(temperature))):
        probabilities = np.exp(logits / divisor) / np.exp(logits / divisor).sum(1, keepdims=True)
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        places = np.ceil(confidence * 15)
        error = sum(abs((right - confidence)[places == place].sum()) for place in range(1, 16)) / len(labels)
        assert float(said) == pytest.approx(100 * error, abs=0.02)  # two digits, of a temperature of three


def test_a_selecting_test_set_and_a_missing_validation_split_are_said(runs):
    assert report([str(runs / "chosen")]) == 0
    text = Page(runs / "chosen" / "report.html").text
    assert "Epoch 1 of 1 chosen on the test set itself: not an honest estimate" in text
    assert "A temperature was not fitted: the run has no validation images." in text
    assert "Validation accuracy" not in text


def test_other_data_than_the_runs_own_fit_no_temperature(runs, tmp_path):
    other = write_images(tmp_path / "other.npz", first=100)
    assert report([str(runs / "honest"), "--data", str(other)]) == 0
    text = Page(runs / "honest" / "report.html").text
    assert "not fitted: the data given are not those that the run was trained on" in text
    assert f"100 test images of {other}" in text


def test_several_runs_are_compared(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report([str(runs / name) for name in ("honest", "going", "chosen")]) == 0
    assert capsys.readouterr().out == "report.html\n"
    page = Page(tmp_path / "report.html")
    (first, labels), (last, _) = of(runs / "honest"), of(runs / "chosen")
    first, last = first.argmax(1) == labels, last.argmax(1) == labels
    assert f"First right, last wrong: {(first & ~last).sum()}; the other way: {(last & ~first).sum()}." in page.text
    assert "The recipes differ in validation, transforms, epochs, select_on, seed." in page.text
    assert "Chosen on the test set itself, so not an honest estimate: chosen." in page.text
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values[:3] == ["mixup", "42", str(first.mean())]
    rows = np.reshape(values, (3, -1))
    assert rows[2, 1:3].tolist() == ["7", str(last.mean())]
    assert (rows[1] == "").sum() == 4  # arithmetic, time, images/s and parameters of the run without metrics.json
    assert "Epoch – of 8 chosen on validation" in page.text


def test_tables_and_figures_of_runs(runs, tmp_path, monkeypatch, capsys):
    """Their figures are those of plain Keras, and no page is written that was not asked for."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / "chosen", runs / "chosen-8")
    for name, change in (("recipe", {"seed": 8}), ("metrics", {"train_seconds": 5.0})):
        path = runs / "chosen-8" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    command = [str(runs / name) for name in ("honest", "chosen", "chosen-8")]
    assert report([*command, "--csv", "t.csv", "--latex", "t.tex", "--figures", "svg"]) == 0
    drawn = ["report-validation_accuracy.svg", "report-test_accuracy.svg", "report-train_accuracy.svg"]
    assert capsys.readouterr().out.split() == ["t.csv", "t.tex", *drawn]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(["t.csv", "t.tex", *drawn])
    with open("t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["honest", "chosen", "chosen-8", ""]
    for row, name in zip(rows, ("honest", "chosen"), strict=False):
        logits, labels = of(runs / name)
        assert float(row["test_accuracy"]) == (logits.argmax(1) == labels).mean()
    logits, labels = of(runs / "honest", "validation")
    assert float(rows[0]["validation_accuracy"]) == pytest.approx((logits.argmax(1) == labels).mean())
    assert (rows[-1]["seed"], rows[-1]["n"], float(rows[-1]["test_accuracy_std"])) == ("7 8", "2", 0)
    assert Path("t.tex").read_text(encoding="utf-8").count(r" \\") == 1 + 3 + 1 + 1  # with the note on the choice


def test_a_verdict_names_what_the_recipes_differ_in(runs):
    one = folder.find(runs / "honest").recipe
    assert comparison.verdict([one, one]) == "The recipes are the same."
    assert comparison.verdict([one, one.override(["seed=3"])]) == "The recipes differ in nothing but the seed."
    assert comparison.verdict([one, one, one.override(["epochs=3", "seed=3"])]) == "The recipes differ in epochs, seed."


def test_the_page_needs_nothing_else_and_can_be_read_aloud(runs, tmp_path):
    out = tmp_path / "all.html"
    assert report([str(runs), "--out", str(out)]) == 0  # a folder stands for the runs in it
    assert "3 runs compared" in Page(out).text
    assert report([str(runs / "honest")]) == 0
    for page in (Page(out), Page(runs / "honest" / "report.html")):
        links = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
        assert links
        assert all(link.startswith(("data:", "#")) for link in links)
        assert not re.search(r"@import|url\(|fetch\(", page.source)
        assert all(image["alt"] for image in page.all("img"))
        assert page.all("html") == [{"lang": "en"}]
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert len(page.all("caption")) == len(page.all("table"))
        assert all("scope" in head for head in page.all("th"))
        assert not page.all("b")  # of the folder's name


def test_equal_runs_give_equal_pages_and_predict_once(runs, monkeypatch):
    assert report([str(runs / "honest")]) == 0
    first = (runs / "honest" / "report.html").read_bytes()
    monkeypatch.delattr(models, "evaluate")
    assert report([str(runs / "honest")]) == 0
    assert (runs / "honest" / "report.html").read_bytes() == first


def test_data_at_hand_are_not_loaded_again(runs, monkeypatch):
    run = folder.find(runs / "honest")
    dataset = data.load(run.recipe.data)
    monkeypatch.delattr(data, "load")
    write_report([run], run.report, dataset=dataset.split_validation(0.2, 0))
    whole = run.report.read_text()
    assert "fitted on the validation images" in whole
    write_report([run], run.report, dataset=dataset)
    assert run.report.read_text() == whole


def damage(name, text):
    return lambda run: (run / name).write_text(text)


def other_classes(run):
    written = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(written | {"class_names": ["cat", "dog"]}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "best.keras").unlink(), "has no best.keras"),
        (damage("metrics.json", "{"), "metrics.json' is damaged"),
        (damage("metrics.json", '{"train_seconds": "long"}'), "train_seconds is 'long', no number"),
        (damage("metrics.json", '{"seconds_per_epoch": [1, "x"]}'), "no list of numbers"),
        (damage("metrics.json", '{"selected_on": "luck"}'), "selected_on is 'luck'"),
        (damage("metrics.json", "[]"), "it holds []"),
        (damage("log.csv", "epoch,learning_rate,loss\n1,0.1\n"), "log.csv' is damaged"),
        (damage("log.csv", "epoch,learning_rate,loss\n1,0.1,small\n"), "could not convert string to float: 'small'"),
        (damage("log.csv", "epoch,learning_rate,loss\ninf,0.1,1\n"), "an epoch is no whole number"),
        (damage("log.csv", ""), "no rows with epoch, learning_rate, loss"),
        (damage("recipe.json", "{"), "recipe.json is not JSON"),
        (other_classes, "cat, dog"),
    ],
)
def test_a_run_that_cannot_be_reported_is_refused_in_one_line(runs, change, said, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    change(runs / "going")
    for paths in ([runs / "going"], [runs / "honest", runs / "going"]):
        assert report([*map(str, paths), "--out", str(runs / "no.html")]) == 2
        message = capsys.readouterr().err
        assert said in message
        assert message.count("\n") == 1
    assert not (runs / "no.html").exists()


def test_runs_on_different_test_images_are_refused(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(runs)  # a line with long paths is cut
    other = write_images("other.npz", first=100, without=9)
    recipe = json.loads((runs / "going" / "recipe.json").read_text())
    (runs / "going" / "recipe.json").write_text(json.dumps(recipe | {"data": str(other)}))
    command = ["honest", "going", "--out", str(tmp_path / "both.html")]
    assert report(command) == 2
    message = capsys.readouterr().err
    assert "'honest' and 'going' have different test images" in message
    assert str(other) in message
    assert report([*command, "--data", str(other)]) == 0
    assert re.search(r"truck – –", Page(tmp_path / "both.html").text)  # a class without images


@pytest.mark.parametrize(("path", "said"), [("", "is a folder"), ("none/x.html", "there is no folder")])
def test_a_path_that_cannot_be_written_to_is_refused(runs, path, said):
    with pytest.raises(InputError, match=said):
        write_report([folder.find(runs / "honest")], runs / path)


def scores(predictions, labels):
    """Of the (class, probability) predicted of each image, of three classes."""
    probabilities = [[p if place == at else (1 - p) / 2 for place in range(3)] for at, p in predictions]
    return Scores(np.log(probabilities), np.array(labels))


def test_shared_mistakes_are_of_the_same_wrong_class_the_most_confident_first():
    labels = [0, 0, 1, 2, 2]
    one = scores([(1, 0.5), (1, 0.9), (0, 0.8), (2, 0.9), (0, 0.9)], labels)
    other = scores([(1, 0.7), (1, 0.6), (2, 0.8), (0, 0.9), (0, 0.7)], labels)
    places, confidence = comparison.shared_mistakes([one, other])
    assert places.tolist() == [4, 1, 0]  # not 2, taken for two classes, nor 3, right once
    assert confidence[places] == pytest.approx([0.8, 0.75, 0.6])


def test_a_card_holds_the_image_itself_and_says_what_is_on_it():
    split = data.load("demo").test
    place = int(np.flatnonzero(split.labels == 3)[0])
    found = single.card(split, place, data.CLASS_NAMES, [("first", 5, 0.868), ("last", 3, 0.5)])
    assert found["alt"] == "cat, first predicted dog 87 %, last predicted cat 50 %"
    assert [said["right"] for said in found["predictions"]] == [False, True]
    kind, _, coded = found["source"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(coded))), split.images[place])


def test_a_figure_is_svg_in_the_colours_of_the_page():
    rows = [{"epoch": n, "loss": 1 / n, "test_accuracy": n / 4, "test_loss": 2 / n} for n in (1, 2)]
    one, two = (pictures.drawn(pictures.curve, rows, "accuracy", "test") for _ in range(2))
    assert one == two
    text = base64.b64decode(one.partition(",")[2]).decode()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme:dark" in text
    assert "accuracy in %</text>" in text  # text, no outlines
    assert "<dc:date>" not in text


def test_many_classes_and_grey_images(tmp_path):
    """A run of 25 classes, untrained: a picture of the confusion for the table, and the extremes."""
    dataset = make(shape=(16, 18, 1), names=(*(f"class {place}" for place in range(24)), "price <$10"))
    np.savez(tmp_path / "images.npz", **npz_arrays(dataset), class_names=dataset.class_names)
    overrides = ["model=tutorial_net()", "mean=(0.5,)", "std=(0.5,)", "transforms=[]", "schedule=none", "batch_size=8"]
    planned = plan(recipe.load(RECIPE).override([*overrides, f"data={tmp_path / 'images.npz'}"]))
    run = folder.create(tmp_path / "run", planned.recipe, b"", planned.dataset)
    save_model(planned.whole, run.best)
    write_report([run], run.report)
    page = Page(run.report)
    assert "The classes of the lowest accuracy on the test images." in page.text
    assert "All 25 classes" in page.text
    assert page.source.count("price &lt;$10") >= 1
    (large,) = [image for image in page.all("img") if image["alt"].startswith("Confusion of 25 classes; most often ")]
    drawn = base64.b64decode(large["src"].partition(",")[2]).decode()
    assert "price &lt;$10</text>" in drawn
    assert 'class="heat confusion"' not in page.source
    cards = [image for image in page.all("img") if image.get("width") == "96"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(cards[0]["src"].partition(",")[2]))))
    np.testing.assert_array_equal(pixels, dataset.test.images[0, ..., 0])
    write_report([run, run], tmp_path / "both.html")
    assert 'class="scroll tall"' in (tmp_path / "both.html").read_text()


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    runs = [folder.RunFolder(tmp_path / name) for name in ("a/run", "b/run", "b/other")]
    assert comparison.short_names(runs[1:]) == ["run", "other"]
    assert comparison.short_names(runs) == [str(run.path) for run in runs]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["train.py", "recipes/mixup.py", "epochs=2"], "mixup"),
        (["train.py", "pretrained=x.py", "--seed", "1", "/a/elu_cnn.py"], "elu_cnn"),
        (["ipykernel_launcher.py", "x.py"], "here"),
        (["train.py", "--resume", "there"], "here"),
        ([], "here"),
        (None, "here"),
    ],
)
def test_the_name_of_a_recipe_is_its_files_else_the_folders(tmp_path, command, name):
    (tmp_path / "here").mkdir()
    run = folder.RunFolder(tmp_path / "here")
    run.environment.write_text(json.dumps({"command": command}))
    assert records.recipe_name(run) == name


def test_numbers_are_written_for_people():
    assert words.percent(0.85514) == "85.51\N{NO-BREAK SPACE}%"
    assert words.interval((0.848, 0.8616)) == "84.8–86.2\N{NO-BREAK SPACE}%"
    assert [words.duration(seconds) for seconds in (5.72, 59.97, 808.5, 7500)] == [
        "5.7 s", "1 min 0 s", "13 min 28 s", "2 h 5 min",
    ]  # fmt: skip
    assert words.number(271098) == "271,098"
    assert [words.percent(None), words.number(float("nan")), words.duration(None)] == ["–"] * 3
    assert words.value((1.0, 2.0)) == "1.0, 2.0"
    assert [words.value(()), words.value(None), words.value(True)] == ["none", "none", "true"]
