"""Saved models that claim what is not in their file: refused before anything is made for it."""

import io
import json
import warnings
import zipfile

import h5py
import numpy as np
import pytest

from kcifar import InputError
from kcifar.evaluation.models import load_model, open_model
from tests.fuzz_claims import bomb, zip_bytes
from tests.voting.test_members import student

pytestmark = pytest.mark.once


def rewritten(path, name, change):
    """The file of a model, one of whose members is another."""
    student(0).save(path)
    with zipfile.ZipFile(path) as archive:
        members = [[member, archive.read(member)] for member in archive.namelist()]
    path.write_bytes(
        zip_bytes([[member, change(content) if member == name else content] for member, content in members])
    )
    return path


def test_a_whole_model_is_opened(tmp_path):
    path = rewritten(tmp_path / "model.keras", "config.json", lambda content: content)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = student(0).predict(images, verbose=0)
    np.testing.assert_allclose(load_model(path).predict(images, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("units", [10**6, 10**12])
def test_a_layer_of_more_units_than_the_file_has_weights(units, tmp_path):
    def change(content):
        config = json.loads(content)
        dense = config["config"]["layers"][-1]
        dense["config"]["units"] = units
        dense["build_config"]["input_shape"] = [None, 3072]
        return json.dumps(config).encode()

    path = rewritten(tmp_path / "model.keras", "config.json", change)
    with pytest.raises(InputError, match=f"'logits' is of shape .*{units}.*not in the file"):
        open_model(path)
    assert "counted" not in student(0).layers[-1].add_weight.__qualname__


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "assets/a"])
def test_a_model_that_swells(name, tmp_path):
    student(0).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    (tmp_path / "model.keras").write_bytes(zip_bytes([*(members | {name: bomb()}).items()]))
    with pytest.raises(InputError, match="would unpack to"):
        open_model(tmp_path / "model.keras")


def test_weights_of_which_nothing_is_stored(tmp_path):
    def change(content):
        with h5py.File(file := io.BytesIO(content), "r+") as opened:
            del opened["layers/dense/vars/0"]
            opened.create_dataset("layers/dense/vars/0", (2**20, 2**10), "f4", chunks=(64, 64))
        return file.getvalue()

    path = rewritten(tmp_path / "model.keras", "model.weights.h5", change)
    with pytest.raises(InputError, match="is not in it"):
        open_model(path)


def test_what_keras_warns_of_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    student(0).save(tmp_path / "model.keras")

    def load(path, compile):
        warnings.warn("\x1b[31m some weights\nare missing " + "x" * 1000, stacklevel=1)

    monkeypatch.setattr("keras.saving.load_model", load)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        open_model(tmp_path / "model.keras")
    (line,) = capsys.readouterr().err.splitlines()
    assert "some weights are missing" in line
    assert line.isprintable()
    assert len(line) <= 300
