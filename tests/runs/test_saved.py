"""What evaluate, vote, report and predict make of models that no recipe was trained by: files, Checkpoint's folders."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from kcifar import data
from kcifar.callbacks import Checkpoint
from kcifar.data import Batches
from kcifar.evaluate import main as evaluate
from kcifar.evaluation.models import last_activation
from kcifar.predict import main as predict
from kcifar.report import main as report
from kcifar.runs.saved import by_value, find_all
from kcifar.runs.state import save_model
from kcifar.vote import main as vote
from kcifar.voting import ensemble
from tests.voting.test_members import CLASSES, make_run, student, write_images

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder: images.npz, `mine` as Checkpoint leaves it, `net.keras`, two ensembles, a run. Read only."""
    folder = tmp_path_factory.mktemp("saved")
    images = write_images(folder / "images.npz", train=60, test=120)
    model = student(0)
    model.compile(
        keras.optimizers.SGD(0.0), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    batches = Batches(data.load(images).train, 20)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[Checkpoint(folder / "mine", "accuracy")])
    student(1).save(folder / "net.keras")
    members = [student(seed, noise=1.5) for seed in (2, 3, 4)]
    for mode in ("soft", "hard"):
        save_model(ensemble(members, mode), folder / f"{mode}.keras", CLASSES)
    make_run(folder / "run", images)
    return folder


def said(capsys, command, *arguments, code=0):
    capsys.readouterr()
    assert command([str(argument) for argument in arguments]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def accuracy(file, images):
    """Of the file's model in plain Keras, on the test images."""
    test = data.load(images).test
    outputs = keras.saving.load_model(file).predict(np.float32(test.images), verbose=0)
    return np.mean(outputs.argmax(1) == test.labels)


@pytest.mark.parametrize("name", ["mine", "net.keras", "soft.keras", "hard.keras"])
def test_evaluate_with_data(made, name, capsys):
    images, file = made / "images.npz", made / name / "best.keras" if name == "mine" else made / name
    before = set(made.iterdir())
    text = said(capsys, evaluate, made / name, "--data", images)
    assert float(re.search(r"^accuracy +([\d.]+)%", text, re.M).group(1)) == round(100 * accuracy(file, images), 2)
    assert re.search(r"^calibration error +0\.\d{4}$", text, re.M)
    assert "temperature        not fitted: it is not known which images it was trained on" in text
    assert set(made.iterdir()) == before  # nothing beside a user's file
    assert (made / "mine" / "predictions" / "test.npz").exists() or name != "mine"


def test_without_data_it_is_said_to_give_them(made, tmp_path, capsys):
    for command, *rest in ((evaluate,), (report, "--out", tmp_path / "r.html"), (vote, made / "mine")):
        line = said(capsys, command, made / "net.keras", *rest, code=2)
        assert re.fullmatch(r"\w+: '.*net.keras' does not say what it was trained on: .* by --data SOURCE\n", line)


def test_what_is_no_model_and_what_does_not_fit(made, tmp_path, capsys):
    images = made / "images.npz"
    assert "expected a folder that kcifar.train or kcifar.callbacks.Checkpoint wrote, or a .keras file" in said(
        capsys, evaluate, images, code=2
    )
    (tmp_path / "broken.keras").write_text("no zip")
    assert "is no whole .keras file" in said(capsys, evaluate, tmp_path / "broken.keras", "--data", images, code=2)
    other = write_images(tmp_path / "other.npz", class_names=("elk", "fox", "gnu", "hen"))
    assert "give its own data by --data" in said(capsys, evaluate, made / "soft.keras", "--data", other, code=2)
    line = said(capsys, evaluate, made / "net.keras", "--data", images, "--sharpness", code=2)
    assert "has no recipe: leave it out" in line


def test_the_best_model_of_a_run_is_the_run(made, capsys):
    assert said(capsys, evaluate, made / "run" / "best.keras") == said(capsys, evaluate, made / "run")


def test_vote_of_files_and_runs_chooses_nothing(made, capsys):
    images = made / "images.npz"
    members = [made / name for name in ("run", "mine", "net.keras", "hard.keras")]
    found = json.loads(said(capsys, vote, *members, "--json"))  # the data of the run
    assert [member["test_accuracy"] for member in found["members"]][1:] == [
        accuracy(file, images) for file in (made / "mine" / "best.keras", *members[2:])
    ]
    assert found["best"]["members"] == [str(member) for member in members]
    assert found["validation_images"] == 0
    (warning,) = found["warnings"]
    assert f"{members[2]}: it is not known which images it was trained on" in warning


def test_vote_writes_one_file_of_files(made, tmp_path, capsys):
    images, out = made / "images.npz", tmp_path / "both.keras"
    text = said(capsys, vote, made / "mine", made / "soft.keras", "--data", images, "--out", out)
    assert (
        f"best: 2 members, soft vote (not chosen: no image is left to choose it on), {accuracy(out, images):.2%}"
        in text
    )


def test_report_leaves_out_what_is_not_known(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = made / "images.npz"
    assert said(capsys, report, made / "net.keras", "--data", images) == "report.html\n"
    page = (tmp_path / "report.html").read_text()
    assert f"{100 * accuracy(made / 'net.keras', images):.2f}" in page
    assert "recipe, validation split, curves and times are not known" in page
    for absent in ("<h2>Recipe", "<h2>Environment", "seed", "None", "<dt>Epoch"):
        assert absent not in page.partition("<main>")[2].partition("<script")[0], absent
    assert said(capsys, report, made / "mine", "--data", images) == f"{made / 'mine' / 'report.html'}\n"


def test_report_compares_files_and_runs(made, tmp_path, capsys):
    out = tmp_path / "all.html"
    said(capsys, report, made / "run", made / "mine", made / "soft.keras", "--out", out)
    page = out.read_text()
    assert "Not every recipe is known; those that are differ in nothing." in page
    for name in ("run", "mine", "soft.keras"):
        assert f">{name}</a></th>" in page


def test_predict_takes_the_folder_that_checkpoint_wrote(made, tmp_path, capsys):
    from PIL import Image

    test = data.load(made / "images.npz").test
    Image.fromarray(test.images[0]).save(tmp_path / "a.png")
    (found,) = json.loads(said(capsys, predict, made / "mine", tmp_path / "a.png", "--json", "--top", "1"))
    outputs = keras.saving.load_model(made / "mine" / "best.keras").predict(np.float32(test.images[:1]), verbose=0)
    assert found["predictions"][0]["class"] == f"class {outputs.argmax()}"


NATURAL = ["alpha0.05", "alpha0.2", "lr=1e-3", "lr=0.005", "lr=1e-2", "run", "run-2", "run-10", "seed2", "seed10"]


def test_numbers_in_names_count_by_their_value(tmp_path):
    assert [path.name for path in sorted(map(Path, sorted(NATURAL)), key=by_value)] == NATURAL
    for name in NATURAL:
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.keras").touch()
    assert [run.path.name for run in find_all([tmp_path])] == NATURAL
    shell = sorted(tmp_path.iterdir())  # what `runs/*` is
    assert [run.path.name for run in find_all(shell)] == NATURAL
    assert [run.path for run in find_all(shell[::-1])] == shell[::-1]  # an order of one's own stays
    two = [tmp_path / "seed10", tmp_path / "seed2"]
    assert [run.path for run in find_all(two)] == two


def halves(seed, activation, units):
    """A model whose random direction in the images' pixels decides, and the images' classes by that of seed 0."""
    image = keras.Input((32, 32, 3))
    drawn = keras.initializers.RandomNormal(0, 0.05, seed=seed)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, offset=-0.5)(image))
    return keras.Model(image, keras.layers.Dense(units, activation, kernel_initializer=drawn)(x))


