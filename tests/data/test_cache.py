"""The cache: hit, miss, change, damage, several at once, nowhere to write."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kcifar.data import cache, load, npz
from tests.data_fixtures import assert_equal, make, npz_arrays, write_images

pytestmark = pytest.mark.once

ENTRY_FILES = {"meta.json", "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"}


@pytest.fixture
def source(tmp_path):
    np.savez(tmp_path / "source.npz", **npz_arrays(make()))
    return tmp_path / "source.npz"


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the source is read."""
    calls, read = [], npz.read
    monkeypatch.setattr(npz, "read", lambda path: calls.append(path) or read(path))
    return calls


def entry():
    (folder,) = cache.root().iterdir()  # exactly one, and no temporary folder left
    return folder


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_the_second_load_maps_what_the_first_wrote(source, reads):
    for _ in range(3):
        found = load(source)
        assert_equal(found, make())
        assert found.source == str(source)
        for split in (found.train, found.test):
            assert is_mapped(split.images)
            assert is_mapped(split.labels)
            assert not split.images.flags.writeable
    assert len(reads) == 1
    assert {path.name for path in entry().iterdir()} == ENTRY_FILES
    assert json.loads((entry() / "meta.json").read_text())["sha256"] == make().fingerprint()


def test_the_cache_follows_the_environment(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load(source)
    assert entry().is_relative_to(tmp_path / "cache" / "kcifar")


def test_a_source_that_changed_is_read_again_in_the_place_of_the_old(source, reads):
    old = load(source)
    np.savez(source, **npz_arrays(make(seed=1)))
    os.utime(source, ns=(0, 1))  # whatever the clock's resolution
    assert_equal(load(source), make(seed=1))
    assert_equal(old, make())  # what is mapped stays
    assert len(reads) == 2
    assert entry()


def test_a_folder_of_images_is_read_again_when_a_file_changes_comes_or_goes(tmp_path):
    dataset = make()
    folder = write_images(tmp_path / "images", dataset)
    assert_equal(load(folder), dataset)
    some = folder / "train" / dataset.class_names[dataset.train.labels[0]] / "00000.png"
    copy = some.with_name("00060.png")

    copy.write_bytes(some.read_bytes())
    assert len(load(folder).train) == 61
    copy.unlink()
    assert len(load(folder).train) == 60
    some.write_bytes(next((folder / "test" / some.parent.name).iterdir()).read_bytes())
    os.utime(some, ns=(0, 1))
    changed = load(folder)
    assert not np.array_equal(changed.train.images[0], dataset.train.images[0])
    some.rename(copy)
    np.testing.assert_array_equal(load(folder).train.images[-1], changed.train.images[0])


def _truncated(folder):
    os.truncate(folder / "train_images.npy", 1000)


def _overwritten(folder):
    content = bytearray((folder / "train_images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train_images.npy").write_bytes(content)
    os.utime(folder / "train_images.npy", ns=(0, 1))


def _lost(folder):
    (folder / "test_labels.npy").unlink()


def _no_meta(folder):
    (folder / "meta.json").unlink()


def _half_meta(folder):
    (folder / "meta.json").write_text((folder / "meta.json").read_text()[:50])


def _other_meta(folder):
    (folder / "meta.json").write_text('["format"]')


def _other_format(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": cache.FORMAT + 1}))


def _a_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("no folder")


@pytest.mark.parametrize(
    "damage",
    [_truncated, _overwritten, _lost, _no_meta, _half_meta, _other_meta, _other_format, _a_file],
)
def test_a_damaged_entry_is_written_anew(source, reads, damage):
    load(source)
    damage(entry())
    assert_equal(load(source), make())
    assert_equal(load(source), make())
    assert len(reads) == 2
    assert {path.name for path in entry().iterdir()} == ENTRY_FILES


def test_another_process_may_be_first(source, monkeypatch):
    """While one reads the source, another finishes the same entry: the first one's is kept, nothing is left over."""
    read = npz.read
    published = []

    def slow(path):
        if not published:
            published.append(None)
            load(source)  # the other process
            published[0] = entry().stat().st_ino
        return read(path)

    monkeypatch.setattr(npz, "read", slow)
    assert_equal(load(source), make())
    assert entry().stat().st_ino == published[0]


def test_first_loads_at_once(source):
    code = "import sys, kcifar.data; print(kcifar.data.load(sys.argv[1]).fingerprint())"
    command = [sys.executable, "-W", "error", "-c", code, str(source)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = {process.communicate()[0].strip() for process in processes}
    assert printed == {make().fingerprint()}
    assert [process.returncode for process in processes] == [0] * 4
    assert {path.name for path in entry().iterdir()} == ENTRY_FILES


def test_a_cache_that_cannot_be_made(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        found = load(source)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert_equal(found, make())
    assert not is_mapped(found.train.images)
    assert not found.train.images.flags.writeable
    assert cache.scratch() is None


def test_a_disk_that_is_full(source, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert_equal(load(source), make())
    assert list(cache.root().iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(source):
    cache.root().mkdir(parents=True)
    old, young = cache.root() / ".x-old", cache.root() / ".x-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "train_images.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    load(source)
    assert not old.exists()
    assert young.exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the private memory from /proc")
def test_a_warm_load_takes_little_private_memory(cifar10_folder):
    """50 MB, of 184 MB of pixels; the interpreter and NumPy alone take about 16."""
    load(cifar10_folder)
    code = (
        "import sys, kcifar.data; data = kcifar.data.load(sys.argv[1]); data.train.images.max();"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('RssAnon')][0])"
    )
    printed = subprocess.run([sys.executable, "-c", code, cifar10_folder], check=True, capture_output=True, text=True)
    assert int(printed.stdout) < 50 * 1024
