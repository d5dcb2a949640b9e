"""`load_pretrained`: files and names that are refused and leave the model as it was; Keras's files; what is fetched."""

import contextlib
import functools
import hashlib
import http.server
import inspect
import json
import math
import os
import pickle
import socket
import struct
import threading
import time
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import platformdirs
import pytest
import torch
from keras import ops

from kcifar import InputError
from kcifar.models import build, load_pretrained, weights
from tests.models.test_small_networks import MEAN, OTHER, ROOT, STD, python
from tests.sharpness_steps import assert_same_bits, bits

once = pytest.mark.once

RESNET18, RESNET34 = (2, 2, 2, 2), (3, 4, 6, 3)
KERAS = (".keras", ".weights.h5")


@pytest.fixture(scope="module")
def model():
    """Shared, and cleared again by all that load something, so that what comes of a file that is refused would show."""
    return cleared(build("resnet18", mean=MEAN, std=STD))


@pytest.fixture(scope="module")
def small():
    return cleared(tiny(3))


def cleared(model):
    """With values that no file has."""
    model.set_weights([np.full(weight.shape, 0.375) for weight in model.weights])
    return model


def assert_loads(model, source):
    """All of its layers."""
    assert load_pretrained(cleared(model), source) == []
    assert not any(0.375 in values for values in samples(model))
    cleared(model)


def samples(model):
    """Every 101st value of each weight, as one that is loaded changes whole."""
    return [np.array(ops.convert_to_numpy(variable).flat[::101]) for variable in model.weights]


def refused(model, source, *says):
    """The message, which is one line and has all of `says` in it. The model has not changed."""
    before = samples(model)
    with pytest.raises(InputError) as caught:
        load_pretrained(model, source)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert not [part for part in (Path(source).name, *says) if part not in message], message
    assert all(map(np.array_equal, samples(model), before))
    return message


# --- Files of PyTorch, with the names that torchvision gave its ResNets ---


def shapes(blocks=RESNET18, classes=10):
    """By name, in the order of the published files."""
    found = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    channels = 64
    for stage, count in enumerate(blocks, start=1):
        filters = 32 * 2**stage
        for i in range(count):
            name = f"layer{stage}.{i}"
            found[f"{name}.conv1.weight"] = (filters, channels, 3, 3)
            found |= norm(f"{name}.bn1", filters) | {f"{name}.conv2.weight": (filters, filters, 3, 3)}
            found |= norm(f"{name}.bn2", filters)
            if channels != filters:
                found |= {f"{name}.downsample.0.weight": (filters, channels, 1, 1)}
                found |= norm(f"{name}.downsample.1", filters)
            channels = filters
    return found | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def norm(name, channels):
    """Of BatchNorm."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def state(**arguments):
    """Each tensor one number over and over, which takes the bytes of one in a file of PyTorch's."""
    return {
        name: torch.tensor(0) if name.endswith("tracked") else torch.tensor(1 + i / 1000).expand(shape)
        for i, (name, shape) in enumerate(shapes(**arguments).items())
    }


def saved(tensors, path):
    torch.save(tensors, path)
    return path


@once
def test_a_file_of_pytorchs_is_loaded(model, tmp_path):
    """So what follows differs from a good file by what is said there only."""
    assert load_pretrained(model, saved(state(), tmp_path / "model.pth")) == []
    assert not any(0.375 in values for values in samples(model))
    places = list(state())
    for layer, names in {
        "stem_conv": ["conv1.weight"],
        "layer3_0_shortcut_norm": list(norm("layer3.0.downsample.1", 1))[:4],
        "head_logits": ["fc.weight", "fc.bias"],
    }.items():
        for weight, name in zip(model.get_layer(layer).weights, names, strict=True):
            np.testing.assert_allclose(weight, 1 + places.index(name) / 1000, rtol=1e-7)
    varied = torch.arange(10 * 512, dtype=torch.float32).reshape(10, 512)
    load_pretrained(model, str(saved(state() | {"fc.weight": varied}, tmp_path / "varied.bin")))
    np.testing.assert_array_equal(model.get_layer("head_logits").kernel, varied.T)
    cleared(model)


CLASSES = [
    # classes of the file, options of the model, what stays new
    (1000, {}, ["head_logits"]),
    (1000, {"hidden": 8}, ["head_hidden", "head_logits"]),
    (1000, {"classes": 1000}, []),
]


