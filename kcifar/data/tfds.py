"""TensorFlow Datasets without TensorFlow: prepared folders, data sets by name, and the download.

TFDS 4.9.10 without TensorFlow downloads and verifies, and reads what is prepared in the ArrayRecord format, but cannot
prepare most data sets: extracting an archive, reading its members and encoding PNG all call `tf`. So for CIFAR-10 and
CIFAR-100 its download manager fetches the archive and `kcifar.data.official` reads that, which also leaves the images
in the published order.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import re
import sys
import tempfile
import threading
import warnings

import numpy as np

from kcifar import reading
from kcifar.data import decoding, images, layouts, official
from kcifar.data.dataset import Dataset, Split
from kcifar.errors import InputError, nearest, some

ARCHIVES = {"cifar10": layouts.BINARY, "cifar100": layouts.BINARY_100}
"""What is downloaded as the published archive, which needs no preparing, by the data set's name."""

PROBE_SECONDS = 10
"""How long the host may take to answer before the download counts as impossible; TFDS itself retries for minutes."""

_INSTALL = "pip install tensorflow-datasets array-record importlib-resources"
_OTHERS = (
    "use 'demo' or the path of cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python, an official archive, a"
    " folder of images per class, an .npz or a TFDS folder, with --data or the variable KCIFAR_DATA"
)


def download(folder, name="cifar10", coarse=False):
    """The `Dataset` from the binary archive, downloaded by TFDS, which checks its size and SHA-256 sum.

    Args:
        folder: where the archive (170 MB) lies until it is read; it is removed then.
        name: one of `ARCHIVES`.
        coarse: take the coarse labels of CIFAR-100.

    Raises:
        InputError: the host does not answer within `PROBE_SECONDS`, the download breaks off or is not the archive.
    """
    tfds = _import("importlib_resources")
    title, known = ARCHIVES[name].data, tfds.builder_cls(name).url_infos
    (url,) = known
    reason = _unreachable(url)
    if reason is None:
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
                manager = tfds.download.DownloadManager(download_dir=place, url_infos=known)
                dataset = official.read_archive(manager.download(url), coarse)
            return dataclasses.replace(dataset, source=f"{title}, downloaded from {url}")
        except InputError:
            raise
        except Exception as error:  # whatever requests, promise and TFDS raise
            reason = _one_line(error)
    raise InputError(
        f"{title} cannot be downloaded from {url} ({reason}); expected a network connection or another source:"
        f" {_OTHERS}"
    )


def prepared(name):
    """The folder of a data set by its name in TFDS, as "mnist", "mnist:3.0.1" or "my_own/large:1.0.0".

    It is looked for in the folder of TFDS (`~/tensorflow_datasets`, or what the variable TFDS_DATA_DIR names). Where it
    is not there, TFDS downloads and prepares it in the ArrayRecord format, if that needs no TensorFlow. None for one of
    `ARCHIVES` that is not there.

    Raises:
        InputError: TFDS knows no such data set, or it is not there and cannot be downloaded or prepared.
    """
    tfds = _import("importlib_resources", "array_record")
    where = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        builder = tfds.builder(name, data_dir=os.path.expanduser(where), file_format="array_record")
    except Exception as error:  # DatasetNotFoundError, and what a name with a wrong version or configuration raises
        unknown = isinstance(error, tfds.core.DatasetNotFoundError)
        why = nearest(name, tfds.list_builders(with_community_datasets=False)) if unknown else _one_line(error)
        why = "check the name" if why.startswith("known: ") else why
        raise InputError(
            f"TensorFlow Datasets knows no '{name}', and there is none in {where}; expected the name of a data set:"
            f" {why}"
        ) from None
    path = pathlib.Path(builder.data_path)
    if (path / "dataset_info.json").exists():
        return path
    if name in ARCHIVES:
        return None
    _prepare(tfds, builder, name, where)
    return path


def _prepare(tfds, builder, name, where):
    urls = list(getattr(builder, "url_infos", None) or ())
    reason = _unreachable(urls[0]) if urls else None
    if reason is not None:
        reason = f"{urls[0]}: {reason}"
    else:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                builder.download_and_prepare()
            return
        except Exception as error:  # whatever requests, promise, TFDS and the want of TensorFlow raise
            reason = _one_line(error)
    raise InputError(
        f"'{name}' is not in {where} and cannot be downloaded or prepared here ({reason}); expected it there in the"
        f" ArrayRecord format: where there is a network and TensorFlow, tfds build {name} --file_format=array_record,"
        f" and copy {builder.info.full_name} there"
    )


