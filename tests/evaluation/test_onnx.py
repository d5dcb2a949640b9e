"""Models as ONNX files: what onnxruntime makes of them, against Keras and against sums by hand."""

import importlib.util

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

import kcifar
from kcifar import InputError, models, voting
from kcifar.evaluation import onnx as export
from kcifar.evaluation.onnx import export_onnx

ON_TORCH = keras.backend.backend() == "torch"
IMAGES = np.random.default_rng(3).integers(0, 256, (7, 32, 32, 3)).astype("uint8")
# Outputs are sums of up to some thousand products in float32, in another order: 1e-5 of the largest.
CLOSE = {"rtol": 0, "atol": 1e-5}


def made(name, seed=0, **options):
    """A network whose moving statistics are not those it starts with."""
    model = models.build(name, 10, (32, 32, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed, **options)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_mean" in weight.path:
            weight.assign(rng.normal(0, 0.1, weight.shape))
        if "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model


def small(**options):
    return made("tutorial_net", **options)


def hand_made():
    """(2, 2, 1) images in two dense outputs, 1·a + 2·b + 3·c + 4·d + 0.5 and −a."""
    model = keras.Sequential([keras.Input((2, 2, 1), name="image"), layers.Flatten(), layers.Dense(2)])
    model.set_weights([np.array([[1, -1], [2, 0], [3, 0], [4, 0]]), np.array([0.5, 0])])
    return model


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["output"], {"image": images.astype("float32")})
    return outputs


def predicted(model, images=IMAGES):
    return model.predict(images, verbose=0)


KINDS = {
    "elu_cnn": lambda: made("elu_cnn"),
    "resnet20, accelerated": lambda: kcifar.accelerate(made("resnet20")),
    "resized and cropped": lambda: small(resize=40, center_crop=36),
    "soft vote": lambda: voting.ensemble([kcifar.accelerate(small()), small(seed=1, resize=24)]),
    "hard vote": lambda: voting.ensemble([small(), small(seed=1), small(seed=2)], "hard", [1, 1, 1.5]),
}


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_gives_what_keras_does_for_batches_of_any_size(kind, tmp_path):
    model = KINDS[kind]()
    weights, expected = model.get_weights(), predicted(model)
    path = tmp_path / "model.onnx"
    difference = export_onnx(model, path, IMAGES)

    assert np.ptp(expected) > 0.01
    assert 0 <= difference <= 1e-5
    for count in (1, 7):
        outputs = run(path, IMAGES[:count])
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, expected[:count], **CLOSE)
    np.testing.assert_array_equal(predicted(model), expected)
    for now, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.once
def test_the_file_is_the_only_one_and_says_what_it_takes_but_not_where_it_was_made(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(hand_made(), path, np.ones((1, 2, 2, 1)))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 2, 2, 1], "tensor(float)")
    assert (output.name, output.shape, output.type) == ("output", ["batch", 2], "tensor(float)")
    assert b".py" not in path.read_bytes()  # PyTorch notes the lines that each operation comes from


@pytest.mark.once
def test_sums_by_hand(tmp_path):
    path = tmp_path / "model.onnx"
    images = np.array([[[[1], [2]], [[3], [4]]], [[[0], [255]], [[0], [1]]]], "uint8")
    assert export_onnx(hand_made(), path, images) == 0
    np.testing.assert_array_equal(run(path, images), [[30.5, -1], [514.5, 0]])


@pytest.mark.once
def test_a_model_of_bfloat16_is_written_in_float32(tmp_path):
    model, twin = small(precision="bfloat16"), small()
    twin.set_weights(model.get_weights())
    path = tmp_path / "model.onnx"
    export_onnx(kcifar.accelerate(model), path, IMAGES)
    outputs = run(path, IMAGES)
    np.testing.assert_allclose(outputs, predicted(twin), **CLOSE)
    assert np.abs(outputs - predicted(model)).max() > 1e-4  # bfloat16 has 8 bits


@pytest.mark.once
@pytest.mark.parametrize(("error", "said"), [(2e-3, "2.0e-03"), (np.nan, "nan")])
def test_a_file_of_other_outputs_is_not_kept(error, said, tmp_path, monkeypatch):
    """Outputs up to 0.5 + 10·9: an error is in units of 90.5."""
    images = np.full((3, 2, 2, 1), 9, "uint8")
    path = tmp_path / "model.onnx"
    path.write_text("of before")
    real = export._outputs
    monkeypatch.setattr(export, "_outputs", lambda *given: real(*given) + error * 90.5)
    with pytest.raises(
        InputError, match=rf"differs from Keras by {said} on 3 images, expected at most 1e-05"
    ) as caught:
        export_onnx(hand_made(), path, images)
    assert "\n" not in str(caught.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx", "of before")]


@pytest.mark.once
def test_what_onnx_does_not_know_is_named(tmp_path):
    image = keras.Input((4, 4))
    model = keras.Model(image, keras.ops.eigh(image)[0], name="odd")
    with pytest.raises(InputError, match=r"'odd' cannot be written as ONNX: .*eigh") as caught:
        export_onnx(model, tmp_path / "model.onnx", np.eye(4)[None])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(InputError, match=r"need onnxscript, not installed here: pip install 'kcifar\[onnx\]'"):
        export_onnx(hand_made(), tmp_path / "model.onnx", np.ones((1, 2, 2, 1)))


@pytest.mark.once
def test_nothing_is_said_of_a_torchvision_that_is_not_there(tmp_path, caplog, monkeypatch):
    real = importlib.util.find_spec

    def find_spec(name, *rest):
        return None if name == "torchvision" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    export_onnx(hand_made(), tmp_path / "model.onnx", np.ones((1, 2, 2, 1)))
    assert not [record for record in caplog.records if "torchvision" in record.getMessage()]


if not ON_TORCH:

    def test_jax_says_that_torch_writes_it(tmp_path):
        with pytest.raises(InputError, match="run the same command with KERAS_BACKEND=torch") as caught:
            export_onnx(hand_made(), tmp_path / "model.onnx", np.ones((1, 2, 2, 1)))
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