@once
@pytest.mark.parametrize(("classes", "options", "new"), CLASSES, ids=str)
def test_the_head_is_loaded_where_the_classes_are_as_many(classes, options, new, tmp_path):
    model = build("resnet18", **options)
    before = {layer.name: bits(layer) for layer in model.layers}
    assert load_pretrained(model, saved(state(classes=classes), tmp_path / "model.pt")) == new
    for layer in model.layers:
        if layer.weights:
            same = [np.array_equal(*pair) for pair in zip(before[layer.name], layer.get_weights(), strict=True)]
            assert any(same) == all(same) == (layer.name in new), layer.name


def changed(**new):
    """The good tensors with others in their place, or none."""
    return {name: tensor for name, tensor in (state() | new).items() if tensor is not None}


def ones(*shape, **options):
    return torch.ones(1, **options).expand(shape)


DENSENET = {
    "features.conv0.weight": ones(64, 3, 7, 7),
    "features.denseblock1.denselayer1.conv1.weight": ones(128, 64, 1, 1),
    "classifier.weight": ones(10, 1024),
    "classifier.bias": ones(10),
}
MISFITS = {
    # what: (tensors, what is said)
    "missing": (changed(**{"layer3.1.conv2.weight": None}), ["layer3"]),
    "statistics missing": (changed(**{"bn1.running_var": None}), ["running_var"]),
    "no head": (changed(**{"fc.weight": None, "fc.bias": None}), ["fc.weight", "fc.bias"]),
    "no bias": (changed(**{"fc.bias": None}), ["fc.bias"]),
    "extra": (changed(**{"layer5.conv.weight": ones(2)}), ["layer5.conv.weight"]),
    "extra in the head": (changed(**{"fc.scale": ones(10)}), ["fc.scale"]),
    "larger kernel": (changed(**{"conv1.weight": ones(64, 3, 9, 9)}), ["conv1.weight", "9, 9", "7, 7"]),
    "Keras's order": (changed(**{"conv1.weight": ones(7, 7, 3, 64)}), ["conv1.weight", "3, 64"]),
    "an axis more": (changed(**{"fc.bias": ones(10, 1)}), ["fc.bias", "(10, 1)"]),
    "a scalar": (changed(**{"bn1.weight": torch.tensor(1.0)}), ["bn1.weight", "()", "64"]),
    "other features": (changed(**{"fc.weight": ones(10, 2048)}), ["fc.weight", "2048", "512"]),
    "all together": (
        changed(**{"bn1.bias": None, "late": ones(1), "fc.weight": ones(10, 9), "conv1.weight": ones(64, 1, 7, 7)}),
        ["bn1.bias", "late", "fc.weight", "conv1.weight"],
    ),
    "ResNet-34": (state(blocks=RESNET34), ["layer1.2.conv1.weight", "layer1.2.bn2.running_var"]),
    "DenseNet": (DENSENET, [*DENSENET, "bn1.weight"]),
    "line break": (changed(**{"a\nb\x1b[1m\rc\u2028d": ones(1)}), []),
    "NaN": (changed(**{"layer1.0.conv1.weight": ones(64, 64, 3, 3) * math.nan}), ["layer1.0.conv1.weight"]),
    "one NaN": (changed(**{"fc.bias": torch.tensor([0.0] * 9 + [math.nan])}), ["fc.bias"]),
    "infinite": (changed(**{"bn1.running_mean": torch.full((64,), -math.inf)}), ["bn1.running_mean"]),
    "infinite in float32": (changed(**{"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}), ["fc.bias"]),
    "complex": (changed(**{"fc.bias": torch.ones(10, dtype=torch.complex64)}), ["fc.bias"]),
    "sparse": (changed(**{"fc.bias": torch.ones(10).to_sparse()}), ["fc.bias"]),
    "without values": (changed(**{"fc.bias": torch.ones(10, device="meta")}), ["fc.bias"]),
}


@once
@pytest.mark.parametrize(("tensors", "says"), MISFITS.values(), ids=list(MISFITS))
def test_tensors_that_do_not_fit_are_named(tensors, says, model, tmp_path):
    message = refused(model, saved(tensors, tmp_path / "model.pth"), *says)
    assert "\x1b" not in message
    if 0 < len(tensors) - len(state()) < 3:
        assert "layer2" not in message  # nothing but what is wrong


@once
def test_the_stems_differ(tmp_path):
    refused(build("resnet18", stem="cifar"), saved(state(), tmp_path / "model.pth"), "conv1.weight", "7, 7", "3, 3")


HOLD_NO_TENSORS = {
    "list": [torch.ones(2)],
    "int": 5,
    "None": None,
    "tensor": torch.ones(2),
    "empty": {},
    "words": {"conv1.weight": "w", "epoch": 3},
    "numbers for names": {1: torch.ones(2), (2, 3): torch.ones(2)},
    "state of numbers": {"state_dict": 5},
    "state of words": {"model": {"conv1.weight": "w"}},
}


@once
@pytest.mark.parametrize("content", HOLD_NO_TENSORS.values(), ids=list(HOLD_NO_TENSORS))
def test_a_file_of_pytorchs_without_named_tensors_is_refused(content, model, tmp_path):
    refused(model, saved(content, tmp_path / "model.pth"))


class Code:
    """A pickle of it calls a function when it is read."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def pickled(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))  # as torch.save writes it


PICKLES = {
    "zip": torch.save,
    "legacy": functools.partial(torch.save, _use_new_zipfile_serialization=False),
    "bare": pickled,
}


@once
@pytest.mark.parametrize("write", PICKLES.values(), ids=list(PICKLES))
@pytest.mark.parametrize(
    ("function", "program", "suffix"),
    [(os.system, "touch {}", ".pth"), (exec, "open({!r}, 'w').close()", ".bin")],
    ids=["system", "exec"],
)
def test_code_in_a_pickle_is_not_run(write, function, program, suffix, model, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / f"model{suffix}"
    write({"config": Code(function, program.format(str(marker))), "conv1.weight": torch.ones(2)}, path)
    message = refused(model, path, function.__name__)
    assert "nothing" in message
    assert "run" in message
    assert not marker.exists()
    if write is pickled:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()  # the trap was one


@once
def test_a_whole_module_is_refused(model, tmp_path):
    message = refused(model, saved(torch.nn.Linear(2, 2), tmp_path / "model.pt"), "Linear", "state_dict")
    assert "nothing" in message


@once
def test_a_torchscript_archive_is_refused(model, tmp_path):
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "model.pt")
    refused(model, tmp_path / "model.pt")


# --- Files of safetensors, written out from its page (huggingface.co/docs/safetensors) ---


def header_of(known, half=False):
    """{name: dtype, shape, where it begins and ends}, and the number of bytes of all values."""
    header, end, kinds = {}, 0, {True: ("I64", 8), False: ("F16", 2) if half else ("F32", 4)}
    for name, shape in known.items():
        kind, size = kinds[name.endswith("tracked")]
        begin, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    return header, end


def safetensors(path, header, values, length=None):
    """All values 0, which the file system need not store. `header`: of its bytes, or what JSON makes of it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    os.truncate(path, 8 + len(header) + values)
    return path


def with_entry(name="fc.bias", **entry):
    return lambda header, end: (header | {name: header[name] | entry}, end)


def fc_bias_at(begin, end):
    return with_entry(data_offsets=[begin, end])


def name_twice(header, end):
    """The last tensor again, of other bytes."""
    again = json.dumps(header["fc.bias"] | {"data_offsets": [end, end + 40]})
    return f'{json.dumps(header)[:-1]}, "fc.bias": {again}}}'.encode(), end + 40


END = header_of(shapes())[1]  # where fc.bias ends
NO_ARRAY = {"dtype": "F32", "shape": [0, 2**62]}
LIES = {
    "header beyond the file": lambda header, end: (header, end, END + 10**6),
    "header of 2^63 bytes": lambda header, end: (header, end, 2**63),
    "header of 2^64 - 1 bytes": lambda header, end: (header, end, 2**64 - 1),
    "header of no bytes": lambda header, end: (header, end, 0),
    "header cut": lambda header, end: (header, end, 100),
    "header no JSON": lambda header, end: (b"{'conv1.weight': }", end),
    "header no UTF-8": lambda header, end: (b'{"\xff\xfe": {}}', end),
    "header a list": lambda header, end: ([header], end),
    "header a number": lambda header, end: (b"1", end),
    "deep JSON": lambda header, end: (b"[" * 10**5, end),
    "entry a number": lambda header, end: (header | {"fc.bias": 5}, end),
    "no offsets": lambda header, end: (header | {"fc.bias": {"dtype": "F32", "shape": [10]}}, end),
    "offsets beyond the end": fc_bias_at(END, END + 40),
    "offsets far beyond the end": fc_bias_at(2**62, 2**62 + 40),
    "offsets turned": fc_bias_at(END, END - 40),
    "offsets negative": fc_bias_at(-40, 0),
    "offsets overlap": fc_bias_at(0, 40),
    "a hole": fc_bias_at(END - 20, END + 20),
    "bytes of nothing": lambda header, end: (header, end + 40),
    "bytes missing": lambda header, end: (header, end - 4),
    "shape too large": with_entry(shape=[11]),
    "shape too small": with_entry("fc.weight", shape=[10, 511]),
    "shape negative": with_entry(shape=[-10]),
    "shape overflows": with_entry(shape=[2**62, 4, 10]),
    "shape of no array": lambda header, end: (header | {"a": NO_ARRAY | {"data_offsets": [end, end]}}, end),
    "shape of words": with_entry(shape=["10"]),
    "unknown dtype": with_entry(dtype="F31"),
    "other dtype": with_entry(dtype="F64"),
    "name twice": name_twice,
}


@once
@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_safetensors_that_lie_are_refused(lie, model, tmp_path):
    message = refused(model, safetensors(tmp_path / "model.safetensors", *lie(*header_of(shapes()))))
    assert "layer1" not in message  # for the lie, not for tensors that are missing


@once
def test_safetensors_that_tell_the_truth_are_loaded(model, tmp_path):
    assert_loads(model, safetensors(tmp_path / "model.safetensors", *header_of(shapes())))


# --- Files of any kind ---


def write_good(path):
    """A file of all weights: a Keras file for `small`, another for `model`."""
    if path.name.endswith(KERAS):
        written(filled(tiny(3)), path)
    elif path.suffix == ".safetensors":
        safetensors(path, *header_of(shapes()))
    else:
        write = PICKLES["legacy" if path.stem == "legacy" else "zip"]
        write({name: tensor.contiguous() for name, tensor in state().items()}, path)


ANY = ["model.pth", "legacy.pth", "model.pt", "model.bin", "model.safetensors", "model.keras", "model.weights.h5"]


@once
@pytest.mark.parametrize("name", [name for name in ANY if name not in ("model.pt", "model.bin")])
def test_truncated_files_are_refused(name, model, small, tmp_path):
    path, model = tmp_path / name, small if name.endswith(KERAS) else model
    write_good(path)
    assert_loads(model, path)
    size = path.stat().st_size
    for left in (size - 1, size - 50, size // 2, 1000, 9, 8, 1, 0):
        os.truncate(path, left)
        assert "layer" not in refused(model, path)  # for the cut, not for tensors that are missing


@once
@pytest.mark.parametrize("name", ANY)
def test_other_bytes_are_refused(name, model, tmp_path):
    rng = np.random.default_rng(0)
    starts = {".safetensors": struct.pack("<Q", 100), ".keras": b"PK\x03\x04", ".weights.h5": b"\x89HDF\r\n\x1a\n"}
    for start in (b"", starts.get(name[name.index(".") :], b"PK\x03\x04"), b"\x80\x02", b"\n", b"<!DOCTYPE html>\n"):
        (tmp_path / name).write_bytes(start + rng.bytes(1000))
        refused(model, tmp_path / name)


@once
@pytest.mark.parametrize("name", ANY)
def test_files_that_are_not_there_and_folders_are_refused(name, model, tmp_path):
    refused(model, tmp_path / name, str(tmp_path))
    refused(model, str(tmp_path / name))
    (tmp_path / name).mkdir()
    refused(model, tmp_path / name, str(tmp_path))


# --- Files of Keras ---


def written(model, path, values=(), edit=None):
    """Its file, perhaps with other values, {(layer, place): array}, or otherwise edited."""
    if path.suffix == ".keras" and not (values or edit):
        model.save(path)
        return path
    h5 = path.with_name("inner.weights.h5") if path.suffix == ".keras" else path
    model.save_weights(h5)
    with h5py.File(h5, "r+") as file:
        for (layer, place), value in dict(values).items():
            group = group_of(file, layer)
            del group[place]
            group[place] = np.float32(value)
        if edit:
            edit(file)
    return path if h5 == path else zipped(path, {"config.json": "{}", "model.weights.h5": h5.read_bytes()})


def group_of(file, layer):
    """Its variables, `0`, `1`, …; Keras writes the layer's name beside them."""
    return next(group["vars"] for group in file["layers"].values() if group["vars"].attrs.get("name") == layer)


def zipped(path, contents):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def filled(model, seed=0):
    """With other values in every weight, the same on every backend: NumPy's, rounded once."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 2, weight.shape).astype(np.float32) for weight in model.weights])
    return model


def assert_loaded(model, source, path, new):
    """All of the model's values but those of layers `new` are now `source`'s, to the bit; these are as they were."""
    before = {name: bits(model.get_layer(name)) for name in new}
    assert load_pretrained(model, path) == new
    for layer in model.layers:
        if layer.weights:
            expected = before[layer.name] if layer.name in new else source.get_layer(layer.name).get_weights()
            assert_same_bits(layer.get_weights(), expected)


def tiny(classes, hidden=5, normalised=True):
    """A net not built by kcifar."""
    layers = keras.layers
    normalisation = [layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6])] if normalised else []
    stem = [layers.Conv2D(4, 3, name="stem_conv"), layers.BatchNormalization(name="stem_norm"), layers.Flatten()]
    head = [layers.Dense(hidden, name="head_hidden"), layers.Dense(classes, name="head_logits")]
    return keras.Sequential([keras.Input((4, 4, 3)), *normalisation, *stem, *head])


WRITE = f"""
import sys
import keras
import numpy as np
{inspect.getsource(tiny)}
{inspect.getsource(filled)}
model = filled(tiny(3))
model.save(sys.argv[1])
model.save_weights(sys.argv[2])
print("done")
"""


def test_keras_files_of_either_backend_give_all_but_a_head_of_other_classes(tmp_path):
    """Run on both backends. The file's model normalises, the others do not."""
    here, there = ([tmp_path / f"{where}{suffix}" for suffix in KERAS] for where in ("here", "there"))
    other = filled(tiny(3))
    for path in here:
        written(other, path)
    assert python(WRITE, *there, backend=OTHER) == "done"
    for path in (*here, *there):
        assert_loaded(filled(tiny(2, normalised=False), seed=1), other, path, ["head_hidden", "head_logits"])
        assert_loaded(filled(tiny(3, normalised=False), seed=1), other, path, [])


@pytest.mark.parametrize("values", [np.full((5, 3), math.nan), np.zeros((6, 3))], ids=["NaN", "other shape"])
def test_all_of_a_file_fits_or_nothing_is_loaded(values, tmp_path):
    """On both backends: Keras's own loading changes the layers before the wrong one."""
    path = written(filled(tiny(3)), tmp_path / "model.weights.h5", {("head_logits", "0"): values})
    refused(cleared(tiny(3)), path, "head_logits")


@functools.cache
def others(name, **options):
    """Whose files are loaded into models with random values."""
    return filled(build(name, **options))


@once
@pytest.mark.parametrize(("suffix", "classes"), [(".keras", 10), (".weights.h5", 5)])
def test_keras_files_of_resnet18(suffix, classes, tmp_path):
    other = others("resnet18", stem="cifar", classes=5, mean=MEAN, std=STD)
    path = written(other, tmp_path / f"model{suffix}")
    new = ["head_logits"] if classes != 5 else []
    assert_loaded(build("resnet18", stem="cifar", classes=classes, seed=1), other, path, new)


@once
@pytest.mark.parametrize(("suffix", "classes"), [(".keras", 10), (".weights.h5", 7)])
def test_keras_files_of_vgg(suffix, classes, tmp_path):
    other = others("vgg16", batch_norm=True, hidden=32)
    path = written(other, tmp_path / f"model{suffix}")
    new = ["head_hidden1", "head_hidden2", "head_logits"] if classes != 10 else []
    assert_loaded(build("vgg16", classes=classes, batch_norm=True, hidden=32, seed=1), other, path, new)


@once
def test_another_head_of_as_many_classes_does_not_fit(tmp_path):
    path = written(filled(tiny(3)), tmp_path / "model.keras")
    refused(cleared(tiny(3, hidden=6)), path, "head_hidden", "(16, 5)", "(16, 6)", "(5, 3)", "(6, 3)")
    assert_loaded(tiny(2, hidden=6), filled(tiny(3)), path, ["head_hidden", "head_logits"])


def plain(first, second, head="head_logits", extra=()):
    names = [(first, 3), (second, 3), (head, 2)]
    dense = [keras.layers.Dense(units, name=name) for name, units in names]
    return filled(keras.Sequential([keras.Input((3,)), *dense[:1], *extra, *dense[1:]]))


@pytest.mark.parametrize("suffix", KERAS)
def test_layers_are_known_by_name_not_by_their_place(suffix, tmp_path):
    model, other = cleared(plain("stem_a", "layer1_b")), plain("layer1_b", "stem_a")
    assert_loaded(model, other, written(other, tmp_path / f"model{suffix}"), [])


@once
def test_code_in_a_keras_file_is_not_run(tmp_path):
    marker = tmp_path / "marker"
    at = str(marker)
    code = keras.layers.Lambda(lambda x: (x, open(at, "w").close())[0])
    other = plain("stem_a", "layer1_b", extra=[code])
    path = written(other, tmp_path / "model.keras")
    marker.unlink()
    assert_loaded(cleared(plain("stem_a", "layer1_b")), other, path, [])
    assert not marker.exists()
    keras.models.load_model(path, safe_mode=False)
    assert marker.exists()  # the trap was one


def instead(create):
    """Something else in the place of the first kernel, (3, 3, 3, 4)."""

    def edit(file):
        group = group_of(file, "stem_conv")
        del group["0"]
        create(group, file.filename)

    return edit


def absurd(group, path):
    group.create_dataset("0", (3, 3, 3, 2**40), "f4", chunks=(3, 3, 3, 4))  # 119 TB, of which nothing is stored


def words(group, path):
    group["0"] = ["words"] * 3


def external(group, path):
    """To be read from another file, which may be any of the user's."""
    Path(path + ".bytes").write_bytes(bytes(4 * 108))
    group.create_dataset("0", (3, 3, 3, 4), "f4", external=[(path + ".bytes", 0, 4 * 108)])


def link(group, path):
    with h5py.File(path + ".link.h5", "w") as other:
        other["0"] = np.zeros((3, 3, 3, 4), np.float32)
    group["0"] = h5py.ExternalLink(path + ".link.h5", "0")


def many(group, path):
    """One array of 4 MB under a thousand names: 4 GB to read."""
    group["0"] = np.zeros(2**20, np.float32)
    for place in range(100, 1100):
        group[str(place)] = group["0"]


def without(layer, place):
    return lambda file: group_of(file, layer).pop(place)


def no_names(file):
    for group in file["layers"].values():
        group["vars"].attrs.pop("name", None)


def same_names(file):
    group_of(file, "stem_norm").attrs["name"] = "head_hidden"


def extra(file):
    vars_ = file.create_group("layers/dense_9/vars")
    vars_["0"] = np.zeros((2, 2), np.float32)
    vars_.attrs["name"] = "layer9_dense"


H5 = {
    "missing": (without("head_hidden", "0"), ["head_hidden"]),
    "a statistic missing": (without("stem_norm", "3"), ["stem_norm"]),
    "extra": (extra, ["layer9_dense"]),
    "absurd shape": (instead(absurd), ["stem_conv"]),
    "words": (instead(words), []),
    "outside the file": (instead(external), []),
    "link": (instead(link), []),
    "many names": (instead(many), ["more values than the file has bytes"]),
    "a name that is none": (lambda file: group_of(file, "stem_norm").attrs.update(name=np.zeros(9)), ["stem_norm"]),
    "no layers": (lambda file: file.pop("layers"), []),
    "no names": (no_names, []),
    "a name twice": (same_names, ["several layers"]),
}
VALUES = {
    "shape": ({("stem_conv", "0"): np.zeros((3, 3, 1, 4))}, ["stem_conv", "(3, 3, 1, 4)", "(3, 3, 3, 4)"]),
    "NaN": ({("stem_norm", "3"): [1, 1, math.nan, 1]}, ["stem_norm"]),
    "infinite": ({("stem_conv", "0"): np.full((3, 3, 3, 4), math.inf)}, ["stem_conv"]),
    "features": ({("head_logits", "0"): np.zeros((6, 3))}, ["head_logits", "(6, 3)", "(5, 3)"]),
}
EDITS = {what: ((), edit, says) for what, (edit, says) in H5.items()}
EDITS |= {what: (values, None, says) for what, (values, says) in VALUES.items()}


@once
@pytest.mark.parametrize("suffix", KERAS)
@pytest.mark.parametrize(("values", "edit", "says"), EDITS.values(), ids=list(EDITS))
def test_keras_files_that_do_not_fit_are_refused(values, edit, says, suffix, small, tmp_path):
    refused(small, written(filled(tiny(3)), tmp_path / f"model{suffix}", values, edit), *says)


@once
def test_a_keras_file_of_another_network_is_refused(small, tmp_path):
    path = written(plain("stem_a", "layer1_b"), tmp_path / "model.keras")
    refused(small, path, "stem_a", "layer1_b", "stem_conv", "stem_norm")


@once
@pytest.mark.parametrize("damage", ["no weights", "weights of random bytes", "a changed byte", "empty zip"])
def test_damaged_keras_files_are_refused(damage, small, tmp_path):
    path = written(filled(tiny(3)), tmp_path / "model.keras")
    if damage == "a changed byte":  # of the weights, which the sum that a zip keeps of them shows
        content = bytearray(path.read_bytes())
        kernel = filled(tiny(3)).get_layer("stem_conv").get_weights()[0].tobytes()
        content[content.index(kernel)] ^= 1
        path.write_bytes(content)
    else:
        weights = {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(500)} if "bytes" in damage else {}
        zipped(path, ({"config.json": "{}"} | weights) if damage != "empty zip" else {})
    refused(small, path, *(["model.weights.h5"] if damage in ("no weights", "empty zip") else []))


# --- Names ---


@once
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision/resnet81", ["'resnet18'"]),
        ("torchvision/ResNet50", ["resnet50"]),
        ("torchvision/resnet50.IMAGENET1K_V3", ["resnet50.IMAGENET1K_V2"]),
        ("torchvision/", ["torchvision/", "resnet18"]),
        ("torchvision/../resnet18", ["resnet18"]),
        ("torchvison/resnet18", ["torchvision/"]),
        ("resnet18", ["torchvision/"]),
        ("https://download.pytorch.org/models/resnet18-f37072fd.txt", []),
        ("", []),
    ],
    ids=repr,
)
def test_unknown_names_are_refused(name, says, model):
    refused(model, name, *says)


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the server's `files`: by path the bytes, the bytes and what length to announce, or an error's number.

    With the headers of huggingface.co, which kcifar reads through huggingface_hub. `/close` ends the server.
    """

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        answer = self.server.files.get(self.path, 200 if self.path == "/close" else 404)
        content, length = answer if isinstance(answer, tuple) else (answer, None)
        content, status = (b"", content) if isinstance(content, int) else (content, 200)
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        if self.path == "/close":
            self.server.socket.close()
            threading.Thread(target=self.server.shutdown).start()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(files=()):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.address = dict(files), [], f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def nowhere(monkeypatch):
    """The address of a server that is not there; nobody waits for it to come."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", None)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return saved(state(), tmp_path_factory.mktemp("published") / "model.pth").read_bytes()


@pytest.fixture
def publish(content, monkeypatch):
    """Has `torchvision/resnet18` fetched from an address as a file of this content; returns its place in the cache."""
    file = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(weights._FILES, "resnet18", file)

    def at(address):
        monkeypatch.setattr(weights, "TORCHVISION", f"{address}/")
        return Path(platformdirs.user_cache_dir("kcifar")) / "weights" / file

    return at


@once
def test_a_published_file_is_fetched_once(model, content, publish, nowhere):
    with serving() as server:
        place = publish(server.address)
        server.files[f"/{place.name}"] = content
        assert_loads(model, "torchvision/resnet18")
    assert [path for path in place.parents[1].rglob("*") if path.is_file()] == [place]
    assert place.read_bytes() == content
    assert server.asked == [("GET", f"/{place.name}")]
    publish(nowhere)
    assert_loads(model, "torchvision/resnet18")


@once
def test_torchvisions_own_names_are_understood(model, content, publish, nowhere):
    place = publish(nowhere)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    assert_loads(model, "torchvision/resnet18.IMAGENET1K_V1")


ANSWERS = {
    # what the server gives: (its answer, what is said)
    "changed": (lambda content: content[:-1] + b"x", "bytes"),
    "empty": (lambda content: b"", "bytes"),
    "short": (lambda content: content[:1000], "bytes"),
    "cut off": (lambda content: (content[:1000], len(content)), "bytes"),
    "not found": (lambda content: 404, "put"),
    "error": (lambda content: 500, "put"),
}


@once
@pytest.mark.parametrize(("answer", "says"), ANSWERS.values(), ids=list(ANSWERS))
def test_a_file_that_is_not_the_published_one_is_not_kept(answer, says, model, content, publish):
    with serving() as server:
        place = publish(server.address)
        server.files[f"/{place.name}"] = answer(content)
        refused(model, "torchvision/resnet18", says, place.name)
        assert not [path for path in place.parents[1].rglob("*") if path.is_file()]
        server.files[f"/{place.name}"] = content
        assert_loads(model, "torchvision/resnet18")  # the next time


@once
def test_a_file_put_there_by_hand_is_used(model, content, publish, nowhere):
    place = publish(nowhere)
    refused(model, "torchvision/resnet18", str(place), place.name, nowhere)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    assert_loads(model, "torchvision/resnet18")


@once
@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1] + b"x", lambda c: c[:1000], lambda c: b""], ids=["changed", "short", "empty"]
)
def test_a_cached_file_that_was_damaged_is_refused(damage, model, content, publish, nowhere):
    place = publish(nowhere)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(damage(content))
    message = refused(model, "torchvision/resnet18", str(place), place.stem[-8:])
    assert "delete" in message or "remove" in message


