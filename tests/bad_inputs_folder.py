"""The folder in which the commands of tests/bad_inputs.py are given: data, runs, images and files, good and damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from kcifar import data
from tests.data_fixtures import make, python_files
from tests.fake_trainings import Faked, trainings

TINY = """\
from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="images.npz",
    validation=0.2,
    model=Component("tutorial_net"),
    transforms=(Component("RandomFlip"), Component("MixUp", alpha=0.2)),
    batch_size=20,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.001),
    epochs=1,
    select_on="validation",
    seed=0,
)
"""
RECIPES = {
    "tiny.py": TINY,
    "unclosed.py": TINY.rstrip().removesuffix(")"),
    "fails.py": "1 / 0\n",
    "nothing.py": "epochs = 3\n",
    "misspelt.py": TINY.replace("epochs", "epoch"),
    "seedless.py": TINY.replace("    seed=0,\n", ""),
    "textual.py": TINY.replace("batch_size=20", 'batch_size="20"'),
    "nets.py": "def small():\n    return {}\n\ndef broken():\n    raise RuntimeError('no such layer')\n",
}


def make_folder(main):
    """Fills the working directory.

    Args:
        main: of kcifar, which trains a run there.
    """
    for name, text in RECIPES.items():
        Path(name).write_text(text)
    _write_arrays()
    _write_data()
    _write_pictures()
    assert main(["train", "tiny.py", "--out", "runs/a"]) == 0
    _write_runs(Path("runs"))
    _write_sweeps(main)
    _write_weights()


def _write_arrays():
    drawn = data.load("demo")
    good = {"x_train": drawn.train.images[:100], "y_train": drawn.train.labels[:100]}
    good |= {"x_test": drawn.test.images[:40], "y_test": drawn.test.labels[:40]}
    x, y = good["x_train"], good["y_train"]
    changes = {
        "images.npz": {},
        "others.npz": {"x_train": x[::-1], "y_train": y[::-1]},
        "cats.npz": {"class_names": np.array([f"cat {label}" for label in range(10)])},
        "floats.npz": {"x_train": (x / 255).astype("float32")},
        "holes.npz": {"x_train": np.where(x < 9, np.nan, x).astype("float32")},
        "planes.npz": {"x_train": x.transpose(0, 3, 1, 2)},
        "flat.npz": {"x_train": x.reshape(100, -1)},
        "fewer.npz": {"y_train": y[:-1]},
        "eleven.npz": {"y_train": np.where(y == 3, 10, y)},
        "halves.npz": {"y_train": y + 0.5},
        "objects.npz": {"y_train": np.array(list(map(str, y)), object)},
        "sizes.npz": {"x_test": good["x_test"][:, :16, :16]},
        "blank.npz": {"x_train": x[:0], "y_train": y[:0]},
    }
    for name, changed in changes.items():
        np.savez(name, **good | changed)
    np.savez("constant.npz", **good | {"x_train": np.full_like(x, 7)})
    np.savez("specks.npz", **{name: value[:, :3, :3] if value.ndim > 1 else value for name, value in good.items()})
    np.savez("lacking.npz", x_train=x, y_train=y)
    np.savez("grey.npz", **{name: value[..., :1] if value.ndim > 1 else value for name, value in good.items()})
    content = Path("images.npz").read_bytes()
    Path("cut.npz").write_bytes(content[: len(content) // 2])
    Path("text.npz").write_text("x_train y_train\n")


def _write_data():
    Path("empty").mkdir()
    Path("notes.txt").write_text("nothing but text\n")
    folder = Path("cifar-10-batches-py")
    folder.mkdir()
    for name, content in python_files(make()).items():
        (folder / name).write_bytes(content)
    (folder / "test_batch").unlink()
    Path("cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(1000))  # how a gzip begins
    os.mkfifo("pipe.npz")


def _write_pictures():
    image = Image.fromarray(data.load("demo").test.images[0])
    paths = [
        "one.png",
        "pictures/one.png",
        "testless/train/cat/0.png",
        *(f"single/{split}/cat/{number}.png" for split in ("train", "test") for number in range(9)),
    ]
    for name in ("differing", "bare", "damaged", "uneven"):
        paths += [f"{name}/{split}/{kind}/0.png" for split in ("train", "test") for kind in ("cat", "dog")]
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    Path("differing/test/dog").rename("differing/test/dogs")
    Path("bare/train/dog/0.png").unlink()
    Path("damaged/train/dog/0.png").write_text("no image")
    image.resize((16, 16)).save("uneven/train/dog/0.png")
    Path("blank.png").touch()
    Path("words.png").write_text("no image")
    content = Path("one.png").read_bytes()
    Path("cut.png").write_bytes(content[: len(content) // 2])
    os.mkfifo("pipe.png")
    Path("texts").mkdir()
    Path("texts/notes.txt").write_text("nothing but text\n")


def _write_runs(runs):
    made = runs / "a"
    for picture in made.glob("*.png"):
        picture.unlink()  # which nothing here needs
    for name in ("b", "begun", "bestless", "cut-best", "cats", "cut-recipe", "newer", "cut-environment", "cut-state",
                 "cut-log", "cut-metrics", "written", "two-epochs"):  # fmt: skip
        shutil.copytree(made, runs / name)
    runs.joinpath("young").mkdir()
    shutil.copy(made / "recipe.py", runs / "young")
    for name in ("log.csv", "metrics.json", "best.keras", "report.html"):
        (runs / "begun" / name).unlink()
    shutil.rmtree(runs / "begun" / "last")
    (runs / "bestless" / "best.keras").unlink()
    cut(runs / "cut-best" / "best.keras")
    _change(runs / "cats" / "environment.json", class_names=[f"cat {label}" for label in range(10)])
    _change(runs / "newer" / "recipe.json", dreams=3)
    for name, file in (("cut-recipe", "recipe"), ("cut-environment", "environment"), ("cut-metrics", "metrics")):
        (runs / name / f"{file}.json").write_text("{")
    for path in (runs / "cut-state" / "last").glob("state*"):
        cut(path)
    for name in ("cut-state", "two-epochs"):
        (runs / name / "metrics.json").unlink()
        _change(runs / name / "recipe.json", epochs=2)
    (runs / "cut-log" / "log.csv").write_text("epoch,learning_rate,loss\n1,fast,2\n")
    (runs / "written" / "metrics.json").unlink()
    shutil.copytree(runs / "a", "twice/a")
    shutil.copytree(runs / "b", "twice/b")


def _write_sweeps(main):
    """Two that are done, one whose description was cut."""
    with trainings(Faked):
        assert main(["sweep", "tiny.py", "epochs=1,2", "--out", "swept"]) == 0
    shutil.copytree("swept", "cut-sweep")
    Path("cut-sweep/sweep.json").write_text("{")


def cut(path):
    """Leaves the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _write_weights():
    import keras

    shutil.copy("runs/a/best.keras", "model.keras")
    shutil.copy("model.keras", "cut.keras")
    cut(Path("cut.keras"))
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="scores")], name="rows").save("rows.keras")
    keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10, name="scores")], name="small"
    ).save("small.keras")
    Path("folder.keras").mkdir()
    Path("page.pth").write_text("<html>404</html>")
    Path("blank.pth").touch()
