"""`load` over the words and the paths that are not the published folders: image folders and .npz, and what is none."""

import os

import numpy as np
import pytest
from PIL import Image

from kcifar import InputError
from kcifar.data import cache, layouts, load, photos, tfds
from kcifar.data.dataset import CLASS_NAMES
from tests.data_fixtures import (
    assert_equal,
    make,
    npz_arrays,
    python_files,
    small,  # noqa: F401
    write_files,
    write_images,
)

pytestmark = pytest.mark.once


def refused(source, *words):
    with pytest.raises(InputError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    for word in words:
        assert word in message


# Words and paths


@pytest.mark.parametrize(
    ("source", "hint"), [("dmeo", "did you mean 'demo'"), ("atuo", "'auto'"), ("a/b", "no such path")]
)
def test_a_source_that_is_not_there(source, hint):
    refused(source, f"'{source}'", hint, "cifar-10-batches-py", "npz")


def test_a_path_that_is_no_source(tmp_path):
    (tmp_path / "notes").mkdir()
    refused(tmp_path / "notes", "holds nothing")
    (tmp_path / "notes" / "todo.txt").write_text("read")
    refused(tmp_path / "notes", "holds todo.txt")
    refused(tmp_path / "notes" / "todo.txt", "a file of 4 bytes")


def test_auto_follows_the_variable(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **npz_arrays(make()))
    monkeypatch.setenv("KCIFAR_DATA", str(tmp_path / "a.npz"))
    assert_equal(load(), make())
    monkeypatch.setenv("KCIFAR_DATA", "dmeo")
    refused("auto", "KCIFAR_DATA", "dmeo", "did you mean 'demo'")


def test_auto_downloads_once(monkeypatch):
    calls = []
    monkeypatch.setattr(tfds, "download", lambda folder, name, coarse: calls.append(folder) or make())
    assert_equal(load(), make())
    assert_equal(load("auto"), make())
    assert len(calls) == 1
    assert os.path.isdir(calls[0])


def test_demo_is_not_cached():
    assert load("demo").source.startswith("demo")
    assert not cache.root().exists()


def test_a_published_folder_goes_before_the_images_beside_it(small, tmp_path):  # noqa: F811
    write_images(tmp_path, make(seed=1))
    write_files(tmp_path / layouts.PYTHON.folder, python_files(small))
    assert_equal(load(tmp_path), small)


# A folder of images


@pytest.mark.parametrize("name", ["{:05d}.png", "{}.bmp", "{}.webp"])
def test_numbered_images_come_in_the_order_of_their_numbers(tmp_path, name):
    dataset = make()
    write_images(tmp_path / "images", dataset, name)
    found = load(tmp_path / "images")
    if name.endswith("webp"):  # lossy
        np.testing.assert_array_equal(found.train.labels, dataset.train.labels)
    else:
        assert_equal(found, dataset)


def test_other_names_come_in_the_order_of_class_and_name(tmp_path):
    dataset = make()
    found = load(write_images(tmp_path, dataset, "image{:03d}.png"))
    order = np.argsort(dataset.train.labels, kind="stable")
    np.testing.assert_array_equal(found.train.labels, dataset.train.labels[order])
    np.testing.assert_array_equal(found.train.images, dataset.train.images[order])


def _of_every_mode(height, width):
    """Images to save, by file name."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    grey, colour = Image.fromarray(values[..., 0]), Image.fromarray(values[..., :3])
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    return {
        "0.png": (grey, {}),
        "1.png": (grey.convert("1"), {}),
        "2.png": (Image.fromarray(values[..., :2], "LA"), {}),
        "3.png": (Image.fromarray(values[..., 0].astype(np.uint16) * 257), {}),
        "4.jpg": (grey, {"exif": upside_down}),
        "5.png": (colour, {"exif": upside_down}),
        "6.png": (colour.convert("P"), {"transparency": 7}),
        "7.png": (Image.fromarray(values), {}),
        "8.tif": (colour.convert("CMYK"), {}),
    }


def _write_all(folder, images):
    for which in ("train", "test"):
        (folder / which / "all").mkdir(parents=True)
        for name, (image, options) in images.items():
            image.save(folder / which / "all" / name, **options)
    return folder


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")  # of Pillow, in the fixture
def test_a_file_is_the_same_image_in_training_and_in_prediction(tmp_path):
    images = _of_every_mode(20, 30)
    grey = {name: images[name] for name in list(images)[:5]}
    for kind, some, channels in (("grey", grey, 1), ("mixed", images, 3)):
        folder = _write_all(tmp_path / kind, some)
        found = load(folder).test.images
        assert found.shape == (len(some), 20, 30, channels)
        for name, pixels in zip(some, found, strict=True):
            np.testing.assert_array_equal(pixels, photos.read(folder / "test" / "all" / name, (20, 30), channels))
    values = np.asarray(images["0.png"][0])
    np.testing.assert_array_equal(load(tmp_path / "grey").test.images[0, ..., 0], values)
    np.testing.assert_array_equal(load(tmp_path / "grey").test.images[3, ..., 0], values)  # 16 bits, scaled to 8
    np.testing.assert_array_equal(load(tmp_path / "mixed").test.images[0], np.dstack([values] * 3))
    np.testing.assert_array_equal(load(tmp_path / "mixed").test.images[5], np.asarray(images["5.png"][0])[::-1, ::-1])


def test_what_the_system_puts_into_folders_is_left_out(tmp_path):
    folder = write_images(tmp_path, make())
    for which in ("train", "test"):
        for name in (".git", "__MACOSX"):
            (folder / which / name).mkdir()
        (folder / which / "README").write_text("no folder")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / which / "cat" / name).write_text("no image")
    assert_equal(load(folder), make())


def test_transparent_pixels_are_on_white_and_that_is_said_once(tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for place, alpha in enumerate((255, 0, 0)):
                Image.new("RGBA", (8, 8), (0, 0, 0, alpha)).save(tmp_path / split / name / f"{name}{place}.png")
    assert load(tmp_path).train.images[:3, 0, 0, 0].tolist() == [0, 255, 255]
    assert capsys.readouterr().err == f"warning: '{tmp_path}': transparent pixels of 8 images are put on white\n"


def test_folders_from_elsewhere(tmp_path, capsys):
    """Accents as macOS writes them, in one split only; images in folders below; a text among them."""
    for split, accented in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        for name in (accented, "dog"):
            (tmp_path / split / name / "more").mkdir(parents=True)
            colour = "white" if name == "dog" else "black"
            Image.new("RGB", (8, 8), colour).save(tmp_path / split / name / "more" / "a.PNG")
    (tmp_path / "train" / "dog" / "README").write_text("from …")
    found = load(tmp_path)
    assert found.class_names == ("caf\u00e9", "dog")
    assert [split.images[:, 0, 0, 0].tolist() for split in (found.train, found.test)] == [[0, 255]] * 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"'{tmp_path}': left out is what has no suffix of an image: train/dog/README")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_the_validation_split(tmp_path, name):
    dataset = make(shape=(12, 16, 1), validation=True, names=("ash", "elm", "oak"))
    folder = write_images(tmp_path, dataset, validation=name)
    for found in (load(folder), load(folder)):  # the second from the cache
        assert_equal(found, dataset)
    with pytest.raises(InputError, match=r"already.*use \.validation"):
        found.split_validation()
    (folder / name / "oak").rename(folder / name / "yew")
    refused(folder, f"oak, yew in only one of train and {name}")
    (folder / ("val" if name == "valid" else "valid")).mkdir()
    refused(folder, "val", "valid", "expected one of them")


def test_a_folder_whose_name_is_no_utf_8(tmp_path):
    folder = write_images(tmp_path, make())
    os.rename(folder / "train" / "cat", os.fsencode(folder / "train") + b"/caf\xe9")
    refused(folder, r"b'caf\xe9'", "no UTF-8", "rename")


def test_real_images_equal_the_real_batches(cifar10_folder, tmp_path):
    """The first 300 of each split, as a folder of PNG files named after their places in the official order."""
    real = load(cifar10_folder)
    for name, split in (("train", real.train), ("test", real.test)):
        for place in range(300):
            folder = tmp_path / "images" / name / real.class_names[split.labels[place]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[place]).save(folder / f"{place:05}.png")
    found = load(tmp_path / "images")
    for a, b in ((found.train, real.train), (found.test, real.test)):
        np.testing.assert_array_equal(a.images, b.images[:300])
        np.testing.assert_array_equal(a.labels, b.labels[:300])
    assert found.class_names == real.class_names


def _remove_class(folder):
    for path in (folder / "test" / "cat").iterdir():
        path.unlink()
    (folder / "test" / "cat").rmdir()


def _empty_class(folder):
    for path in (folder / "train" / "cat").iterdir():
        path.unlink()


def _replace(content):
    def damage(folder):
        next((folder / "train" / "cat").iterdir()).write_bytes(content)

    return damage


def _image(size, mode):
    def damage(folder):
        Image.new(mode, size).save(folder / "test" / "dog" / ("99999.tif" if mode == "I" else "99999.png"))

    return damage


def _truncate(folder):
    path = next((folder / "train" / "cat").iterdir())
    path.write_bytes(path.read_bytes()[:-500])


def _sparse(folder):
    with open(folder / "train" / "cat" / "x.png", "wb") as file:
        file.truncate(2**40)


def _two_of_one_name(folder):
    for name in ("caf\u00e9", "cafe\u0301"):
        (folder / "train" / name).mkdir()


def _no_test(folder):
    (folder / "test").rename(folder / "val")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_test, ("no class folders in 'test' (it has train, val)",)),
        (_remove_class, ("class folders cat", "only one of train and test")),
        (_empty_class, ("train/cat", "has no image")),
        (_replace(b"no image"), ("train/cat", "no image that can be read")),
        (_replace(b""), ("train/cat", "no image that can be read")),
        (_truncate, ("train/cat", "no image that can be read")),
        (_image((33, 32), "RGB"), ("2 sizes: 32×32 (72 images), 32×33 (1 image, as ", "99999.png)")),
        (_image((32, 32), "I"), ("99999.tif", "32-bit numbers")),
        (lambda folder: (folder / "train" / "cat" / "x.png").symlink_to("nowhere"), ("train/cat/x.png", "no image")),
        (lambda folder: (folder / "train" / "cat" / "x.png").symlink_to("/dev/zero"), ("x.png", "no regular file")),
        (lambda folder: os.mkfifo(folder / "train" / "cat" / "x.png"), ("x.png", "no regular file")),
        (_sparse, ("x.png", "bytes; expected at most 268,435,456")),
        (_two_of_one_name, ("two folders 'café'", "join them")),
    ],
)
def test_a_folder_of_images_that_is_not_as_it_should_be(tmp_path, damage, words):
    damage(write_images(tmp_path, make()))
    refused(tmp_path, *words)


# .npz


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_npz(tmp_path, shape, dtype):
    arrays = npz_arrays(make())
    for name in ("y_train", "y_test"):
        arrays[name] = arrays[name].reshape(shape).astype(dtype)
    np.savez(tmp_path / "a.npz", **arrays)
    assert_equal(load(tmp_path / "a.npz"), make())
    assert load(tmp_path / "a.npz").class_names == CLASS_NAMES


def test_npz_with_its_own_class_names(tmp_path):
    names = [f"class {i}" for i in range(12)]
    np.savez_compressed(tmp_path / "a.npz", **npz_arrays(make()), class_names=names)
    found = load(tmp_path / "a.npz")
    assert found.class_names == tuple(names)
    assert found.train.classes == 12


@pytest.mark.parametrize("grey", [(28, 28), (28, 28, 1)])
def test_npz_of_grey_images_without_names(tmp_path, grey):
    dataset = make(shape=(28, 28, 1), names=tuple(f"class {label}" for label in range(7)))
    arrays = npz_arrays(dataset)
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name].reshape(-1, *grey)
    np.savez(tmp_path / "a.npz", **arrays)
    assert_equal(load(tmp_path / "a.npz"), dataset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_test": None}, ("lacks y_test", "x_train, y_train, x_test")),
        (
            {"x_train": np.ones((60, 8, 8), np.float32)},
            ("x_train is float32", "np.round(255 * x_train).astype('uint8')"),
        ),
        ({"x_test": np.full((12, 8, 8), 255.0)}, ("x_test = np.round(x_test).astype('uint8')",)),
        ({"x_test": np.full((12, 8, 8), 255)}, ("x_test = x_test.astype('uint8')",)),
        ({"x_train": np.linspace(-2, 2.5, 60)[:, None, None]}, ("from -2 to 2.5", "before they are normalised")),
        ({"x_train": np.zeros((60, 3, 32, 32), np.uint8)}, ("(60, 3, 32, 32)", "x_train.transpose(0, 2, 3, 1)")),
        ({"x_train": np.zeros((60, 32, 32, 4), np.uint8)}, ("(60, 32, 32, 4)", "convert it first")),
        (
            {"x_test": np.zeros((12, 28, 28), np.uint8)},
            ("several sizes: 32×32 (60 in train), 28×28 grey (12 in test)",),
        ),
        ({"y_test": np.full(12, 99)}, ("99 at index 0", "CIFAR-10", "class_names")),
        ({"y_train": np.zeros(59, np.int64)}, ("y_train is int64 (59,)", "(60,)")),
        ({"y_train": np.zeros(60)}, ("y_train is float64",)),
        ({"y_train": np.full(60, 10)}, ("y_train", "out of range: 10 at index 0")),
        ({"y_train": np.full(60, -1)}, ("y_train", "out of range: -1")),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, ("y_train", "out of range")),
        ({"y_test": np.array([None] * 12)}, ("cannot be read", "y_test.npy holds Python's objects")),
        ({"class_names": np.zeros(10)}, ("class_names is float64",)),
        ({"class_names": np.array(["a"] * 10)}, ("each name once",)),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, np.int64)}, ("no images",)),
    ],
)
def test_an_npz_that_is_not_as_it_should_be(tmp_path, change, words):
    arrays = {name: array for name, array in (npz_arrays(make()) | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", *words)


def test_a_file_that_is_an_npz_by_name_only(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"no zip")
    refused(path, "cannot be read as an .npz")
    np.savez(path, **npz_arrays(make()))
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cannot be read as an .npz")
    np.savez_compressed(path, **npz_arrays(make()))
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    refused(path, "cannot be read as an .npz")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused(path, "no zip archive")


def test_an_npz_whose_class_names_are_no_text(tmp_path):
    arrays = {f"x_{which}": np.zeros((4, 8, 8, 3), np.uint8) for which in ("train", "test")}
    arrays |= {f"y_{which}": np.array([0, 1, 0, 1]) for which in ("train", "test")}
    names = np.array([[2**31 - 1], [7]], np.uint32).view("U1")[:, 0]
    np.savez(tmp_path / "a.npz", **arrays, class_names=names)
    refused(tmp_path / "a.npz", "class_names is damaged")


@pytest.mark.parametrize("name", ["images.npz", "cifar-10-python.tar.gz"])
def test_a_pipe_in_a_files_place(name, tmp_path):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "neither a file nor a folder")
