"""Mistakes that were found in voting and prediction, so that none comes back."""

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from kcifar import InputError, data
from kcifar.evaluation.models import evaluate
from kcifar.evaluation.scores import are_probabilities
from kcifar.experiment.part import evaluation_batches
from kcifar.predict import main as predict
from kcifar.runs import folder
from kcifar.runs.state import class_names_in
from kcifar.vote import main as vote
from kcifar.voting import ensemble, soup
from tests.voting.test_members import CLASSES, make_run, student, write_images

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def broken():
    model = student(0)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * np.nan, bias])
    return model


def test_a_member_that_gives_nan_is_refused(images, tmp_path, capsys):
    """It made every ensemble 0 %, and those without it as well."""
    runs = [make_run(tmp_path / "good", images, 1), make_run(tmp_path / "bad", images, 2, broken())]
    assert vote([str(run.path) for run in runs]) == 2
    assert "gives NaN or infinity" in capsys.readouterr().err
    with pytest.raises(InputError, match="NaN or infinity"):
        evaluate(broken(), data.load(images).test)


def test_runs_whose_epochs_the_test_set_chose_are_marked(images, tmp_path, capsys):
    runs = [make_run(tmp_path / f"run{seed}", images, seed, select_on=on) for seed, on in enumerate(["last", "test"])]
    assert vote([str(run.path) for run in runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if "run1*" in line or "run0*" in line]
    assert len(marked) == 1
    assert "run1*" in marked[0]
    assert any("not an honest estimate" in line for line in lines)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_file_of_an_ensemble_has_its_classes_and_predict_reads_it(mode, images, picture, tmp_path, capsys):
    """A file of other classes was read with CIFAR-10's names; that of a hard vote could not be opened at all."""
    for seed in range(3):
        make_run(tmp_path / "runs" / f"seed{seed}", images, seed, student(seed, noise=2.0))
    written = tmp_path / "ensemble.keras"
    assert vote([str(tmp_path / "runs"), "--mode", mode, "--out", str(written)]) in (0, 2)
    if not written.exists():  # one member was best
        pytest.fail(capsys.readouterr().err)
    assert class_names_in(written) == CLASSES
    capsys.readouterr()
    program = "import sys; from kcifar.predict import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, "-c", program, str(written), str(picture), "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert {found["class"] for found in json.loads(printed)[0]["predictions"]} <= set(CLASSES)


def test_ten_classes_of_another_run_are_not_cifar_10s(picture, tmp_path, capsys):
    names = tuple(f"kind{number}" for number in range(10))
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.Flatten(), layers.Dense(10)])
    model.save(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "own.keras", "a") as archive:
        archive.writestr("class_names.json", json.dumps(names))
    assert predict([str(tmp_path / "own.keras"), str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["predictions"][0]["class"].startswith("kind")


def test_the_softmax_of_bfloat16_gives_probabilities():
    """Its rows sum to 1 only within some thousandths."""
    rounded = np.array([[1.0013, 0.0], [0.5, 0.4962]])
    assert are_probabilities(rounded)
    assert not are_probabilities(rounded * 1.02)


def test_models_that_scale_pixels_otherwise_have_no_mean():
    """Nothing of that is in their weights."""

    def scaled(by):
        return keras.Sequential([layers.Input((32, 32, 3)), layers.Rescaling(by), layers.Flatten(), layers.Dense(4)])

    with pytest.raises(InputError, match="different architectures"):
        soup([scaled(1 / 255), scaled(5.0)], [])


@pytest.mark.parametrize("room", ["training", "voting"])
def test_no_file_has_the_name_of_what_a_room_offers(room):
    """Once that file were imported, the name would be the module's, where names are looked up when asked for."""
    offered = importlib.import_module(f"kcifar.{room}")
    files = {path.stem for path in Path(offered.__file__).parent.glob("*.py")}
    assert offered.__all__
    assert not files & set(offered.__all__)


def test_a_member_of_large_images_is_evaluated_in_few():
    """Its layers are not the ensemble's own, and their memory counts as well."""

    def large(seed):
        image = layers.Input((32, 32, 3))
        x = layers.Resizing(128, 128)(image)
        return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name=f"large{seed}")

    split = data.Split(np.zeros((200, 32, 32, 3), np.uint8), np.zeros(200, np.int64), 4)
    alone, together = (evaluation_batches(m, split).batch_size for m in (large(0), ensemble([large(1), large(2)])))
    assert alone == together == 25


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b"\xff\xfe\x00"),
        ("recipe.json", b'{"model": {"name": "elu_cnn", "arguments": 3}}'),
        ("recipe.json", b"{}"),
        ("environment.json", b"[]"),
        ("environment.json", b'{"class_names": null}'),
        ("environment.json", b'{"class_names": ["a"], "resumed": 3}'),
    ],
)
def test_a_damaged_file_of_a_run_is_named_in_one_line(name, content, images, tmp_path, capsys):
    run = make_run(tmp_path / "run", images)
    (run.path / name).write_bytes(content)
    assert vote([str(run.path), str(make_run(tmp_path / "other", images, 1).path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(run.path) in said


def test_a_run_that_was_killed_as_it_was_made_can_be_made_again(images, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.py").write_text("half")
    (path / ".kcifar-recipe-abc.json").write_text("")
    assert folder.make(path).path == path
    (path / "recipe.json").write_text("{}")
    assert folder.make(path).path == path
    (path / "environment.json").write_text("{}")
    with pytest.raises(InputError, match="already there"):
        folder.make(path)