def test_one_sigmoid_is_the_same_for_every_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (40, 32, 32, 3), np.uint8) for split in ("train", "test")}
    models = [halves(seed, "sigmoid", 1) for seed in range(2)]
    labels = {f"y_{x[2:]}": models[0].predict(arrays[x], verbose=0)[:, 0] > 0.5 for x in arrays}
    images = tmp_path / "images.npz"
    np.savez(images, **arrays, **{name: found.astype(int) for name, found in labels.items()}, class_names=["no", "yes"])
    for place, model in enumerate(models):
        model.save(tmp_path / f"{place}.keras")
    paths = [tmp_path / "0.keras", tmp_path / "1.keras"]
    seconds = [model.predict(arrays["x_test"], verbose=0)[:, 0] for model in models]
    right = [np.mean((second > 0.5) == labels["y_test"]) for second in seconds]
    assert f"accuracy           {right[0]:.2%}" in said(capsys, evaluate, paths[0], "--data", images)
    out = tmp_path / "both.keras"
    found = json.loads(said(capsys, vote, *paths, "--data", images, "--json", "--out", out))
    assert [member["test_accuracy"] for member in found["members"]] == right
    mean = keras.saving.load_model(out).predict(np.float32(arrays["x_test"]), verbose=0)
    np.testing.assert_allclose(mean[:, 1], np.mean(seconds, axis=0), atol=1e-6)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("command", [evaluate, report])
def test_several_sigmoids_are_refused(command, tmp_path, capsys):
    halves(0, "sigmoid", len(CLASSES)).save(tmp_path / "many.keras")
    images = write_images(tmp_path / "images.npz")
    line = said(capsys, command, tmp_path / "many.keras", "--data", images, code=2)
    assert "ends in 4 sigmoids, whose classes do not exclude one another" in line


def test_the_last_activation_is_found_behind_what_shapes_alone():
    layers = keras.layers
    for activation in ("sigmoid", "softmax", "linear"):
        inner = halves(0, activation, 4)
        assert last_activation(inner) == activation
        assert last_activation(keras.Sequential([keras.Input((32, 32, 3)), inner])) == activation
        if activation != "linear":
            behind = [layers.Reshape((2, 2)), layers.Flatten(), layers.Activation("linear", dtype="float32")]
            assert last_activation(keras.Sequential([keras.Input((32, 32, 3)), inner, *behind])) == activation
    image = keras.Input((32, 32, 3))
    flat = layers.Flatten()(image)
    assert last_activation(keras.Model(image, keras.ops.sigmoid(flat))) == "sigmoid"
    assert last_activation(keras.Model(image, layers.Softmax()(flat))) == "softmax"
    assert last_activation(keras.Model(image, layers.Average()([flat, flat]))) is None
