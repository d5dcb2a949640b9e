"""`kcifar.data.photos`: which files of a folder are images, and any of them as a model takes it."""

import numpy as np
import pytest
from PIL import Image

from kcifar import InputError
from kcifar.data.photos import find, read

pytestmark = pytest.mark.once

ORIENTATION = 0x0112  # EXIF's tag


def pixels(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(path, image, **options):
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read(path, (32, 32))
    message = str(caught.value)
    assert "\n" not in message
    for word in (f"'{path}' cannot be read as an image: ", *words):
        assert word in message


# Pixels that are left as they are


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "no_suffix"])
@pytest.mark.parametrize("size", [(32, 32), (20, 48)])
def test_an_image_of_just_the_size_is_unchanged(name, size, tmp_path):
    path = saved(tmp_path / name, pixels(*size), **({} if "." in name else {"format": "png"}))
    found = read(path, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels(*size))


def test_an_opaque_alpha_changes_nothing(tmp_path):
    image = Image.fromarray(pixels()).convert("RGBA")
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png", image), (32, 32)), pixels())


def test_grey_has_three_equal_channels(tmp_path):
    grey = pixels()[..., 0]
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png", grey), (32, 32)), np.stack([grey] * 3, axis=-1))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (read(path, (32, 32)) == (255, 0, 0)).all()


