"""The published folders and archives: round trips, damage, and files that mean harm."""

import contextlib
import dataclasses
import hashlib
import os
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest

from kcifar import InputError
from kcifar.data import layouts, load, official, pickles
from kcifar.data.dataset import CLASS_NAMES
from tests.data_fixtures import (
    assert_equal,
    binary_100_files,
    binary_files,
    make_100,
    python_100_files,
    python_files,
    small,  # noqa: F401
    write_archive,
    write_files,
)

pytestmark = pytest.mark.once

PY, BIN = layouts.PYTHON, layouts.BINARY
PY_100, BIN_100 = layouts.PYTHON_100, layouts.BINARY_100


def refused(source, *words):
    with pytest.raises(InputError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    for word in words:
        assert word in message
    return message


def official_archive(monkeypatch, path, layout, files, **options):
    """An archive that passes for the official one: its sum is put in the place of the published one."""
    write_archive(path, layout.folder, files, **options)
    layout_with_sum = dataclasses.replace(layout, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(official, "LAYOUTS", (layout_with_sum,))
    return path


@pytest.mark.parametrize("style", ["python2", "python3", "python3-protocol4"])
def test_python_folder(small, tmp_path, style):  # noqa: F811
    folder = write_files(tmp_path / PY.folder, python_files(small, style))
    assert_equal(load(folder), small)
    assert_equal(load(tmp_path), small)
    assert load(folder).source == str(folder)


def test_binary_folder(small, tmp_path):  # noqa: F811
    folder = write_files(tmp_path / "renamed", binary_files(small))
    assert_equal(load(str(folder)), small)
    write_files(tmp_path / "parent" / BIN.folder, binary_files(small))
    assert_equal(load(tmp_path / "parent"), small)


@pytest.mark.parametrize(("layout", "files"), [(PY, python_files), (BIN, binary_files)])
def test_archive(small, tmp_path, monkeypatch, layout, files):  # noqa: F811
    before = set(os.listdir())
    path = official_archive(monkeypatch, tmp_path / "any-name.tar.gz", layout, files(small))
    assert_equal(load(path), small)
    assert set(os.listdir()) == before
    assert not list(tmp_path.rglob("data_batch_1*"))  # nothing is extracted


@pytest.mark.parametrize("labels", ["fine", "coarse"])
@pytest.mark.parametrize(("layout", "files"), [(PY_100, python_100_files), (BIN_100, binary_100_files)])
def test_cifar_100_with_either_labels(small, tmp_path, monkeypatch, layout, files, labels):  # noqa: F811
    switch = ":coarse" if labels == "coarse" else ""
    folder = write_files(tmp_path / "data" / layout.folder, files())
    for path in (folder, folder.parent):
        found = load(f"{path}{switch}")
        assert_equal(found, make_100(labels))
    renamed = write_files(tmp_path / "renamed", files())
    assert_equal(load(f"{renamed}{switch}"), make_100(labels))
    archive = official_archive(monkeypatch, tmp_path / "any.tar.gz", layout, files())
    assert_equal(load(f"{archive}{switch}"), make_100(labels))
    # Each has an entry of its own in the cache.
    assert_equal(load(folder), make_100())


def test_a_path_that_ends_as_the_switch_does_wins(small, tmp_path):  # noqa: F811
    write_files(tmp_path / "data", python_100_files())
    write_files(tmp_path / "data:coarse", python_files(small))
    assert_equal(load(f"{tmp_path / 'data'}:coarse"), small)
    refused(f"{tmp_path / 'nowhere'}:coarse", "no such path")


def test_what_has_no_coarse_labels(small, tmp_path, monkeypatch):  # noqa: F811
    folder = write_files(tmp_path / PY.folder, python_files(small))
    refused(f"{folder}:coarse", "CIFAR-10 has no coarse labels", "CIFAR-100")
    refused(f"{official_archive(monkeypatch, tmp_path / 'a.tgz', PY, python_files(small))}:coarse", "no coarse labels")
    (tmp_path / "images" / "train").mkdir(parents=True)
    refused(f"{tmp_path / 'images'}:coarse", "behind CIFAR-100 alone")


def test_a_folder_with_both_data_sets_is_not_guessed_at(small, tmp_path):  # noqa: F811
    write_files(tmp_path / PY.folder, python_files(small))
    write_files(tmp_path / PY_100.folder, python_100_files())
    refused(tmp_path, "cifar-10-batches-py and cifar-100-python", "give the path of one")
    assert_equal(load(f"{tmp_path}:coarse"), make_100("coarse"))


def test_a_damaged_folder_of_cifar_100(small, tmp_path):  # noqa: F811
    files = python_100_files()
    folder = write_files(
        tmp_path / PY_100.folder, files | {"meta": files["meta"].replace(b"fine_label_names", b"f" * 16)}
    )
    refused(folder, "meta", "fine_label_names")
    write_files(folder, files | {"test": files["train"]})
    refused(folder, "test", "(60, 3072)", "(12, 3072)")
    (folder / "train").unlink()
    refused(folder, "lacks train", PY_100.archive)
    folder = write_files(tmp_path / BIN_100.folder, binary_100_files() | {"fine_label_names.txt": b"apple\nbear\n"})
    refused(folder, "has 2 names; expected 100")


def test_the_real_folder(cifar10_folder):
    real = load(cifar10_folder)
    assert (len(real.train), len(real.test)) == (50_000, 10_000)
    assert real.class_names == CLASS_NAMES
    assert np.bincount(real.train.labels).tolist() == [5000] * 10
    assert np.bincount(real.test.labels).tolist() == [1000] * 10
    # The first training labels as published: frog, truck, truck, deer, automobile; the first test label is a cat.
    assert real.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert real.test.labels[0] == 3


def test_half_a_folder_names_what_is_missing(small, tmp_path):  # noqa: F811
    files = python_files(small)
    del files["data_batch_3"], files["batches.meta"]
    write_files(tmp_path / PY.folder, files)
    refused(tmp_path, "data_batch_3", "batches.meta", "unpack")
    (tmp_path / "empty" / PY.folder).mkdir(parents=True)
    refused(tmp_path / "empty" / PY.folder, "data_batch_1")


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("data_batch_2", lambda content: content[:500], ("data_batch_2", "unpack")),
        ("data_batch_2", lambda content: b"", ("data_batch_2",)),
        ("test_batch", lambda content: b"\x80\x02]q\x00.", ("test_batch", "list")),
        ("test_batch", lambda content: pickle.dumps({b"data": [1], b"labels": []}, 2), ("'data' is list",)),
        ("test_batch", lambda content: content.replace(b"J\x03\0\0\0", b"J\x0a\0\0\0", 1), ("out of range: 10",)),
        ("test_batch", lambda content: content.replace(b"J\x03\0\0\0", b"K\x03K\x03", 1), ("13 values",)),
        ("batches.meta", lambda content: content.replace(b"horse", b"mouse"), ("mouse", "airplane")),
    ],
)
def test_a_damaged_pickle_folder(small, tmp_path, name, damage, words):  # noqa: F811
    files = python_files(small)
    files[name] = damage(files[name])
    refused(write_files(tmp_path / PY.folder, files), *words)


