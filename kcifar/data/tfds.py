"""CIFAR-10 through TensorFlow Datasets, without TensorFlow: prepared folders, and the download.

TFDS 4.9.10 without TensorFlow downloads and verifies, and reads what is prepared in the ArrayRecord format, but cannot
prepare CIFAR-10 itself: extracting the archive, reading its members and encoding PNG all call `tf`. So its download
manager fetches the archive and `kcifar.data.official` reads that, which also leaves the images in the published order.
"""

import dataclasses
import importlib
import io
import json
import re
import tempfile
import threading

import numpy as np

from kcifar.data import official
from kcifar.data.dataset import IMAGE_SHAPE, Dataset, Split
from kcifar.errors import InputError

SIGNATURE = official.BINARY.sha256
"""Of the cached download: the archive that it is read from."""

PROBE_SECONDS = 10
"""How long the host may take to answer before the download counts as impossible; TFDS itself retries for minutes."""

_INSTALL = "pip install tensorflow-datasets array-record importlib-resources"


def download(folder):
    """The `Dataset` from the binary archive, downloaded by TFDS, which checks its size and SHA-256 sum.

    Args:
        folder: where the archive (170 MB) lies until it is read; it is removed then.

    Raises:
        InputError: the host does not answer within `PROBE_SECONDS`, the download breaks off or is not the archive.
    """
    tfds = _import("importlib_resources")
    known = tfds.builder_cls("cifar10").url_infos
    (url,) = known
    reason = _unreachable(url)
    if reason is None:
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
                manager = tfds.download.DownloadManager(download_dir=place, url_infos=known)
                dataset = official.read_archive(manager.download(url))
            return dataclasses.replace(dataset, source=f"CIFAR-10, downloaded from {url}")
        except InputError:
            raise
        except Exception as error:  # whatever requests, promise and TFDS raise
            reason = _one_line(error)
    raise InputError(
        f"CIFAR-10 cannot be downloaded from {url} ({reason}); expected a network connection or another source: use"
        " 'demo' or the path of cifar-10-batches-py, cifar-10-batches-bin, an official archive, a folder of images per"
        " class, an .npz or a TFDS folder, with --data or the variable KCIFAR_DATA"
    )


def read_folder(path):
    """The `Dataset` in a folder that TFDS prepared in the ArrayRecord format, in the published order.

    Any data set will do that has the splits train and test and the features `image` (uint8, 32×32×3) and `label`. TFDS
    stores the examples shuffled; where their `id` ends in a number (`train_00042`) the order is by this number.

    Raises:
        InputError: another format, other splits or features, or files that are missing or damaged.
    """
    try:
        found = json.loads((path / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        if found != "array_record":
            raise InputError(
                f"'{path}' is in the format {found}; expected array_record, which reads without TensorFlow: prepare it"
                " with file_format='array_record' or convert it with tfds convert_format"
            )
        builder = _import("importlib_resources", "array_record").builder_from_directory(str(path))
        classes = tuple(builder.info.features["label"].names)
        train, test = (_split(builder, which, classes) for which in ("train", "test"))
        return Dataset(train=train, test=test, class_names=classes, source=f"{builder.info.full_name} in {path}")
    except InputError:
        raise
    except Exception as error:  # damaged JSON, protobuf or records raise anything
        raise InputError(
            f"'{path}' cannot be read as a TFDS folder ({_one_line(error)}); expected the splits train and test with"
            " image and label in the ArrayRecord format: prepare it again"
        ) from error


def _split(builder, which, classes, chunk=1000):
    from PIL import Image

    tfds = _import()
    # Left encoded: TFDS decodes one by one and warns that it would rather have OpenCV.
    source = builder.as_data_source(split=which, decoders={"image": tfds.decode.SkipDecoding()})
    images = np.empty((len(source), *IMAGE_SHAPE), np.uint8)
    labels = np.empty(len(source), np.int64)
    numbers = []
    for start in range(0, len(source), chunk):
        records = source.__getitems__(range(start, min(start + chunk, len(source))))
        for i, record in enumerate(records, start):
            image = Image.open(io.BytesIO(record["image"]))
            if image.size != IMAGE_SHAPE[:2]:
                raise InputError(f"split {which} has an image of {image.size[0]}x{image.size[1]}; expected 32x32")
            images[i], labels[i] = image.convert("RGB"), record["label"]
            numbers.append(_number(record))
    if None not in numbers and len(set(numbers)) == len(numbers):
        rows = np.argsort(numbers)
        images, labels = images[rows], labels[rows]
    return Split(images, labels, len(classes))


def _number(record):
    """The number that the example's id ends in, or None."""
    match = re.search(rb"\d+$", record.get("id", b""))
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
