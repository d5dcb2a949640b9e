"""The benchmark: it runs and reports what failed; and its plain PyTorch net is the net that kcifar trains."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kcifar import models

pytestmark = pytest.mark.once

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def throughput(*arguments, **variables):
    """Runs the driver for a moment on one thread; the finished process."""
    short = ("--data", "demo", "--rounds", "1", "--seconds", "0.2", "--batch-size", "32")
    return subprocess.run(
        [sys.executable, BENCHMARKS / "throughput.py", *short, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )


def test_times_and_failures_are_reported(tmp_path):
    """One run: two variants that work, and one that cannot, since it finds a broken JAX."""
    (tmp_path / "jax.py").write_text("raise ImportError('no JAX here')")
    out = tmp_path / "out.json"
    names = ["report", "keras-jax", "kcifar-torch"]
    done = throughput("--variants", *names, "--out", out, PYTHONPATH=str(tmp_path))

    assert done.returncode == 1, done.stderr
    failure = [line for line in done.stderr.splitlines() if "no JAX here" in line]
    assert len(failure) == 1
    assert failure[0].startswith("throughput.py: keras-jax, batch 32: ImportError")
    assert all(name in done.stdout for name in names)

    found = json.loads(out.read_text())
    assert {"cpu", "cores", "load_at_start", "load_at_end"} <= found["machine"].keys()
    assert {"python", "torch", "jax", "keras", "numpy"} <= found["versions"].keys()
    assert {"commit", "dirty", "started"} <= found.keys()
    assert found["arguments"]["batch_size"] == [32]
    results = {result["variant"]: result for result in found["results"]}
    assert list(results) == names
    assert "no JAX here" in results["keras-jax"]["error"]
    assert results["keras-jax"]["measurements"] == []
    for name in ("report", "kcifar-torch"):
        result = results[name]
        assert result["error"] is None
        (measurement,) = result["measurements"]
        assert measurement["images"] % 32 == 0
        assert measurement["seconds"] > 0
        speed = measurement["images"] / measurement["seconds"]
        assert result["images_per_second"] == {"median": speed, "min": speed, "max": speed}
    speeds = [results[name]["images_per_second"]["median"] for name in ("kcifar-torch", "report")]
    ratio = dict.fromkeys(("median", "min", "max"), pytest.approx(speeds[0] / speeds[1]))
    assert results["kcifar-torch"]["ratio"] == {"report": ratio}  # keras-torch was not asked for
    assert results["report"]["ratio"] == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--variants", "keras-mxnet"], "invalid choice: 'keras-mxnet'"),
        (["--rounds", "0"], "invalid positive int value: '0'"),
        (["--data", "nowhere"], "no data source 'nowhere'"),
        (["--out", "no/such/folder.json"], "expected a file in a folder that exists"),
        (["--gpu"], "nvidia-smi shows no GPU"),
    ],
)
def test_wrong_arguments(arguments, complaint):
    done = throughput(*arguments, PATH="")  # where no nvidia-smi is found
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_net_computes_what_kcifar_computes():
    """Same weights, same logits: the two do the same work. 1e-4: float32 sums over up to 4,096 terms."""
    net = _plain_torch().elu_cnn()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.ndim == 1:  # biases and BatchNorm, which all start as zeros and ones
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data = noise + 0.5 if name.endswith(("weight", "running_var")) else noise - 0.5
    model = models.build("elu_cnn")
    model.set_weights(_as_keras_weights(net))

    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=0, atol=1e-4)
    assert sum(parameter.numel() for parameter in net.parameters()) == model.count_params() - 2 * (16 + 32 + 64 + 100)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_plain_resnet18_computes_what_kcifars_computes(stem):
    """1e-4 of the largest logit: float32 through 18 layers."""
    net = _plain_torch().resnet18()
    if stem == "imagenet":  # as torchvision writes it
        head = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), net[1], net[2], torch.nn.MaxPool2d(3, 2, 1)
        net = torch.nn.Sequential(*head, *net[3:])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data = noise + 0.5 if name.endswith(("weight", "running_var")) else noise - 0.5
    model = models.build("resnet18", stem=stem)
    _give_resnet_weights(model, net)

    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def _give_resnet_weights(model, net):
    """Gives kcifar's layers the plain net's weights, by name."""

    def give(name, layer):
        values = [value.detach().numpy() for value in layer.state_dict().values() if value.ndim]
        if isinstance(layer, torch.nn.Conv2d):
            values = [values[0].transpose(2, 3, 1, 0)]
        elif isinstance(layer, torch.nn.Linear):
            values[0] = values[0].T
        model.get_layer(name).set_weights(values)

    give("stem_conv", net[0])
    give("stem_norm", net[1])
    give("head_logits", net[-1])
    for place, block in enumerate(module for module in net if hasattr(module, "shortcut")):
        name = f"layer{place // 2 + 1}_{place % 2}"
        for part in ("conv1", "norm1", "conv2", "norm2"):
            give(f"{name}_{part}", getattr(block, part))
        if isinstance(block.shortcut, torch.nn.Sequential):
            give(f"{name}_shortcut_conv", block.shortcut[0])
            give(f"{name}_shortcut_norm", block.shortcut[1])


def _as_keras_weights(net):
    """The weights of the plain net in the order and layout of kcifar's."""
    weights = []
    for layer in net:
        values = [value.detach().numpy() for value in layer.state_dict().values() if value.ndim]
        if isinstance(layer, torch.nn.Conv2d):
            values[0] = values[0].transpose(2, 3, 1, 0)
        elif isinstance(layer, torch.nn.Linear) and layer.in_features == 4096:  # behind Flatten: CHW there, HWC here
            values[0] = values[0].reshape(100, 64, 8, 8).transpose(2, 3, 1, 0).reshape(4096, 100)
        elif isinstance(layer, torch.nn.Linear):
            values[0] = values[0].T
        weights += values
    return weights


def _plain_torch():
    specification = importlib.util.spec_from_file_location("plain_torch", BENCHMARKS / "plain_torch.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