# Orientation, transparency, colour, depth


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [  # what the EXIF standard says the stored rows and columns are
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(orientation, upright, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    expected = upright(pixels(20, 48))
    path = saved(tmp_path / "a.png", pixels(20, 48), exif=exif)
    np.testing.assert_array_equal(read(path, expected.shape[:2]), expected)


def test_sixteen_bits_are_scaled_and_turned(tmp_path):
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    deep[-1, -1] = 65535
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    expected = np.rot90(np.round(deep * (255 / 65535)), -1)
    found = read(saved(tmp_path / "a.png", deep, exif=exif), (32, 32))
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected)


@pytest.mark.parametrize("name", ["a.tif", "a.pgm"])
def test_sixteen_bits_of_other_formats(name, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (32, 32), np.uint16)
    path = tmp_path / name
    if name == "a.pgm":  # Pillow reads it as 32-bit numbers
        path.write_bytes(b"P5 32 32 65535\n" + deep.astype(">u2").tobytes())
    else:
        saved(path, deep)
    np.testing.assert_array_equal(read(path, (32, 32))[..., 1], np.round(deep * (255 / 65535)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_an_image_that_is_changed_by_strips(mode, tmp_path, monkeypatch):
    """Strips of 5 rows, of which the last is shorter, give what one strip gives."""
    seen = np.random.default_rng(0).integers(0, 256, (32, 48, {"RGBA": 4, "LA": 2, "I;16": 2}[mode]), np.uint8)
    image = Image.frombytes(mode, (48, 32), seen.tobytes())
    path = saved(tmp_path / "a.png", image)
    whole = read(path, (32, 48))
    monkeypatch.setattr("kcifar.data.decoding._STRIP_PIXELS", 5 * 48)
    np.testing.assert_array_equal(read(path, (32, 48)), whole)


def test_a_palette_with_transparency_lies_on_white(tmp_path):
    """A third each opaque, of alpha 128 and transparent: c, c·128/255 + 127 and 255."""
    image = Image.new("P", (3, 1))
    image.putpalette([200, 100, 0] * 3)
    image.putdata([0, 1, 2])
    path = saved(tmp_path / "a.png", image.resize((33, 11), 0), transparency=bytes([255, 128, 0]))
    found = read(path, (11, 33)).astype(int)
    assert (found[:, :11] == (200, 100, 0)).all()
    half = np.array([200, 100, 0]) * 128 / 255 + 127
    assert np.abs(found[:, 11:22] - half).max() <= 1  # rounding
    assert (found[:, 22:] == 255).all()


def test_grey_with_alpha_lies_on_white(tmp_path):
    image = Image.new("LA", (32, 32), (10, 0))
    assert (read(saved(tmp_path / "a.png", image), (32, 32)) == 255).all()


@pytest.mark.parametrize(
    ("inks", "colour"), [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]
)
def test_cmyk(inks, colour, tmp_path):
    assert (read(saved(tmp_path / "a.tif", Image.new("CMYK", (32, 32), inks)), (32, 32)) == colour).all()


# Other sizes


def test_shrinking_is_antialiased(tmp_path):
    """A chessboard of single pixels becomes grey; without antialiasing it would stay black and white."""
    board = (np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = read(saved(tmp_path / "a.png", board), (32, 32)).astype(int)
    assert np.abs(found - 127.5).max() < 3  # at the sides the support is cut


@pytest.mark.parametrize("across", [False, True])
def test_the_middle_is_cut_out(across, tmp_path):
    """Of a 640×320 image the middle half of the longer side is left, to two pixels for the width of the filter."""
    bands = np.repeat(np.array([[255, 0, 0], [0, 255, 0], [0, 255, 0], [0, 0, 255]], np.uint8), 160, axis=0)
    image = np.broadcast_to(bands[:, None], (640, 320, 3))
    image = np.ascontiguousarray(image.swapaxes(0, 1) if across else image)
    found = read(saved(tmp_path / "a.png", image), (32, 32))
    middle = found[:, 2:-2] if across else found[2:-2]
    assert found.shape == (32, 32, 3)
    assert (middle == (0, 255, 0)).all()


def test_a_small_image_is_enlarged(tmp_path):
    found = read(saved(tmp_path / "a.png", np.full((3, 5, 3), (1, 2, 3), np.uint8)), (24, 48))
    assert found.shape == (24, 48, 3)
    assert (found == (1, 2, 3)).all()


# What cannot be read


def test_no_image(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    refused(tmp_path / "a.png", "of no format that Pillow knows")
    refused(tmp_path / "b.png", "No such file")


def test_a_truncated_image(tmp_path):
    path = saved(tmp_path / "a.jpg", pixels(100, 100))
    path.write_bytes(path.read_bytes()[:1500])
    refused(path, "truncated")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_32_bits_have_no_known_range(kind, tmp_path):
    refused(saved(tmp_path / "a.tif", np.ones((32, 32), kind)), "32-bit", "expected 8 or 16 bits")


def test_sides_that_no_photo_has(tmp_path):
    refused(saved(tmp_path / "a.png", Image.new("1", (1, 2**16))), "65536×1", "at most 65,535")
    assert read(saved(tmp_path / "b.png", Image.new("1", (1, 2**16 - 1))), (32, 32)).shape == (32, 32, 3)


def test_a_large_webp(tmp_path, monkeypatch):
    monkeypatch.setattr("kcifar.data.decoding._MOST_OF_WEBP", 32 * 32)
    assert read(saved(tmp_path / "a.webp", pixels()), (32, 32)).shape == (32, 32, 3)
    refused(saved(tmp_path / "b.webp", pixels(33)), "33×32", "at most 1,024 of a WebP")


def test_an_image_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)  # Pillow has Ghostscript run it
    Image.fromarray(pixels()).save(tmp_path / "a.eps")
    refused(tmp_path / "a.eps", "of no format that Pillow knows")


@pytest.mark.parametrize("side", [12, 15])
def test_more_pixels_than_pillow_allows(side, tmp_path, monkeypatch):
    """Pillow only warns of 144 where 100 are allowed; of 225, more than twice as many, it makes an error."""
    path = saved(tmp_path / "a.png", pixels(side, side))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(path, f"{side * side} pixels", "exceeds limit")


# Folders


def test_a_folder_in_the_order_of_its_paths(tmp_path):
    names = ["b.png", "a.JPG", "sub/c.webp", "sub/deeper/d.gif", "notes.txt", "e", ".f.png", ".cache/g.png", "z.bmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find([tmp_path])
    expected = ["a.JPG", "b.png", "sub/c.webp", "sub/deeper/d.gif", "z.bmp"]
    assert [photo.path.relative_to(tmp_path).as_posix() for photo in found] == expected
    assert not any(photo.named for photo in found)


def test_named_files_keep_their_order_and_need_no_suffix(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("b", ".a.png", "folder/c.png"):
        (tmp_path / name).write_bytes(b"")
    found = find([tmp_path / "b", str(tmp_path / "folder"), tmp_path / ".a.png"])
    assert [(photo.path.name, photo.named) for photo in found] == [("b", True), ("c.png", False), (".a.png", True)]


def test_folders_without_images(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="holds no images; expected"):
        find([tmp_path])
    (tmp_path / "sub" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no images; expected"):
        find([tmp_path])
    with pytest.raises(InputError, match="does not exist; expected an image or a folder"):
        find([tmp_path / "*.jpg"])
