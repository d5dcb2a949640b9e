"""`kcifar.accelerate`: what Keras and torch offer for a model as a whole gives what it gives on a stock model."""

import contextlib
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn.parallel import DistributedDataParallel

import kcifar
from tests.accelerate_twins import (
    ODD,
    Subclassed,
    array_of,
    assert_agree,
    assert_same_array,
    assert_same_weights,
    assert_twins_agree,
    called,
    conv,
    filled,
    normal,
    observed,
    sequential,
    twins,
)

pytestmark = pytest.mark.once


def images(count=4):
    return torch.from_numpy(normal(count, *ODD))


# --- Graphs made of it by torch ---


def exported(model):
    return torch.export.export(model, (images(),), strict=False).module()(2 * images())


def compiled(model):
    return torch.compile(model, backend="eager")(images())


def traced(model):
    return torch.jit.trace(model, images())(2 * images())


def of_own_call():
    return called(Subclassed())


GRAPHS = [(exported, sequential), (exported, of_own_call), (traced, sequential), (traced, of_own_call)]


@pytest.mark.filterwarnings("ignore")  # torch's, about itself and about Keras
@pytest.mark.parametrize(("function", "make"), [*GRAPHS, (compiled, sequential)])
def test_a_graph_of_torch(function, make):
    stock, fast = twins(make)
    with torch.no_grad():
        expected, got = function(stock), function(fast)
    torch._dynamo.reset()
    assert not torch.equal(expected, torch.zeros_like(expected))
    assert_same_array(array_of(got), array_of(expected))
    assert_agree(observed(fast, normal(4, *ODD), True), observed(stock, normal(4, *ODD), True))


# --- Weights under torch's names ---


def test_a_state_dict_goes_both_ways():
    def make():
        image = keras.Input(ODD)
        x = layers.BatchNormalization(name="norm")(conv(name="conv")(image))
        return keras.Model(image, layers.Dense(3, name="dense")(layers.ReLU()(x)))

    (stock, fast), other = twins(make), filled(make(), 5)
    assert list(fast.state_dict()) == list(stock.state_dict())
    fast.load_state_dict(other.state_dict())
    assert_agree(observed(fast, normal(4, *ODD), True), observed(other, normal(4, *ODD), True))
    stock.load_state_dict(fast.state_dict())
    assert_same_weights(stock, other)


# --- Weights of other kinds ---


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("make", [sequential, of_own_call])
def test_quantized_afterwards(mode, make):
    found = []
    for model in twins(make):
        model(images())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that stay
            model.quantize(mode)
        found.append(model(images(), training=False))
    assert_same_array(array_of(found[1]), array_of(found[0]))


# --- Images in the other layout ---


def channels_first():
    image = keras.Input((4, 7, 9))
    x = layers.Conv2D(4, 3, data_format="channels_first")(image)
    x = layers.ReLU()(layers.BatchNormalization(axis=1)(x))
    x = layers.MaxPooling2D(2, data_format="channels_first")(x)
    x = layers.Permute((2, 3, 1))(x)
    return keras.Model(image, layers.GlobalAveragePooling2D(data_format="channels_last")(conv()(x)))


@contextlib.contextmanager
def configured(data_format):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    yield
    keras.config.set_image_data_format(before)


def channels_first_by_configuration():
    with configured("channels_first"):
        image = keras.Input((4, 7, 9))
        x = layers.ReLU()(layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3, padding="same")(image)))
        return keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.AveragePooling2D(2)(x))))


@pytest.mark.parametrize("make", [channels_first, channels_first_by_configuration])
def test_channels_first(make):
    assert_twins_agree(make, normal(3, 4, 7, 9))


def test_the_configuration_is_of_layers_made_then():
    stock, fast = twins(sequential)
    with configured("channels_first"):
        assert_agree(observed(fast, normal(4, *ODD), True), observed(stock, normal(4, *ODD), True))


# --- Several processes ---

RANK_1 = """
import faulthandler, os, sys
faulthandler.dump_traceback_later(100, exit=True)  # tells where it waits
from tests.backend.test_accelerate_features import distributed_steps

distributed_steps(1, sys.argv[1])
os._exit(0)  # the steps are tested here, not how gloo's threads end
"""


def distributed_steps(rank, meeting):
    """Weights of a stock and of an accelerated model after two steps, each on this process's half of the images."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    made = twins(of_own_call)
    for model in made:
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            wrapped(images()[2 * rank : 2 * rank + 2], training=False).square().mean().backward()
            optimizer.step()
    torch.distributed.barrier()  # the other one may need this one's store
    torch.distributed.destroy_process_group()
    return made


def test_distributed_data_parallel(tmp_path):
    """The weights are those of one process that has all images."""
    other = subprocess.Popen([sys.executable, "-c", RANK_1, str(tmp_path / "meeting")], env=os.environ)
    stock, fast = distributed_steps(0, tmp_path / "meeting")
    assert other.wait(timeout=120) == 0
    assert_same_weights(fast, stock)

    alone = kcifar.accelerate(filled(of_own_call()))
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        alone(images(), training=False).square().mean().backward()
        optimizer.step()
    assert_same_weights(alone, stock)
    assert not np.allclose(stock.get_weights()[0], filled(of_own_call()).get_weights()[0])
