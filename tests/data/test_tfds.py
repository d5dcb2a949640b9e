"""TensorFlow Datasets without TensorFlow: a folder prepared by its own CIFAR-10 builder, and its download manager."""

import dataclasses
import hashlib
import http.server
import io
import os
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from kcifar import InputError
from kcifar.data import cache, layouts, load, official, tfds
from tests.data_fixtures import (
    PER_BATCH,
    assert_equal,
    binary_files,
    make,
    small,  # noqa: F401
    write_archive,
    write_files,
)

pytestmark = pytest.mark.once


def prepare(folder, file_format="array_record"):
    """What TFDS's own `cifar10` builder prepares from the small data set, and where.

    Without TensorFlow it can neither extract, read members nor encode arrays; these three steps are replaced.
    """
    import tensorflow_datasets
    from tensorflow_datasets.image_classification import cifar

    write_files(folder / "source" / layouts.BINARY.folder, binary_files(make()))

    def examples(path, _):
        for row in np.fromfile(path, np.uint8).reshape(PER_BATCH, 3073):
            encoded = io.BytesIO()
            Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0).copy()).save(encoded, "PNG")
            encoded.seek(0)
            yield row[:1], encoded

    builder = tensorflow_datasets.builder("cifar10", data_dir=str(folder), file_format=file_format)
    manager = tensorflow_datasets.download.DownloadManager
    with (
        mock.patch.object(manager, "download_and_extract", return_value=str(folder / "source")),
        mock.patch.object(cifar, "_load_data", examples),
    ):
        builder.download_and_prepare()
    return folder / "cifar10" / "3.0.2"


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path / "tfds")


def refused(source, *words):
    with pytest.raises(InputError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    for word in words:
        assert word in message


def test_a_prepared_folder_in_the_published_order(folder):
    found = load(folder)
    assert_equal(found, make())
    assert "cifar10/3.0.2" in found.source
    assert "tensorflow" not in sys.modules


def test_a_data_set_by_its_name(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder.parents[1]))
    for name in ("cifar10", "cifar10:3.0.2"):
        found = load(f"tfds:{name}")
        assert_equal(found, make())
        assert str(folder) in found.source
    assert len(list(cache.root().iterdir())) == 1  # the folder's own entry


def test_grey_images_of_another_size_with_a_validation_split(tmp_path, monkeypatch):
    """A data set of one's own, which TFDS knows from its folder alone; its keys have names of their own."""
    from tensorflow_datasets import core, features

    dataset = make(shape=(20, 24, 1), names=("0", "1", "2"), validation=True)

    def examples(split):
        for place, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            encoded = io.BytesIO()
            Image.fromarray(image[..., 0]).save(encoded, "PNG")
            encoded.seek(0)
            yield place, {"photo": encoded, "id": f"image_{place:03d}", "kind": int(label)}

    with core.registered.skip_registration():

        class MyOwn(core.GeneratorBasedBuilder):
            VERSION = core.Version("1.0.0")

            def _info(self):
                photo = features.Image(shape=(20, 24, 1), encoding_format="png")
                kinds = {"photo": photo, "id": features.Text(), "kind": features.ClassLabel(num_classes=3)}
                made_of = features.FeaturesDict(kinds)
                return core.DatasetInfo(builder=self, features=made_of, supervised_keys=("photo", "kind"))

            def _split_generators(self, _):
                return {name: examples(getattr(dataset, name)) for name in ("train", "test", "validation")}

            def _generate_examples(self):
                raise NotImplementedError

    MyOwn(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert_equal(load("tfds:my_own"), dataset)


def test_a_name_that_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    refused("tfds:cifra10", "knows no 'cifra10'", str(tmp_path), "did you mean 'cifar10'?")
    refused("tfds:qqqqqqqq", "check the name")
    refused("tfds:cifar10:coarse", "behind cifar100 alone")


def test_a_data_set_that_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    import requests

    def no_route(url, **options):
        raise requests.ConnectionError("no\nroute")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "get", no_route)
    refused("tfds:mnist", "no route", "tfds build mnist --file_format=array_record", str(tmp_path), "mnist/3.0.1")
    refused("tfds:cifar100", "CIFAR-100 cannot be downloaded", "cs.toronto.edu", "cifar-100-python")


