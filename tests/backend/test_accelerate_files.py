"""`kcifar.accelerate`: what an accelerated model saves, loads and copies is what its stock twin does."""

import copy
import json
import os
import pickle
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import kcifar
from tests.accelerate_twins import (
    IMAGES,
    ODD,
    TARGETS,
    assert_agree,
    assert_same_array,
    assert_same_logs,
    assert_same_weights,
    crossentropy,
    filled,
    masked,
    nested,
    net,
    normal,
    observed,
    operations,
    sequential,
    several_inputs,
    sgd,
    shared_model,
    subclassed,
    twins,
    weights_file,
)

pytestmark = pytest.mark.once  # JAX has its test too, in a process of its own


def zip_of(path):
    with zipfile.ZipFile(path) as file:
        return {member: file.read(member) for member in file.namelist()}


def set_up(model):
    """Compiled, with an optimizer that has stepped, and then with weights that are exactly the same in each twin."""
    model.compile(sgd(name="optimizer"), crossentropy(), metrics=["accuracy"])
    model.train_on_batch(IMAGES, TARGETS)
    filled(model)
    rng = np.random.default_rng(6)
    for variable in model.optimizer.variables:
        if len(variable.shape) > 0:
            variable.assign(rng.normal(size=variable.shape))
    return model


def assert_same_files(fast, stock):
    assert list(fast) == list(stock)
    assert json.loads(fast["config.json"]) == json.loads(stock["config.json"])
    metadata = [json.loads(content["metadata.json"]) for content in (fast, stock)]
    assert metadata[0] | {"date_saved": ""} == metadata[1] | {"date_saved": ""}
    assert weights_file(fast["model.weights.h5"]) == weights_file(stock["model.weights.h5"])
    other = set(stock) - {"config.json", "metadata.json", "model.weights.h5"}
    assert {name: fast[name] for name in other} == {name: stock[name] for name in other}


def test_the_saved_model_is_the_stock_file(tmp_path):
    stock, fast = set_up(net(dropout=0.3)), set_up(kcifar.accelerate(net(dropout=0.3)))
    assert fast.get_config() == stock.get_config()
    for name, model in (("fast", fast), ("stock", stock)):
        model.save(tmp_path / f"{name}.keras")
        model.save_weights(tmp_path / f"{name}.weights.h5")
    assert_same_files(zip_of(tmp_path / "fast.keras"), zip_of(tmp_path / "stock.keras"))
    weights = [weights_file((tmp_path / f"{name}.weights.h5").read_bytes()) for name in ("fast", "stock")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("make", [sequential, nested, several_inputs, operations, subclassed, shared_model, masked])
def test_acceleration_does_not_change_the_file(tmp_path, make):
    model = filled(make())
    model.save(tmp_path / "stock.keras")
    kcifar.accelerate(model).save(tmp_path / "fast.keras")
    assert_same_files(zip_of(tmp_path / "fast.keras"), zip_of(tmp_path / "stock.keras"))


PREDICT_WITHOUT_KCIFAR = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "kcifar":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
images = np.load(sys.argv[1] + "/images.npy")
np.save(sys.argv[1] + "/predictions.npy", model.predict(images, verbose=0))
assert not any(name.split(".")[0] == "kcifar" for name in sys.modules)
print(keras.backend.backend(), model.optimizer.iterations.numpy() if sys.argv[2] == "torch" else "")
"""

ACCELERATE_ON_JAX = """
sys.meta_path.pop(0)
import kcifar
model = kcifar.models.build("tutorial_net")
before = type(model), {**vars(model)}, model.get_config()
assert kcifar.accelerate(model) is model
assert kcifar.accelerate(model) is model
assert (type(model), {**vars(model)}, model.get_config()) == before
"""


def python(program, *arguments, backend):
    """The last line that a fresh interpreter prints."""
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_file_opens_without_kcifar(tmp_path, backend):
    """And on JAX `accelerate` gives a model back as it is."""
    fast = set_up(kcifar.accelerate(net(dropout=0.3)))
    fast.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    program = PREDICT_WITHOUT_KCIFAR + (ACCELERATE_ON_JAX if backend == "jax" else "")
    assert python(program, tmp_path, backend, backend=backend).split()[0] == backend
    expected = fast.predict(IMAGES, verbose=0)
    assert_same_array(np.load(tmp_path / "predictions.npy"), expected)


def test_a_loaded_model_is_accelerated_and_trains_on(tmp_path):
    fast = set_up(kcifar.accelerate(net()))
    fast.save(tmp_path / "model.keras")
    stock, again = (keras.saving.load_model(tmp_path / "model.keras") for _ in range(2))
    kcifar.accelerate(again)
    for _ in range(2):
        logs = [m.train_on_batch(IMAGES, TARGETS, return_dict=True) for m in (fast, again, stock)]
        assert_same_logs(logs[0], logs[2])
        assert_same_logs(logs[1], logs[2])
    assert_same_weights(fast, stock)
    assert_same_weights(again, stock)


def test_loaded_weights_are_used(tmp_path):
    stock = filled(net(), 8)
    stock.save_weights(tmp_path / "stock.weights.h5")
    fast = kcifar.accelerate(net())
    fast.predict(IMAGES, verbose=0)
    fast.load_weights(tmp_path / "stock.weights.h5")
    assert_agree({"logits": fast(IMAGES)}, {"logits": stock(IMAGES)})
    assert_same_array(*(model.predict(IMAGES, verbose=0) for model in (fast, stock)))


@pytest.mark.parametrize(
    "duplicate", [keras.models.clone_model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_copy_stands_on_its_own(duplicate):
    stock = net(dropout=0.3)
    fast = kcifar.accelerate(net(dropout=0.3))
    fast.predict(IMAGES, verbose=0)
    twin = duplicate(fast)
    twin.set_weights(fast.get_weights())
    assert_agree(observed(twin, IMAGES, True), observed(stock, IMAGES, True))
    filled(twin, 9)
    assert_agree({"logits": twin(IMAGES)}, {"logits": filled(net(), 9)(IMAGES)})
    assert_agree({"logits": fast(IMAGES)}, {"logits": net()(IMAGES)})


def test_from_config():
    stock, fast = twins(sequential)
    again = type(fast).from_config(fast.get_config())
    again.set_weights(fast.get_weights())
    assert_agree(observed(again, normal(4, *ODD), True), observed(stock, normal(4, *ODD), True))
