"""What is read within bounds: files of which there is no end, archives that swell, arrays that are not there."""

import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from kcifar import InputError, reading
from kcifar.checksum import sha256
from tests.fuzz_claims import bomb, claiming_npy, zip_bytes

pytestmark = pytest.mark.once


@pytest.fixture(params=["a pipe", "an endless device", "a folder"])
def endless(request, tmp_path):
    path = tmp_path / "file"
    if request.param == "a pipe":
        os.mkfifo(path)
    elif request.param == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("read", [reading.size, reading.content, reading.text, sha256])
def test_of_regular_files_alone_there_is_an_end(read, endless):
    with pytest.raises(InputError, match="no regular file"):
        read(endless)


@pytest.mark.parametrize("opens", [reading.archive, reading.npz])
def test_of_regular_archives_too(opens, endless):
    with pytest.raises(InputError, match="no regular file"), opens(endless):
        pass


def test_a_file_of_just_the_most_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert reading.content(tmp_path / "file", most=5) == b"12345"
    with pytest.raises(InputError, match="5 bytes; expected at most 4"):
        reading.content(tmp_path / "file", most=4)


def test_json_that_is_nested_too_deep():
    assert reading.parsed_json("[" * 50 + "]" * 50)
    with pytest.raises(ValueError, match="too deep"):
        reading.parsed_json("[" * 100_000 + "]" * 100_000)


def test_an_archive_that_swells(tmp_path):
    (tmp_path / "bomb.zip").write_bytes(zip_bytes([["a", bomb()]]))
    with pytest.raises(InputError, match="would unpack to 3,221,225,472"), reading.archive(tmp_path / "bomb.zip"):
        pass


def test_an_archive_of_one_content_under_many_names(tmp_path):
    # Each of them says that it has the bytes of the only one.
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.writestr("a", bytes(2**20))
        archive.filelist *= 300
    with pytest.raises(InputError, match="would unpack to 314,572,800"), reading.archive(tmp_path / "many.zip"):
        pass
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", b"a")
        archive.filelist *= 2
    with pytest.raises(InputError, match="several entries of the same name"), reading.archive(tmp_path / "two.zip"):
        pass


def test_what_shrinks_as_images_do_is_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "images.npz", x=np.zeros((2000, 32, 32, 3), np.uint8))  # 400 times as small
    with reading.npz(tmp_path / "images.npz") as arrays:
        assert arrays["x"].shape == (2000, 32, 32, 3)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2**40,), "|u1"), ((2**31, 2**31, 2**31), "<f8"), ((9,), "<U100000000"), ((2**62,), "<U0")]
)
def test_an_array_that_is_not_there(shape, dtype, tmp_path):
    (tmp_path / "a.npz").write_bytes(zip_bytes([["a.npy", claiming_npy(shape, dtype) + bytes(100)]]))
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims to be"), reading.npz(tmp_path / "a.npz"):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_arrays_that_are_there(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.zeros((0, 2**30), np.int8),
        "c": np.array("text"),
        "d": np.int8(3),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    with reading.npz(tmp_path / "a.npz") as found:
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_an_archive_whose_names_are_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ä" * 4, b"a")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace("ä".encode(), b"\xee\xff"))
    with pytest.raises(zipfile.BadZipFile), reading.archive(tmp_path / "a.zip"):
        pass
