"""The command `kcifar.predict`: what it prints for images, for which models, and what a user can get wrong."""

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

from kcifar import InputError, data, recipe
from kcifar.evaluation import photos
from kcifar.predict import main as predict

RECIPES = Path(__file__).parents[1] / "recipes"
# The probabilities of a model that looks at nothing, 0.5 for class 1, and of four classes.
FOUR = np.array([0.25, 0.5, 0.05, 0.2])


@pytest.fixture(autouse=True)
def _quickly(quick_compilation):
    pass


def save(model, path):
    model.save(path)
    return str(path)


def looking(classes=10, size=(16, 16), activation=None):
    """A linear model of an image's pixels, with random weights."""
    start = keras.initializers.RandomNormal(0, 0.2, seed=0)
    return keras.Sequential(
        [
            layers.Input((*size, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(classes, activation, kernel_initializer=start),
        ]
    )


def blind(probabilities=FOUR, input_shape=(16, 16, 3)):
    """A model of logits that gives these probabilities for whatever it sees."""
    image = layers.Input(input_shape)
    features = layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, layers.Dense(len(probabilities), kernel_initializer="zeros")(features))
    model.layers[-1].bias.assign(np.log(probabilities))
    return model


@pytest.fixture
def images(tmp_path):
    """A folder of 70 images of 16×16 random pixels, more than two batches, and these as an array."""
    folder = tmp_path / "images"
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
    for number, image in enumerate(array):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder, array


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(path)
    return str(path)


def printed(capsys, *arguments):
    """What the command prints on stdout, where it has nothing to say on stderr."""
    assert predict([*map(str, arguments)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def refused(capsys, *arguments):
    """The one line of an error, with nothing on stdout."""
    assert predict([*map(str, arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("predict: ")
    assert shown.err.count("\n") == 1
    return shown.err


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# Numbers


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_json_holds_the_probabilities_of_the_model(activation, images, tmp_path, capsys):
    folder, array = images
    path = save(looking(activation=activation), tmp_path / "model.keras")
    outputs = keras.saving.load_model(path).predict(array, verbose=0).astype(np.float64)
    expected = outputs if activation else softmax(outputs)

    found = json.loads(printed(capsys, path, folder, "--json", "--top", 10))

    assert [item["image"] for item in found] == [str(folder / f"{number:02}.png") for number in range(70)]
    for item, row in zip(found, expected, strict=True):
        given = {each["class"]: each["probability"] for each in item["predictions"]}
        # float32 outputs of other batch sizes, of the model as it is and accelerated
        np.testing.assert_allclose([given[name] for name in data.CLASS_NAMES], row, atol=2e-6)
        order = [each["probability"] for each in item["predictions"]]
        assert order == sorted(order, reverse=True)
        assert list(item["predictions"][0]) == ["class", "probability"]


def test_one_image(image, tmp_path, capsys):
    path = save(blind(), tmp_path / "model.keras")
    assert printed(capsys, path, image) == f"{image}\n  class 1   50.00%\n  class 0   25.00%\n  class 3   20.00%\n"
    assert printed(capsys, path, image, "--top", 1) == f"{image}\n  class 1   50.00%\n"


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_and_many_images_make_a_table(named, images, tmp_path, capsys):
    folder, _ = images
    for path in sorted(folder.iterdir())[5:]:
        path.unlink()
    (folder / "04.png").rename(folder / "a\nb.png")
    given = sorted(folder.iterdir()) if named else [folder]
    lines = printed(capsys, save(blind(), tmp_path / "model.keras"), *given, "--top", 2).splitlines()
    width = len(f"{folder}/a\\nb.png")
    assert lines[0].split() == ["image", "1", "2"]
    assert lines[1] == f"{folder / '00.png'!s:<{width}}" + "  class 1   50.00%  class 0   25.00%"
    assert lines[-1].startswith(f"{folder}/a\\nb.png  class 1")
    assert len(lines) == 6


def test_one_sigmoid_is_the_probability_of_the_second_class(images, tmp_path, capsys):
    folder, array = images
    path = save(looking(1, activation="sigmoid"), tmp_path / "model.keras")
    second = keras.saving.load_model(path).predict(array, verbose=0)[:, 0]
    for item, probability in zip(json.loads(printed(capsys, path, folder, "--json")), second, strict=True):
        given = {each["class"]: each["probability"] for each in item["predictions"]}
        np.testing.assert_allclose([given["class 0"], given["class 1"]], [1 - probability, probability], atol=2e-6)


def test_two_classes_are_all_there_are(image, tmp_path, capsys):
    path = save(blind(np.array([0.9, 0.1])), tmp_path / "model.keras")
    assert printed(capsys, path, image).split() == [image, "class", "0", "90.00%", "class", "1", "10.00%"]
    assert "--top is 3, the model has 2 classes; expected 1 to 2" in refused(capsys, path, image, "--top", 3)


# Models


@pytest.mark.parametrize(("size", "taken"), [((None, None), (32, 32)), ((24, 40), (24, 40))])
def test_images_have_the_size_that_the_model_takes(size, taken, image, tmp_path):
    classifier = photos.load(save(blind(input_shape=(*size, 3)), tmp_path / "model.keras"))
    assert classifier.image_size == taken
    found = photos.predict(classifier, data.photos.find([image]))
    np.testing.assert_allclose(found.probabilities, [FOUR], atol=1e-6)


@pytest.mark.parametrize("classes", [4, 10])
def test_classes_of_a_file_on_its_own(classes, tmp_path):
    names = photos.load(save(looking(classes), tmp_path / "model.keras")).class_names
    assert names == (data.CLASS_NAMES if classes == 10 else ("class 0", "class 1", "class 2", "class 3"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "no list of names"),
        ("[1, 1, 1, 1]", "no list of names"),
        ("x", "no list of names"),
        ("[" * 100_000, "no list of names"),
        ('["a"]', "gives 4 classes, but its class_names.json names 1"),
    ],
)
def test_names_in_a_file_that_are_none(text, words, image, tmp_path, capsys):
    model = save(looking(4), tmp_path / "model.keras")
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("class_names.json", text)
    assert words in refused(capsys, model, image)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with four classes of other names, as far as predicting reads it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe.load(RECIPES / "demo.py").to_json())
    written = {"data_sha256": "0" * 64, "class_names": ["ant", "bee", "cow", "doe"]}
    (folder / "environment.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize("given", ["", "best.keras"])
def test_a_run_has_its_own_classes(given, run, image, capsys):
    save(blind(), run / "best.keras")
    assert printed(capsys, run / given, image) == f"{image}\n  bee   50.00%\n  ant   25.00%\n  doe   20.00%\n"


def test_a_model_of_another_run_is_refused(run, image, capsys):
    save(looking(10), run / "best.keras")
    assert "gives 10 classes, but" in refused(capsys, run, image)


def test_a_run_without_a_model(run, image, capsys):
    assert "has no best.keras" in refused(capsys, run, image)


def two_images():
    first, second = layers.Input((16, 16, 3)), layers.Input((16, 16, 3))
    return keras.Model([first, second], layers.Dense(2)(layers.Flatten()(layers.Add()([first, second]))))


def test_a_model_of_grey_images_sees_grey(tmp_path, capsys):
    """Of a photo in colours the luma, scaled to the model's size; a grey file of this size as it is."""
    image = layers.Input((8, 12, 1))
    model = keras.Model(image, layers.Softmax()(layers.Dense(2)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))))
    path = save(model, tmp_path / "grey.keras")
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (8, 12), np.uint8), rng.integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    luma = np.round(colour @ [0.299, 0.587, 0.114])
    assert predict([str(path), str(tmp_path / "grey.png"), str(tmp_path / "colour.png"), "--json"]) == 0
    found = [row["predictions"][0]["probability"] for row in json.loads(capsys.readouterr().out)]
    expected = model.predict(np.stack([grey, luma])[..., None].astype("float32"), verbose=0).max(axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # Pillow's luma rounds by other weights, to a unit


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: blind(input_shape=(16, 16, 4)), "takes (None, 16, 16, 4); expected a model of one image"),
        (lambda: keras.Sequential([layers.Input((9,)), layers.Dense(2)]), "takes (None, 9); expected"),
        (two_images, "takes (None, 16, 16, 3) and (None, 16, 16, 3); expected"),
        (lambda: keras.Sequential([layers.Input((16, 16, 3)), layers.Conv2D(2, 3)]), "gives (None, 14, 14, 2); expec"),
        (lambda: looking(1), "gives (None, 1); expected a classifier"),
        (lambda: looking(3, activation="sigmoid"), "ends in 3 sigmoids, whose classes do not exclude one another"),
        (lambda: blind(np.array([np.nan, 0.5])), "the model gives NaN or infinity for"),
    ],
)
def test_other_models_are_refused(model, words, image, tmp_path, capsys):
    assert words in refused(capsys, save(model(), tmp_path / "model.keras"), image)