@once
def test_a_cache_that_cannot_be_written_is_said(model, content, publish, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with serving() as server:
        place = publish(server.address)
        server.files[f"/{place.name}"] = content
        refused(model, "torchvision/resnet18", str(place.parent))


PUBLISHED = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50.IMAGENET1K_V2": "resnet50-11ad3fa6.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnet152.IMAGENET1K_V2": "resnet152-f82ba261.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "densenet169": "densenet169-b2777c0a.pth",
}


@once
def test_names_are_those_of_the_published_files(model, monkeypatch):
    """As torchvision 0.28 has them."""
    assert weights.TORCHVISION == "https://download.pytorch.org/models/"
    with serving() as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(weights, "TORCHVISION", f"{server.address}/models/")
        for name, file in PUBLISHED.items():
            refused(model, f"torchvision/{name}", file)
    assert server.asked == [("GET", f"/models/{file}") for file in PUBLISHED.values()]


TIMM = """
import json, os, sys, time, urllib.request
waited = []
time.sleep = waited.append  # so that a wait shows and takes no time
from kcifar import InputError
from kcifar.models import build, load_pretrained
model, seen = build("resnet18"), []
for name in sys.argv[1:]:
    if name == "close":
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/close").close()
        continue
    waited.clear()
    model.get_layer("stem_norm").set_weights([weight * 0 + 1 for weight in model.get_layer("stem_norm").get_weights()])
    try:
        found = load_pretrained(model, name)
    except InputError as error:
        found = str(error)
    seen.append([found, float(model.get_layer("stem_norm").beta[0]), sum(waited)])
print(json.dumps(seen))
"""


