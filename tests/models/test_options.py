"""Heads of several hidden layers, and the initial values of VGG-16: sizes and bounds by hand, and what is refused."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError, models
from kcifar.voting import ensemble

pytestmark = pytest.mark.once  # values are drawn on the host


def head(**options):
    """The layers with weights of a head behind ResNet-18's 512 features, and its dropouts."""
    model = models.build("resnet18", **options)
    named = [layer for layer in model.layers if layer.name.startswith("head_") and layer.name != "head_pool"]
    return [(layer.name, getattr(layer, "units", getattr(layer, "rate", None))) for layer in named]


def test_a_head_of_several_hidden_layers_has_relu_and_its_own_dropout_behind_each():
    assert head(hidden=(40, 20), dropout=(0.5, 0.4)) == [
        ("head_hidden1", 40),
        ("head_dropout1", 0.5),
        ("head_hidden2", 20),
        ("head_dropout2", 0.4),
        ("head_logits", 10),
    ]
    assert head(hidden=(40, 20), dropout=0.3)[3] == ("head_dropout2", 0.3)
    assert head(hidden=40, dropout=0.3) == [("head_hidden", 40), ("head_dropout", 0.3), ("head_logits", 10)]
    assert head() == [("head_logits", 10)]


def test_its_layers_start_in_pytorchs_bounds_and_end_in_relu():
    model = models.build("resnet18", hidden=(40, 20), dropout=(0.5, 0.4))
    for name, fan_in in (("head_hidden1", 512), ("head_hidden2", 40), ("head_logits", 20)):
        layer = model.get_layer(name)
        for weight in (layer.kernel, layer.bias):
            largest = np.abs(ops.convert_to_numpy(weight)).max()
            assert 0.8 / math.sqrt(fan_in) < largest <= 1 / math.sqrt(fan_in)
        assert (layer.activation is keras.activations.relu) == (name != "head_logits")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": (40, 20), "dropout": (0.5,)}, "a rate for each hidden layer"),
        ({"hidden": 40, "dropout": (0.5, 0.4)}, "a rate for each hidden layer"),
        ({"dropout": 0.5}, "without hidden"),
    ],
)
def test_rates_and_layers_have_to_match(options, words):
    with pytest.raises(InputError, match=words):
        models.build("resnet18", **options)


@pytest.fixture(scope="module")
def vggs():
    return {initial: models.build("vgg16", hidden=64, initial=initial) for initial in ("pytorch", "torchvision")}


def values(model, layer):
    return [ops.convert_to_numpy(weight) for weight in (model.get_layer(layer).kernel, model.get_layer(layer).bias)]


@pytest.mark.parametrize(("layer", "fan_in"), [("stem_conv1", 27), ("layer4_conv3", 4608), ("head_hidden1", 512)])
def test_vgg_starts_from_pytorchs_defaults_where_asked(vggs, layer, fan_in):
    bound = 1 / math.sqrt(fan_in)
    for drawn in values(vggs["pytorch"], layer):
        assert 0.8 * bound < np.abs(drawn).max() <= bound
        assert abs(drawn.mean()) < 5 * bound / math.sqrt(3 * drawn.size)
    _, bias = values(vggs["torchvision"], layer)
    assert not bias.any()


def test_another_start_of_vgg_is_refused():
    with pytest.raises(InputError, match="initial is 'he'"):
        models.build("vgg16", hidden=64, initial="he")


MADE = {
    "elu_cnn": {"mean": (0.5,) * 3, "std": (0.25,) * 3},
    "tutorial_net": {"resize": 64, "center_crop": 56, "precision": "bfloat16"},
    "resnet18": {"stem": "imagenet", "hidden": 8},
    "resnet20": {},
    "densenet121": {},
    "vgg16": {"hidden": 8, "batch_norm": True},
}


def configurations():
    made = [models.build(name, precision=options.pop("precision", "float32"), **options) for name, options in cases()]
    return [model.to_json() for model in [*made, ensemble([made[0], made[3]], image_shape=(48, 48, 3))]]


def cases():
    return [(name, dict(options)) for name, options in MADE.items()]


def test_settings_in_the_users_home_change_no_model():
    """`image_data_format`, `floatx` and `epsilon` of ~/.keras/keras.json."""
    expected = configurations()
    before = keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy()
    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_floatx("float64")
        keras.config.set_epsilon(1e-3)
        assert configurations() == expected
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx(before[0])
        keras.config.set_epsilon(before[1])
        keras.config.set_dtype_policy(before[2])
