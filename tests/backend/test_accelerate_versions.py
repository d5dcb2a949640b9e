"""`kcifar.accelerate` on a Keras that is inside not as it knows it: the model stays stock, and one warning says why."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
import torch
from keras.src.models import functional

import kcifar
from kcifar.backend import keras_internals
from kcifar.backend import torch as torch_backend
from tests.accelerate_twins import ODD, filled, normal, small_net

pytestmark = pytest.mark.once


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(torch_backend, "_SAID", set())


def takes_more(self, inputs, training=None, mask=None, state=None):
    raise AssertionError("only looked at")


def fails(layer):
    raise RuntimeError("a node\nof another kind")
    yield


GONE = object()
CHANGES = [
    (keras_internals, "Functional", None, "keras.src.models.functional.Functional"),
    (keras_internals, "get_stateless_scope", None, "keras.src.backend.common.stateless_scope.get_stateless_scope"),
    (keras_internals, "_OF_GRAPHS", (*keras_internals._OF_GRAPHS, "_gone"), "Functional._gone"),
    (keras_internals, "_OF_NODES", (*keras_internals._OF_NODES, "gone"), "Node.gone"),
    (functional.Functional, "call", takes_more, "Functional.call"),
    (keras_internals, "_CompileLoss", lambda: None, "TypeError: "),
    (torch.nn.modules.module, "_has_any_global_hook", GONE, "torch.nn.modules.module._has_any_global_hook"),
    (torch_backend, "native_calls", fails, "RuntimeError: a node of another kind"),
]


@pytest.mark.parametrize(("place", "name", "value", "told"), CHANGES, ids=[told for *_, told in CHANGES])
def test_a_model_stays_stock_where_an_internal_is_missing_or_differs(
    place, name, value, told, monkeypatch, nothing_said
):
    model, image = filled(small_net()), normal(2, *ODD)
    before = {layer.name: layer.call for layer in model._flatten_layers()}
    expected = np.array(model(image, training=False).detach())
    with monkeypatch.context() as changed:
        changed.delattr(place, name) if value is GONE else changed.setattr(place, name, value)
        with pytest.warns(UserWarning, match=r"accelerate leaves models stock") as warned:
            returned = [kcifar.accelerate(model), kcifar.accelerate(model)]
    assert returned == [model, model]
    assert len(warned) == 1
    assert f"({told}" in str(warned[0].message)
    assert "\n" not in str(warned[0].message)
    assert not {"train_step", "test_step", "compute_loss", "compute_metrics"} & vars(model).keys()
    assert {layer.name: layer.call for layer in model._flatten_layers()} == before
    assert np.array_equal(model(image, training=False).detach(), expected)


def test_what_keras_no_longer_has_is_found_missing_when_asked_for_and_not_before(monkeypatch):
    monkeypatch.delattr(functional, "Functional")
    monkeypatch.delattr("keras.src.backend.common.stateless_scope.get_stateless_scope")
    spec = importlib.util.spec_from_file_location("fresh", keras_internals.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.unfit(keras.Sequential()) == [
        "keras.src.backend.common.stateless_scope.get_stateless_scope",
        "keras.src.models.functional.Functional",
    ]
    assert fresh.in_stateless_scope()  # so that an optimizer takes the way that is always right


def test_nothing_is_missing_in_this_keras():
    with warnings.catch_warnings(action="error"):
        model = small_net()
        assert keras_internals.unfit(model) == []
        assert isinstance(kcifar.accelerate(model).call, torch_backend.graph.Program)