def test_paths_that_are_no_model(image, tmp_path, capsys):
    assert "does not exist; expected a folder that kcifar.train wrote" in refused(capsys, tmp_path / "nothing", image)
    assert "is no run (it has no recipe.json)" in refused(capsys, tmp_path, image)
    (tmp_path / "damaged.keras").write_bytes(b"PK no zip")
    assert "cannot be opened as a Keras model" in refused(capsys, tmp_path / "damaged.keras", image)


# Images that cannot be read


def test_a_damaged_image_in_a_folder_is_left_out(images, tmp_path, capsys):
    folder, _ = images
    damaged = [folder / "00.png", folder / "40.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    assert predict([save(looking(), tmp_path / "model.keras"), str(folder), "--json"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)) == 68
    lines = shown.err.splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, damaged, strict=True):
        assert line.startswith(f"left out: '{path}' cannot be read as an image: ")


def test_a_folder_in_which_no_image_can_be_read(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no image")
    words = refused(capsys, save(blind(), tmp_path / "model.keras"), tmp_path / "images")
    assert "none of 1 images can be read; the first: " in words


def test_a_damaged_image_that_is_named(images, tmp_path, capsys):
    folder, _ = images
    (folder / "41.png").write_text("no image")
    words = refused(capsys, save(blind(), tmp_path / "model.keras"), folder, folder / "41.png")
    assert "41.png' cannot be read as an image: it is of no format that Pillow knows" in words


@pytest.mark.once
def test_images_are_looked_for_before_anything_else(tmp_path, capsys):
    assert "'none.png' does not exist; expected an image" in refused(capsys, tmp_path, "none.png")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, tmp_path, tmp_path / "empty")


@pytest.mark.once
@pytest.mark.parametrize("top", ["0", "-1", "three", "1.5"])
def test_top_is_a_whole_number(top, image, capsys):
    assert predict(["model.keras", image, f"--top={top}"]) == 2
    assert f"'{top}' is no number of classes" in capsys.readouterr().err


@pytest.mark.once
def test_loading_a_classifier_that_is_not_there():
    with pytest.raises(InputError, match=r"'nothing\.keras' does not exist"):
        photos.load("nothing.keras")


@pytest.mark.once
def test_help_tells_how_images_are_scaled_and_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "kcifar.predict", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "shorter side fits" in shown.stdout
    assert "examples:" in shown.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in shown.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "jax", "keras", "matplotlib", "numpy", "rich", "PIL", "jinja2"}