def test_a_damaged_binary_folder(small, tmp_path):  # noqa: F811
    files = binary_files(small)
    folder = write_files(tmp_path / BIN.folder, files)
    (folder / "data_batch_4.bin").write_bytes(files["data_batch_4.bin"][:-1])
    refused(folder, "data_batch_4.bin", "36875 bytes", "36876")
    (folder / "data_batch_4.bin").write_bytes(b"\xff" + files["data_batch_4.bin"][1:])
    refused(folder, "data_batch_4.bin", "out of range: 255 at index 0")


def test_a_file_far_too_large_is_not_read(small, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(official, "MAX_FILE_BYTES", 1000)
    refused(write_files(tmp_path / PY.folder, python_files(small)), "data_batch_1", "at most 1000")


def test_an_archive_with_another_checksum(small, tmp_path):  # noqa: F811
    path = write_archive(tmp_path / PY.archive, PY.folder, python_files(small))
    refused(path, hashlib.sha256(path.read_bytes()).hexdigest()[:8], PY.archive, BIN.archive, "download")


class Payload:
    """Unpickled by `pickle.load` it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_pickle_that_wants_more_than_arrays_runs_nothing(small, tmp_path):  # noqa: F811
    touched = tmp_path / "touched"
    content = pickle.dumps({b"data": Payload(touched), b"labels": []}, protocol=2)
    files = python_files(small) | {"data_batch_1": content}
    refused(write_files(tmp_path / PY.folder, files), "data_batch_1", "posix.system", "do not trust")
    assert not touched.exists()
    pickle.loads(content)
    assert touched.exists()  # the payload does work


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"(ios\nsystem\nU\x04true.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02U\x02id\x51.",  # a persistent id
        pickle.dumps(np.array([print, None]), 2),  # an array of objects
        pickle.dumps(np.zeros(2, "u1,u1"), 2),  # a structured array
        b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02c_codecs\nencode\n}U\x01aK\x01s\x86b.",  # the state of a function
        # A kilobyte that is remembered, and encoded a thousand times.
        b"\x80\x02]X\x00\x04\0\0"
        + b"a" * 1024
        + b"q\x000"
        + b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86Ra" * 1000
        + b".",
    ],
)
def test_pickles_of_anything_else_are_refused(content):
    with pytest.raises(InputError) as caught:
        pickles.read(content, "'file'")
    assert str(caught.value).startswith("'file'")
    assert "\n" not in str(caught.value)


def shared_tuples(depth=40):
    """Opcodes of a tuple that holds one tuple twice, and so on: 2^40 in all."""
    doubled = (b"h" + bytes([number]) + b"\x86q" + bytes([number + 1]) for number in range(depth))
    return b")q\x00" + b"".join(doubled)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\x00\x00\x00\x10.",  # remembered as number 2^28
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00.",  # 4 GiB of bytes
        b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.",  # that can be changed
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x04\x95\x00\x00\x00\x00\x01\x00\x00\x00.",  # a frame of them
    ],
)
def test_a_pickle_that_claims_gigabytes_gets_no_room(content):
    tracemalloc.start()
    with contextlib.suppress(InputError):
        pickles.read(content, "'file'")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + shared_tuples() + b"K\x01s.",  # hashed as a key
        b"\x80\x02}(" + shared_tuples() + b"K\x01u.",
        b"\x80\x02(" + shared_tuples() + b"K\x01d.",
        b"\x80\x02cnumpy\ndtype\n" + shared_tuples() + b"\x85R.",  # told in the error
        b"\x80\x02c_codecs\nencode\nX\x01\0\0\0a" + shared_tuples() + b"\x86R.",
    ],
)
def test_a_pickle_of_the_same_tuples_again_and_again(content):
    with pytest.raises(InputError, match="a tuple where text should be"):
        pickles.read(content, "'file'")


def test_names_that_are_the_same_lists_again_and_again(small, tmp_path):  # noqa: F811
    names = []
    for _ in range(40):
        names = [names, names]
    files = python_files(small) | {"batches.meta": pickle.dumps({b"label_names": names}, 2)}
    refused(write_files(tmp_path / PY.folder, files), "batches.meta", "names the classes None")


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array([1, 258], ">i4")])
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_come_back_equal(array, protocol):
    found = pickles.read(pickle.dumps({"a": array}, protocol), "'file'")["a"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_an_array_that_promises_more_bytes_than_it_has():
    content = pickle.dumps({"a": np.zeros(7, np.uint8)}, 2).replace(b"K\x07\x85", b"K\x09\x85")
    with pytest.raises(InputError, match=r"shape \(9,\) with 7 bytes"):
        pickles.read(content, "'file'")


def link(name, kind, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file(small, tmp_path, monkeypatch, kind):  # noqa: F811
    secret = tmp_path / "secret"
    secret.write_bytes(python_files(small)["data_batch_1"])
    extra = [(link(f"{PY.folder}/data_batch_1", kind, str(secret)), b"")]
    path = official_archive(monkeypatch, tmp_path / "a.tar.gz", PY, python_files(small), extra=extra)
    refused(path, "data_batch_1", "no plain file")


def test_members_elsewhere_are_left_alone(small, tmp_path, monkeypatch):  # noqa: F811
    names = ("../escaped", "/tmp/kcifar-escaped", f"{PY.folder}/../../escaped", "data_batch_1")
    extra = [(tarfile.TarInfo(name), b"") for name in names]
    extra.append((link("cifar-10-batches-py/link", tarfile.SYMTYPE, "/etc"), b""))
    inner = tmp_path / "inner"
    inner.mkdir()
    path = official_archive(monkeypatch, inner / "a.tar.gz", PY, python_files(small), extra=extra)
    assert_equal(load(path), small)
    assert not (tmp_path / "escaped").exists()
    assert os.listdir(inner) == ["a.tar.gz"]


def test_an_archive_that_lacks_a_member_or_has_one_too_large(small, tmp_path, monkeypatch):  # noqa: F811
    files = binary_files(small)
    del files["test_batch.bin"]
    refused(official_archive(monkeypatch, tmp_path / "a.tar.gz", BIN, files), "test_batch.bin", "lacks")
    monkeypatch.setattr(official, "MAX_FILE_BYTES", 1000)
    refused(official_archive(monkeypatch, tmp_path / "b.tar.gz", BIN, binary_files(small)), "36876 bytes", "at most")


def test_an_archive_cut_short(small, tmp_path, monkeypatch):  # noqa: F811
    path = write_archive(tmp_path / "a.tar.gz", PY.folder, python_files(small))
    path.write_bytes(path.read_bytes()[:20_000])
    layout = dataclasses.replace(PY, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(official, "LAYOUTS", (layout,))
    refused(path, "cannot be read as an archive")