def read_folder(path):
    """The `Dataset` in a folder that TFDS prepared in the ArrayRecord format, in the published order.

    Any data set will do that has the splits train and test (one called validation is taken as such) and, as its
    supervised keys, an image and a class label; all images of one size. TFDS stores the examples shuffled; where their
    `id` ends in a number (`train_00042`) the order is by this number.

    Raises:
        InputError: another format, other splits or features, images of several sizes, or files that are missing or
            damaged.
    """
    try:
        odd = sorted(entry.name for entry in path.iterdir() if not (entry.is_file() or entry.is_dir()))
        if odd:  # a pipe, say, for which TFDS would wait
            raise InputError(f"'{path}' holds {some(odd)}, no regular files; expected what TFDS prepared: remove them")
        for entry in path.iterdir():  # TFDS reads them whole, names of classes among them
            if entry.is_file() and ".array_record" not in entry.name and reading.size(entry) > reading.MOST_TEXT:
                raise InputError(f"'{entry}' has {reading.size(entry):,} bytes; expected what TFDS prepared")
        found = reading.parsed_json(reading.text(path / "dataset_info.json")).get("fileFormat", "tfrecord")
        if found != "array_record":
            raise InputError(
                f"'{path}' is in the format {found}; expected array_record, which reads without TensorFlow: prepare it"
                " with file_format='array_record' or convert it with tfds convert_format"
            )
        builder = _import("importlib_resources", "array_record").builder_from_directory(str(path))
        splits, names = _splits(builder, *(builder.info.supervised_keys or ("image", "label")))
        return Dataset(**splits, class_names=names, source=f"{builder.info.full_name} in {path}")
    except InputError:
        raise
    except Exception as error:  # damaged JSON, protobuf or records raise anything
        raise InputError(
            f"'{path}' cannot be read as a TFDS folder ({_one_line(error)}); expected the splits train and test with"
            " image and label in the ArrayRecord format: prepare it again"
        ) from error


def _splits(builder, image_key, label_key):
    """The splits by name. The one for validation may be missing."""
    names = _class_names(builder.info.features[label_key])
    there = [which for which in ("train", "test", "validation") if which in builder.info.splits]
    missing = [which for which in ("train", "test") if which not in there]
    if missing:
        raise InputError(
            f"{builder.info.full_name} has the splits {some(builder.info.splits) or 'none'}; expected train and test:"
            f" {' and '.join(missing)} is missing, write the images into folders of classes or an .npz"
        )
    return {which: _split(builder, which, image_key, label_key, len(names)) for which in there}, names


def _class_names(label):
    if getattr(label, "num_classes", None) is None:
        raise ValueError(f"a label of kind {type(label).__name__}, no ClassLabel")
    return tuple(label.names or (f"class {number}" for number in range(label.num_classes)))


def _split(builder, which, image_key, label_key, classes, chunk=1000):
    tfds = _import()
    # Left encoded: TFDS decodes one by one and warns that it would rather have OpenCV.
    source = builder.as_data_source(split=which, decoders={image_key: tfds.decode.SkipDecoding()})
    arrays = images.Arrays(f"split {which} of {builder.info.full_name}", len(source))
    labels = np.empty(len(source), np.int64)
    numbers = []
    with decoding.strict():
        for start in range(0, len(source), chunk):
            records = source.__getitems__(range(start, min(start + chunk, len(source))))
            for i, record in enumerate(records, start):
                arrays.add(None, decoding.upright(io.BytesIO(record[image_key])))
                labels[i] = record[label_key]
                numbers.append(_number(record))
    pixels = arrays.images()
    if None not in numbers and len(set(numbers)) == len(numbers):
        rows = np.argsort(numbers)
        pixels, labels = pixels[rows], labels[rows]
    return Split(pixels, labels, classes)


def _number(record):
    """The number that the example's id ends in, or None."""
    match = re.search(rb"(?<!\d)\d{1,18}$", record.get("id", b""))
    return match and int(match[0])


def _unreachable(url):
    """Why `url` does not answer, or None."""
    # Asked by requests, as TFDS does, so that proxies count; in a thread, since looking up a name has no time limit.
    import requests

    reason = [f"no answer within {PROBE_SECONDS} s"]

    def ask():
        try:
            with requests.get(url, stream=True, timeout=PROBE_SECONDS / 2) as answer:
                reason[0] = None if answer.ok else f"the host answers {answer.status_code}"
        except Exception as error:
            reason[0] = _one_line(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return reason[0]


def _import(*needed):
    """TFDS, after what it needs without declaring it everywhere: it would find that out late, and say it at length."""
    try:
        for name in needed:
            importlib.import_module(name)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise InputError(f"TensorFlow Datasets cannot be used ({_one_line(error)}); expected it: {_INSTALL}") from error


def _one_line(error):
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:300] + "…"
