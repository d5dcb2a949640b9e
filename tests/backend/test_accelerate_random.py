"""`kcifar.accelerate` on graphs of stock layers drawn at random, against stock: the short form of a search.

python -m tests.backend.test_accelerate_random 3000     draws as many, from seed 0 on, and prints those that differ;
                                                        each as it is, and giving every intermediate tensor too
"""

import itertools
import sys

import numpy as np
import pytest
import torch

import kcifar  # noqa: F401  (chooses the backend before keras is imported where this file is run)

# isort: split
import keras
from keras import layers, ops, tree

from tests.accelerate_twins import array_of, assert_agree, leaf, observed, twins

pytestmark = pytest.mark.once

BATCH = 4
# A batch statistic over few values magnifies the rounding of what is before it.
TOLERANCE = 2e-4


def one_of(rng, *choices):
    return choices[rng.integers(len(choices))]


def activation(rng):
    return one_of(rng, None, "relu", "elu", "tanh", "sigmoid", "silu", "gelu", "softplus")


# Each a function of rng and one tensor of rank 4 or 2.
ON_IMAGES = [
    lambda rng, x: layers.Conv2D(
        int(rng.integers(1, 6)),
        int(rng.integers(1, 4)),
        strides=int(rng.integers(1, 3)),
        padding=one_of(rng, "same", "valid") if min(x.shape[1:3]) > 3 else "same",
        use_bias=bool(rng.integers(2)),
        activation=activation(rng),
    )(x),
    lambda rng, x: layers.DepthwiseConv2D(3, padding="same", activation=activation(rng))(x),
    lambda rng, x: layers.SeparableConv2D(4, 3, padding="same")(x),
    lambda rng, x: layers.BatchNormalization(momentum=one_of(rng, 0.9, 0.5), scale=bool(rng.integers(2)))(x),
    lambda rng, x: layers.BatchNormalization(center=False)(x),
    # Nothing here makes constants: BatchNorm divides their rounding by the root of its epsilon.
    lambda rng, x: layers.LayerNormalization()(x) if x.shape[-1] > 1 else layers.Rescaling(2.0)(x),
    lambda rng, x: layers.MaxPooling2D(2, one_of(rng, 1, 2), padding="same")(x),
    lambda rng, x: (
        layers.AveragePooling2D(2, one_of(rng, 1, 2), padding=one_of(rng, "same", "valid"))(x)
        if min(x.shape[1:3]) > 2
        else x + 1.0
    ),
    lambda rng, x: layers.ZeroPadding2D(one_of(rng, 0, 1, ((1, 0), (0, 2))))(x),
    lambda rng, x: layers.Cropping2D(1)(x) if min(x.shape[1:3]) > 4 else layers.Cropping2D(0)(x),
    lambda rng, x: layers.Permute((2, 1, 3))(x),
    lambda rng, x: layers.SpatialDropout2D(0.3, seed=1)(x),
    lambda rng, x: x[:, :1, :1],
]
ON_ROWS = [
    lambda rng, x: layers.Dense(int(rng.integers(1, 6)), activation=activation(rng))(x),
    lambda rng, x: layers.BatchNormalization()(x),
]
ON_ANY = [
    lambda rng, x: layers.Activation(activation(rng) or "linear")(x),
    lambda rng, x: one_of(rng, layers.ReLU(), layers.LeakyReLU(), layers.ELU(), layers.ReLU(6.0))(x),
    lambda rng, x: layers.Dropout(0.4, seed=int(rng.integers(99)))(x),
    lambda rng, x: layers.Identity()(x),
    lambda rng, x: layers.Rescaling(0.5, 0.1)(x),
    lambda rng, x: ops.tanh(x * 1.5),
]


def merged(rng, x, others):
    """A merge of a tensor with none, one or two that fit: of its shape, or such that they broadcast."""
    alike = [other for other in others if other.shape == x.shape]
    narrow = [other for other in others if len(other.shape) == 4 and other.shape[1:] == (1, 1, x.shape[-1])]
    kind = one_of(rng, layers.Add, layers.Multiply, layers.Concatenate, layers.Average, layers.Maximum, layers.Subtract)
    chosen = [x, *(one_of(rng, *alike) for _ in range(rng.integers(0, 3)))]
    if kind in (layers.Add, layers.Multiply) and narrow and len(x.shape) == 4 and rng.integers(2):
        chosen.insert(int(rng.integers(len(chosen) + 1)), one_of(rng, *narrow))
    if kind is layers.Subtract:
        chosen = [x, layers.Rescaling(0.5)(chosen[-1])]
    if kind not in (layers.Add, layers.Multiply) and len(chosen) == 1:
        chosen = chosen * 2
    return kind()(chosen)


def to_rows(rng, x):
    return one_of(rng, layers.Flatten(), layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D())(x)


def drawn(seed, every=False):
    """A graph of up to a dozen layers; what it gives are its last tensor and any others, or every, the image too."""
    rng = np.random.default_rng(seed)
    image = keras.Input(tuple(int(side) for side in rng.integers(4, 9, 3)))
    tensors = [image]
    for _ in range(rng.integers(3, 13)):
        recent = tensors[-3:]
        x = one_of(rng, *recent, tensors[-1], tensors[-1])
        how = rng.integers(10)
        if how < 2:
            x = merged(rng, x, tensors)
        elif how < 4:
            x = one_of(rng, *ON_ANY)(rng, x)
        elif len(x.shape) == 2:
            x = one_of(rng, *ON_ROWS)(rng, x)
        else:
            x = to_rows(rng, x) if rng.integers(12) == 0 else one_of(rng, *ON_IMAGES)(rng, x)
        tensors.append(x)
    others = [tensor for tensor in tensors[:-1] if rng.integers(3) == 0 or every]
    return keras.Model(image, [*others, tensors[-1]])


def images_for(model):
    return np.random.default_rng(7).normal(size=(BATCH, *model.input_shape[1:])).astype(np.float32)


def gradients_by_outputs(model, images, training):
    """Of the last output by all the others, and by the image."""
    x = leaf(images)
    outputs = tree.flatten(model(x, training=training))
    if not outputs[-1].requires_grad:
        return {}
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=outputs[-1].shape)).to(outputs[-1])
    by = [output for output in [x, *outputs[:-1]] if output.requires_grad]
    found = torch.autograd.grad((outputs[-1] * noise).sum(), by, allow_unused=True)
    assert np.array_equal(array_of(x), images.astype(np.float64)), "the image was written to"
    return {f"gradient by {place}": gradient for place, gradient in enumerate(found)}


def assert_is_stock(seed, every=False):
    keras.backend.clear_session()
    stock, fast = twins(lambda: drawn(seed, every))
    images = images_for(stock)
    for training in (False, True):
        assert_agree(observed(fast, images, training), observed(stock, images, training), TOLERANCE)
        by = [gradients_by_outputs(model, images, training) for model in (fast, stock)]
        assert_agree(*by, TOLERANCE)


@pytest.mark.parametrize("seed", range(25))
def test_a_graph_drawn_at_random_is_the_stock_graph(seed):
    assert_is_stock(seed)


if __name__ == "__main__":
    wrong = 0
    for seed, every in itertools.product(range(int(sys.argv[1])), (False, True)):
        try:
            assert_is_stock(seed, every)
        except Exception as error:
            wrong += 1
            print(f"seed {seed}, every={every}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(f"{wrong} of 2 times {sys.argv[1]} graphs differ")