@once
def test_files_of_huggingface_are_fetched_once(tmp_path, monkeypatch):
    """In a process of its own: huggingface_hub reads the address when it is imported."""
    content = safetensors(tmp_path / "model.safetensors", *header_of(shapes(), half=True)).read_bytes()
    files = {"good": content, "bad": content[:-1], "other": b"<!DOCTYPE html>" * 9, "denied": 401}
    names = [f"timm/resnet18.{name}" for name in ("good", "bad", "other", "denied", "none")]
    late = ["timm/resnet18.good", "timm/resnet18.late", "timm/resnet18.bad", "timm/", "timm/a/b", "timm/a b", "timm/.."]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with serving(
        {f"/timm/resnet18.{name}/resolve/main/model.safetensors": what for name, what in files.items()}
    ) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        seen = json.loads(python(TIMM, *names, "close", *late, backend=keras.backend.backend(), path=[ROOT]))
    seen = dict(zip([*names, *(f"{name} late" for name in late)], seen, strict=True))
    for name, (found, value, waited) in seen.items():
        if ".good" in name:
            assert (found, value) == ([], 0), name
        else:
            assert len(found.splitlines()) == value == 1, name
            assert name.removeprefix("timm/").removesuffix(" late") in found
        assert waited <= 3, name  # seconds; huggingface_hub's own five tries take 23
    assert "path" in seen["timm/resnet18.late late"][0]  # one may fetch it by other means
    assert sum(command == "GET" and "good" in path for command, path in hub.asked) == 1
