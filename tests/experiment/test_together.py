"""Two processes that train one model, against one process, and against steps written out by hand."""

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from kcifar import InputError
from kcifar.data import Batches
from kcifar.experiment import plan
from kcifar.experiment.together import leads
from kcifar.recipe import load
from tests import together_steps as steps

pytestmark = pytest.mark.once  # for torch alone
ROOT = Path(__file__).parents[2]


def start(command, rank, port):
    """One of two processes on the CPU, as torchrun starts them."""
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=os.environ | variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(commands):
    """(exit code, stdout, stderr) of two processes that are started together."""
    port = free_port()
    processes = [start(command, rank, port) for rank, command in enumerate(commands)]
    texts = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The arrays of both processes, by case."""
    folder = tmp_path_factory.mktemp("found")
    for code, _, errors in together([["tests.together_steps", folder]] * 2):
        assert code == 0, errors
    return {
        case: [np.load(folder / f"{case} {rank}.npz") for rank in range(2)]
        for case in [*steps.CASES, "draws", "torch's group"]
    }


def weights(arrays):
    return [arrays[name] for name in sorted(name for name in arrays if name.isdecimal())]


@pytest.mark.parametrize("case", steps.CASES)
def test_both_have_the_same_bits_and_figures(found, case):
    one, other = found[case]
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("case", ["plain", "native", "averaged", "synchronized SAM"])
def test_they_train_as_one_process_with_the_whole_batch(found, case):
    """Up to the order in which gradients are added: fifty steps, a smaller last batch in each epoch among them."""
    alone = steps.trained(case)
    for name in alone:
        np.testing.assert_allclose(found[case][0][name], alone[name], rtol=1e-5, atol=1e-5)
    assert not np.allclose(found[case][0]["0"], steps.made(case)[0].get_weights()[0], atol=1e-2)


def by_hand(case, halves_of):
    """The weights of a case, trained by a loop in which `halves_of` gives the gradients of the parts of a batch."""
    model, _ = steps.made(case)
    variables = model.trainable_variables
    velocities, momentum = [torch.zeros_like(v.value) for v in variables], model.optimizer.momentum
    batches = steps.batches()
    for epoch in range(steps.EPOCHS):
        for step in range(len(batches)):
            images, labels = batches.at(epoch, step)
            half = len(images) // 2
            parts = [(images[:half], labels[:half]), (images[half:], labels[half:])]
            both = halves_of(model, parts)
            with torch.no_grad():
                for v, velocity, *of_parts in zip(variables, velocities, *both, strict=True):
                    velocity.mul_(momentum).add_((of_parts[0] + of_parts[1]) / 2)
                    v.value.sub_(0.05 * velocity)
    return model.get_weights()


def gradients_of(model, part):
    loss = torch.nn.functional.cross_entropy(model(part[0], training=True), part[1])
    return torch.autograd.grad(loss, [variable.value for variable in model.trainable_variables])


def test_norms_statistics_are_of_each_part_and_moving_ones_the_mean(found):
    def halves_of(model, parts):
        norm = next(layer for layer in model.layers if "normalization" in layer.name)
        before = [variable.numpy() for variable in norm.non_trainable_variables]
        gradients, after = [], []
        for part in parts:
            for variable, value in zip(norm.non_trainable_variables, before, strict=True):
                variable.assign(value)
            gradients.append(gradients_of(model, part))
            after.append([variable.numpy() for variable in norm.non_trainable_variables])
        for variable, one, other in zip(norm.non_trainable_variables, *after, strict=True):
            variable.assign((one + other) / 2)
        return gradients

    for value, expected in zip(weights(found["with norm"][0]), by_hand("with norm", halves_of), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_local_sam_has_an_epsilon_for_each_part(found):
    def worst(model, part):
        values = [variable.value for variable in model.trainable_variables]
        gradients = gradients_of(model, part)
        length = 0.1 / torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()
        own = [value.detach().clone() for value in values]
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value.add_(length * gradient)
        result = gradients_of(model, part)
        with torch.no_grad():
            for value, before in zip(values, own, strict=True):
                value.copy_(before)
        return result

    expected = by_hand("local SAM", lambda model, parts: [worst(model, part) for part in parts])
    for value, wanted in zip(weights(found["local SAM"][0]), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
    for ours, of_torch in zip(found["local SAM"], found["torch's group"], strict=True):
        if hasattr(steps.without_norm(), "ddp_model"):  # Keras 3.16 has taken it from the first process, too
            for value, wanted in zip(weights(of_torch), weights(ours), strict=True):
                np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert "SharpnessAware: torch's default group has 2 processes, but fit" in str(of_torch["refused"])
    other = weights(found["synchronized SAM"][0])
    assert not all(np.allclose(a, b, atol=1e-4) for a, b in zip(expected, other, strict=True))


def test_what_has_no_seed_is_drawn_otherwise_in_each_process(found):
    """And in each epoch, the same in that of a run which is resumed."""
    first, other = (each["draws"] for each in found["draws"])
    assert len(np.unique(other[: steps.EPOCHS], axis=0)) == steps.EPOCHS
    assert not np.isin(other, first).any()
    np.testing.assert_array_equal(other[: steps.EPOCHS], other[steps.EPOCHS : 2 * steps.EPOCHS])


def test_a_stop_in_one_process_is_one_in_all(found):
    assert [int(each["batches"]) for each in found["draws"]] == [3, 3]


def test_on_jax_all_devices_train_as_one():
    """With BatchNorm and SAM, which see the whole batch there, and evaluated on 31 images, which two cannot share."""
    variables = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-m", "tests.together_steps"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


class Told:
    """Two processes, of which the second tells what the first does but for one thing."""

    rank, count = 0, 2

    def __init__(self, name, value):
        self.other = {name: value}

    def told_by_all(self, given):
        assert self.other.keys() <= given.keys()
        return [given, given | self.other]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 3, "3, not 2"),
        ("seed", 7, "7, not 0"),
        ("data", "0f", "'0f', not '"),
        ("Keras", "3.14.0", f"'3.14.0', not '{keras.__version__}'"),
        ("torch", "2.9.0", f"'2.9.0', not '{torch.__version__}'"),
    ],
)
def test_what_processes_were_given_otherwise_is_refused(name, value, said):
    planned = plan(load(ROOT / "recipes" / "demo.py").override(["epochs=2"]))
    with pytest.raises(InputError, match=re.escape(f"process 1 has other {name} than process 0: {said}")):
        leads(dataclasses.replace(planned, processes=Told(name, value)))


@pytest.mark.parametrize("name", ["device", "threads"])
def test_devices_and_threads_may_differ(name):
    planned = plan(load(ROOT / "recipes" / "demo.py"))
    assert leads(dataclasses.replace(planned, processes=Told(name, "other")))


def test_batches_that_cannot_be_shared():
    split = steps.batches().split
    with pytest.raises(InputError, match=r"batch_size is 16, which 3 processes or devices cannot share evenly"):
        Batches(split, 16, part=(0, 3))
    with pytest.raises(InputError, match=r"the size of the last batch is 6, which 5 .* \(drop_last=True\)"):
        Batches(split, 50, part=(0, 5))
    assert len(Batches(split, 50, drop_last=True, part=(0, 5))) == 3
