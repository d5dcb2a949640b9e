"""What can be looked at before training: the picture of a recipe's transforms."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops
from matplotlib.figure import Figure
from PIL import Image

from kcifar import chance, data, experiment, recipe
from kcifar.augment import MixUp, RandomFlip
from kcifar.experiment.preview import draw_transforms
from kcifar.runs import figures
from kcifar.train import main as train
from tests.report_runs import write_images

pytestmark = pytest.mark.usefixtures("quick_compilation")

RECIPES = Path(__file__).parents[2] / "recipes"
CHOSEN = ["data=demo", "batch_size=32"]


@pytest.fixture
def drawn(monkeypatch):
    """What the picture is made of: (split, draws, class names)."""
    found = []
    monkeypatch.setattr(figures, "transforms", lambda *arguments: found.extend(arguments) or Figure())
    return found


def test_it_shows_eight_images_as_the_first_epochs_would(drawn, tmp_path):
    overrides = [*CHOSEN, "transforms=[RandomFlip(),MixUp(alpha=0.4)]"]
    planned = experiment.plan(recipe.load(RECIPES / "mixup.py").override(overrides))
    draw_transforms(planned, tmp_path / "transforms.png")
    split, draws, names = drawn
    assert names == planned.dataset.class_names
    np.testing.assert_array_equal(split.images, planned.dataset.train.images[:8])
    assert len(draws) == 8
    for epoch, (images, labels) in enumerate(draws):
        rng = chance.generator(42, chance.TRANSFORMS, epoch, 0)
        expected = ops.convert_to_tensor(split.images), ops.convert_to_tensor(np.eye(10, dtype="float32")[split.labels])
        for transform in (RandomFlip(), MixUp(0.4)):
            expected = transform.apply(*expected, transform.draw(rng, 8, (32, 32, 3)))
        np.testing.assert_allclose(images, ops.convert_to_numpy(expected[0]), atol=1e-3)
        np.testing.assert_allclose(labels, ops.convert_to_numpy(expected[1]), atol=1e-6)


def test_a_label_names_its_classes_and_where_it_is_mixed_their_shares():
    names = ["cat", "dog", "ship"]
    assert figures._label(np.array([0, 1, 0]), names) == "dog"
    assert figures._label(np.array([0.304, 0, 0.696]), names) == "70% ship\n30% cat"
    assert figures._label(np.array([0.998, 0.002, 0]), names) == "cat"


@pytest.mark.once
def test_a_dry_run_with_a_folder_draws_it_and_the_run_can_go_there(tmp_path, capsys):
    out = tmp_path / "run"
    images = write_images(tmp_path / "images.npz")
    command = [str(RECIPES / "demo.py"), "epochs=1", "--data", str(images), "--out", str(out)]
    for _ in range(2):  # again after a change
        assert train([*command, "--dry-run"]) == 0
        assert f"picture        {out}/transforms.png" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"classes.png", "transforms.png"}
    with Image.open(out / "transforms.png") as picture:
        assert picture.width > 1000
        assert picture.height > 1000
    assert train(command) == 0
    names = {path.name for path in out.iterdir()}
    assert "best.keras" in names
    assert "transforms.png" not in names  # which another recipe may have drawn
    capsys.readouterr()
    assert train([*command, "--dry-run"]) == 2
    assert "already there and a run" in capsys.readouterr().err


def test_other_files_in_the_folder_are_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert train([str(RECIPES / "demo.py"), "--dry-run", "--out", str(tmp_path)]) == 2
    assert "no empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_fewer_images_than_eight_and_larger_ones(drawn, tmp_path):
    dataset = data.load("demo")
    few = {"x_train": dataset.train.images[:5], "y_train": dataset.train.labels[:5]}
    np.savez(tmp_path / "few.npz", **few, x_test=few["x_train"], y_test=few["y_train"])
    overrides = [f"data={tmp_path / 'few.npz'}", "batch_size=5", "pretrained=none", "model=resnet18(stem='cifar')"]
    overrides += ["resize=40", "center_crop=36", "transforms=[Resize(size=40),RandomCrop(size=36,padding=0)]"]
    planned = experiment.plan(recipe.load(RECIPES / "transfer_resnet18.py").override(overrides))
    draw_transforms(planned, tmp_path / "transforms.png")
    assert drawn[1][0][0].shape == (5, 36, 36, 3)
