"""One small data set, and writers of it in every form that kcifar.data reads."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest

from kcifar import data
from kcifar.data import Dataset, Split, layouts
from kcifar.data.dataset import CLASS_NAMES

PER_BATCH = 12


@pytest.fixture
def small(monkeypatch):
    """A data set of five batches and one, in the shape of CIFAR-10, with 12 images a batch."""
    monkeypatch.setattr(layouts, "PER_BATCH", PER_BATCH)
    return make()


def make(seed=0, names=CLASS_NAMES, shape=(32, 32, 3), validation=False):
    rng = np.random.default_rng(seed)
    return Dataset(
        train=_split(rng, 5 * PER_BATCH, names, shape),
        test=_split(rng, PER_BATCH, names, shape),
        class_names=names,
        validation=_split(rng, PER_BATCH, names, shape) if validation else None,
        source="made for tests",
    )


def write_drawn(path, train, test):
    """An .npz with so many of the drawn images, which are the demo's."""
    drawn = data.load("demo")
    arrays = {"x_train": drawn.train.images[:train], "y_train": drawn.train.labels[:train]}
    np.savez(path, **arrays, x_test=drawn.test.images[:test], y_test=drawn.test.labels[:test])


def _split(rng, n, names, shape):
    labels = np.arange(n, dtype=np.int64) % len(names)  # every class occurs, the image folder needs that
    return Split(rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(labels), len(names))


def assert_equal(found, expected):
    for which in ("train", "test", "validation"):
        a, b = getattr(found, which), getattr(expected, which)
        if b is None:
            assert a is None
            continue
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.images.dtype == np.uint8
        assert a.labels.dtype == np.int64
    assert found.class_names == expected.class_names


def _batches(dataset):
    """`(training batch number or None, rows uint8 (12, 3072) in the published plane order, labels)`."""
    for number in (1, 2, 3, 4, 5, None):
        split = dataset.test if number is None else dataset.train
        rows = slice(None) if number is None else slice((number - 1) * PER_BATCH, number * PER_BATCH)
        yield number, split.images[rows].transpose(0, 3, 1, 2).reshape(-1, 3072), split.labels[rows]


def python_files(dataset, style="python2"):
    """The files of cifar-10-batches-py as `{name: bytes}`, as Python 2 wrote them or as Python 3 would."""
    dump = _python2_dict if style == "python2" else lambda d: pickle.dumps(d, protocol=2 if style == "python3" else 4)
    files = {
        f"data_batch_{number}" if number else "test_batch": dump(
            {b"labels": labels.tolist(), b"data": np.ascontiguousarray(rows)}
        )
        for number, rows, labels in _batches(dataset)
    }
    files["batches.meta"] = dump({b"label_names": [name.encode() for name in dataset.class_names]})
    return files


def binary_files(dataset):
    """The files of cifar-10-batches-bin as `{name: bytes}`."""
    files = {
        f"data_batch_{number}.bin" if number else "test_batch.bin": np.concatenate(
            [labels.astype(np.uint8)[:, None], rows], axis=1
        ).tobytes()
        for number, rows, labels in _batches(dataset)
    }
    files["batches.meta.txt"] = ("\n".join(dataset.class_names) + "\n\n").encode()
    return files


FINE, COARSE = (tuple(f"{kind}_{label}" for label in range(n)) for kind, n in (("fine", 100), ("coarse", 20)))


def make_100(labels="fine"):
    """A data set in the shape of CIFAR-100, of the same images whichever labels it has: coarse is fine modulo 20."""
    fine = make(names=FINE)
    if labels == "fine":
        return fine
    parts = {which: getattr(fine, which) for which in ("train", "test")}
    splits = {which: Split(split.images, split.labels % 20, 20) for which, split in parts.items()}
    return Dataset(**splits, class_names=COARSE, source="made for tests")


def python_100_files():
    """The files of cifar-100-python as `{name: bytes}`, with the keys of the published ones."""
    dataset = make_100()
    files = {
        name: _python2_dict(
            {
                b"filenames": [b"image_%03d.png" % place for place in range(len(split))],
                b"batch_label": b"made for tests",
                b"fine_labels": split.labels.tolist(),
                b"coarse_labels": (split.labels % 20).tolist(),
                b"data": np.ascontiguousarray(split.images.transpose(0, 3, 1, 2).reshape(-1, 3072)),
            }
        )
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }
    names = {b"fine_label_names": FINE, b"coarse_label_names": COARSE}
    return files | {"meta": _python2_dict({key: [name.encode() for name in of] for key, of in names.items()})}


def binary_100_files():
    """The files of cifar-100-binary as `{name: bytes}`."""
    dataset = make_100()
    files = {}
    for name, split in (("train.bin", dataset.train), ("test.bin", dataset.test)):
        labels = np.stack([split.labels % 20, split.labels], axis=1).astype(np.uint8)
        files[name] = np.concatenate([labels, split.images.transpose(0, 3, 1, 2).reshape(-1, 3072)], axis=1).tobytes()
    names = {"fine_label_names.txt": FINE, "coarse_label_names.txt": COARSE}
    return files | {name: ("\n".join(of) + "\n").encode() for name, of in names.items()}


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, folder_name, files, extra=()):
    """A `.tar.gz` of the files in a folder, after the `(TarInfo, bytes)` of `extra`."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder_name}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_images(folder, dataset, name="{:05d}.png", validation="val"):
    from PIL import Image

    splits = {"train": dataset.train, "test": dataset.test, validation: dataset.validation}
    for which, split in splits.items():
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True) if split else ()):
            path = folder / which / dataset.class_names[label] / name.format(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(path)
    return folder


def npz_arrays(dataset):
    return {
        "x_train": dataset.train.images,
        "y_train": dataset.train.labels,
        "x_test": dataset.test.images,
        "y_test": dataset.test.labels,
    }


# Python 3 cannot write what Python 2 did (str as STRING opcodes), so these are its opcodes.
def _python2_dict(items):
    return b"\x80\x02}(" + b"".join(_python2(key) + _python2(value) for key, value in items.items()) + b"u."


def _python2(value):
    if isinstance(value, np.ndarray):
        shape = b"M" + struct.pack("<H", value.shape[0]) + b"M" + struct.pack("<H", value.shape[1]) + b"\x86"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return empty + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