def test_a_folder_without_ids_keeps_its_own_order(folder, monkeypatch):
    monkeypatch.setattr(tfds, "_number", lambda record: None)
    found = load(folder)
    order = {image.tobytes(): i for i, image in enumerate(make().train.images)}
    rows = [order[image.tobytes()] for image in found.train.images]
    assert rows != sorted(rows)
    np.testing.assert_array_equal(found.train.labels, make().train.labels[rows])


def test_another_format(folder):
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    refused(folder, "tfrecord", "array_record", "convert")


@pytest.mark.parametrize("name", ["label.labels.txt", "features.json"])
def test_vast_texts_are_not_read(folder, name):
    assert (folder / name).exists()
    with open(folder / name, "r+b") as file:
        file.truncate(2**40)
    refused(folder, f"{name}' has 1,099,511,627,776 bytes", "expected what TFDS prepared")


def test_half_a_folder(folder):
    info = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(info[:100])
    refused(folder, "cannot be read as a TFDS folder")
    (folder / "dataset_info.json").write_text(info.replace('"name": "test"', '"name": "tset"'))
    refused(folder, "has the splits train, tset", "test is missing")
    (folder / "dataset_info.json").write_text(info)
    records = folder / "cifar10-train.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:100_000])
    refused(folder, "cannot be read as a TFDS folder")
    records.unlink()
    refused(folder, "cannot be read as a TFDS folder")


@pytest.fixture
def host(small, tmp_path, monkeypatch):  # noqa: F811
    """A host on this machine that serves the small data set's archive in the place of the published one."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.image_classification import cifar

    path = write_archive(tmp_path / "cifar-10-binary.tar.gz", layouts.BINARY.folder, binary_files(small))
    content = path.read_bytes()
    path.unlink()

    class Handler(http.server.BaseHTTPRequestHandler):
        status, body = 200, content

        def do_GET(self):
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *_):
            pass

    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(official, "LAYOUTS", (dataclasses.replace(layouts.BINARY, sha256=sha256),))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
        infos = {url: UrlInfo(size=len(content), checksum=sha256, filename="cifar-10-binary.tar.gz")}
        monkeypatch.setattr(cifar.Cifar10, "url_infos", infos)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


def test_the_download_is_read_and_cached(host, tmp_path):
    found = load("auto")
    assert_equal(found, make())
    assert "downloaded from http://127.0.0.1" in found.source
    host.status = 500
    assert_equal(load("auto"), make())  # without the network
    assert not list(tmp_path.rglob("*.tar.gz*"))


def test_a_download_of_something_else(host, tmp_path):
    host.body = b"<html>Moved to Alaska</html>"
    refused("auto", "NonMatchingChecksumError", "demo", "KCIFAR_DATA")
    assert not list(tmp_path.rglob(".download-*"))


def test_a_host_that_answers_with_an_error(host):
    host.status = 404
    refused("auto", "answers 404", "demo", "cifar-10-batches-py", "KCIFAR_DATA")


def test_a_host_that_is_not_there(monkeypatch):
    import requests

    def no_route(url, **options):
        raise requests.ConnectionError("no\nroute")

    monkeypatch.setattr(requests, "get", no_route)
    refused("auto", "no route", "cs.toronto.edu", "demo", "cifar-10-batches-bin", ".npz", "TFDS")


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    import requests

    released = threading.Event()
    monkeypatch.setattr(requests, "get", lambda url, **options: released.wait(60))
    monkeypatch.setattr(tfds, "PROBE_SECONDS", 0.05)
    refused("auto", "no answer within 0.05 s")
    assert not released.is_set()
    released.set()


def test_what_tfds_needs_is_named_when_it_is_missing(folder, monkeypatch):
    install = "pip install tensorflow-datasets array-record importlib-resources"
    monkeypatch.setitem(sys.modules, "array_record", None)
    refused(folder, "array_record", install)
    monkeypatch.setitem(sys.modules, "importlib_resources", None)
    refused("auto", "importlib_resources", install)


def test_a_pipe_in_a_folder(folder):
    (folder / "label.labels.txt").unlink()
    os.mkfifo(folder / "label.labels.txt")
    refused(folder, "label.labels.txt", "no regular file")
