"""A stock model and its accelerated twin: small nets to make them of, and what a caller sees of both, compared."""

import contextlib
import io

import h5py
import keras
import numpy as np
import torch
from keras import layers, ops, tree

import kcifar
from kcifar.models import build

# Of the largest magnitude of the tensor: a reordered float32 sum of n terms of size 1 is off by about 6e-8·√n, and the
# sums here have up to 10⁴ terms; a single small element may be the difference of large ones, so it is no measure.
TOLERANCE = 1e-5
# A gradient that is zero but for rounding, as that of a bias before BatchNorm, is measured against the other gradients:
# its terms are of the size of theirs.
FLOOR = 0.1  # of the largest gradient


@contextlib.contextmanager
def without_onednn():
    """Within it torch convolves without oneDNN, whose gradient of 1×1 kernels of few channels, with strides, writes
    beyond its memory on processors with AVX2 and no AVX-512, in stock Keras too: uxlfoundation/oneDNN#6035."""
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of TF32
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


def filled(model, seed=0):
    """The model with every weight and statistic drawn anew, of sizes that keep activations near 1."""
    rng = np.random.default_rng(seed)

    def value(variable):
        if "float" not in variable.dtype:
            return ops.convert_to_numpy(variable)
        if variable.name.endswith(("variance", "gamma")):
            return rng.uniform(0.5, 1.5, variable.shape)
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        return rng.normal(0, fan_in**-0.5, variable.shape)

    model.set_weights([value(variable) for variable in model.weights])
    return model


def twins(make):
    """(stock, accelerated): two models of the same weights from two calls of `make`."""
    made = []
    for _ in range(2):
        keras.utils.set_random_seed(0)  # of layers without a seed of their own
        made.append(filled(make()))
    return made[0], kcifar.accelerate(made[1])


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def leaf(array):
    """A tensor of its own memory, which takes a gradient if it is of floats."""
    tensor = ops.convert_to_tensor(np.array(array)).detach().clone()
    return tensor.requires_grad_(tensor.is_floating_point())


def array_of(tensor):
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def observed(model, inputs, training, calls=1):
    """Outputs of `calls` calls, the gradients of one backward pass through all of them, and the variables after it.

    Also checks that no call writes to its inputs. Gradients are of Σ output × fixed noise.
    """
    model.zero_grad()
    seen, total, leaves = {}, 0.0, []
    for call in range(calls):
        arrays = tree.map_structure(lambda array, shift=call: np.roll(array, shift), inputs)
        tensors = tree.map_structure(leaf, arrays)
        leaves += zip(tree.flatten(tensors), tree.flatten(arrays), strict=True)
        for i, output in enumerate(tree.flatten(model(tensors, training=training))):
            seen[f"output {i} of call {call}"] = output
            noise = np.random.default_rng(100 + i).normal(size=output.shape)
            total = total + (output * ops.convert_to_tensor(noise, output.dtype)).sum()
    if total.requires_grad:
        total.backward()
    for i, (tensor, array) in enumerate(leaves):
        assert np.array_equal(tensor.detach().cpu().numpy(), array), f"input {i} was written to"
        seen[f"gradient of input {i}"] = tensor.grad
    for i, variable in enumerate(model.trainable_variables):
        seen[f"gradient of variable {i}, {variable.name}"] = variable.value.grad
    for i, variable in enumerate(model.variables):
        seen[f"variable {i}, {variable.name}"] = variable.value.clone()
    return seen


def assert_agree(fast, stock, tolerance=TOLERANCE):
    """Same names, types, shapes; each tensor within `tolerance` of the largest magnitude of the stock one."""
    assert fast.keys() == stock.keys()
    gradients = [array_of(value) for key, value in stock.items() if key.startswith("gradient") and value is not None]
    floor = FLOOR * max([np.abs(array).max(initial=0) for array in gradients], default=0)
    for key, expected in stock.items():
        got = fast[key]
        assert (got is None) == (expected is None), f"{key}: {got}, expected {expected}"
        if expected is None:
            continue
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), key
        got, expected = array_of(got), array_of(expected)
        scale = max(np.abs(expected).max(initial=0), floor if key.startswith("gradient") else 0)
        error = np.abs(got - expected).max(initial=0)
        assert error <= tolerance * scale, f"{key}: off by {error:.2g}, the largest is {scale:.2g}"


def assert_twins_agree(make, inputs, tolerance=TOLERANCE, calls=1):
    """Where nothing is asked for, in inference, in training, and in inference with what training changed."""
    stock, fast = twins(make)
    for training_ in (None, False, True, False):
        got = observed(fast, inputs, training_, calls)
        with without_onednn():
            expected = observed(stock, inputs, training_, calls)
        assert_agree(got, expected, tolerance)


def assert_same_array(got, expected):
    error, scale = np.abs(got - expected).max(), np.abs(expected).max()
    assert error <= TOLERANCE * scale, f"off by {error:.2g}, the largest is {scale:.2g}"


# Small nets and what they take

ODD, EVEN = (7, 9, 4), (8, 8, 4)


def arrays_of(shapes, batch=4, dtype=np.float32):
    arrays = [normal(batch, *shape, seed=i).astype(dtype) for i, shape in enumerate(shapes)]
    return arrays if len(arrays) > 1 else arrays[0]


def conv(filters=4, size=3, padding="same", **arguments):
    return layers.Conv2D(filters, size, padding=padding, **arguments)


def image_model(graph, shape=ODD, **arguments):
    image = keras.Input(shape, **arguments)
    return keras.Model(image, graph(image))


def weighted(x, units):
    """A layer with weights, for a tensor of any rank."""
    return (conv(units) if len(x.shape) == 4 else layers.Dense(units))(x)


def around(make_layer, shapes, within, dtype="float32"):
    """Input -> layer, or Input -> weights -> layer -> weights, so that nothing is known about the layer's input."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    x = [weighted(tensor, tensor.shape[-1]) for tensor in inputs] if within else inputs
    x = make_layer()(x if len(x) > 1 else x[0])
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], weighted(x, 3) if within else x)


def name_of(case):
    if isinstance(case, type):
        return case.__name__
    if isinstance(case, dict):
        return ",".join(f"{key}={getattr(value, '__name__', value)}" for key, value in case.items()).replace(" ", "")
    return str(case).replace(" ", "")


def small_net(frozen=False):
    """A functional model to be put into others."""
    net = image_model(lambda image: layers.Activation("relu")(layers.BatchNormalization()(conv()(image))))
    net.trainable = not frozen
    return net


def sequential():
    return keras.Sequential(
        [
            keras.Input(ODD),
            conv(activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.4, seed=1),
            layers.Dense(5, activation="elu"),
            layers.Dense(3),
        ]
    )


def nested(frozen=False, **call):
    net = small_net(frozen)
    return image_model(lambda image: layers.Dense(3)(net(conv()(image), **call)))


class Subclassed(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.first, self.norm, self.act = conv(), layers.BatchNormalization(), layers.Activation("relu")
        self.drop, self.pool = layers.Dropout(0.3, seed=1), layers.GlobalAveragePooling2D()
        self.out = layers.Dense(3)

    def call(self, x, training=None):
        kept = self.first(x)
        x = self.norm(kept, training=training)
        x = self.drop(self.act(x), training=training)
        return self.out(self.pool(x + kept))


def called(model, inputs=None):
    """Built by a call, as a model without a graph is."""
    model(np.zeros((1, *ODD), np.float32) if inputs is None else inputs)
    return model


def subclassed():
    return called(Subclassed())


def several_inputs():
    image, table = keras.Input(ODD, name="image"), keras.Input((5,), name="table")
    gate = layers.Reshape((1, 1, 4))(layers.Dense(4, activation="sigmoid")(table))
    x = layers.Multiply()([conv(activation="relu")(image), gate])
    return keras.Model([image, table], [layers.GlobalAveragePooling2D()(x), gate])


def operations():
    def graph(image):
        x = conv()(image)
        centred = x - ops.mean(x, axis=(1, 2), keepdims=True)
        joined = ops.concatenate([layers.ReLU()(centred), x * 2, ops.relu(x)], axis=-1)
        return layers.Dense(3)(ops.mean(ops.reshape(joined, (-1, 63, 12)), axis=1)) + ops.max(x, axis=(1, 2))[:, :3]

    return image_model(graph)


def shared_model():
    left, right = keras.Input(ODD), keras.Input(ODD)
    net = small_net()
    return keras.Model([left, right], layers.Concatenate()([net(left), net(right)]))


def masked():
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(words)
    x = layers.Activation("relu")(layers.Dense(4)(layers.Dropout(0.3, seed=1)(x)))
    return keras.Model(words, layers.LSTM(3)(x))


def any_size():
    return image_model(
        lambda image: layers.GlobalMaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(conv(strides=2)(image)))),
        (None, None, 4),
    )


# Training and files

CLASSES, COUNT = 10, 12
IMAGES = normal(COUNT, 32, 32, 3)
LABELS = np.random.default_rng(2).integers(0, CLASSES, COUNT)
TARGETS = np.eye(CLASSES, dtype=np.float32)[LABELS]
# Training amplifies rounding: with the batch in another order, the stock net's weights after three steps differ by 1e-4
# of their own at a rate of 0.01, and by 1e-6 at 0.001.
RATE = 1e-3


def net(dropout=0.0):
    """Report B's net with mean instead of maximum pooling.

    Where two values of a window tie, the last bit decides which one gets the gradient: with maximum pooling the stock
    net's weights after three steps differ by 4e-5 of their own from those with the batch in another order.
    """

    def smooth(layer):
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D(2, name=layer.name)
        return type(layer).from_config(layer.get_config())

    return filled(keras.models.clone_model(build("elu_cnn", dropout=dropout), clone_function=smooth))


def crossentropy(**arguments):
    return keras.losses.CategoricalCrossentropy(from_logits=True, **arguments)


def sgd(**arguments):
    return keras.optimizers.SGD(RATE, momentum=0.9, **arguments)


def assert_same_logs(fast, stock):
    """A loss is a difference of logits near 10, which carry roundings of 1e-6 however small it is."""
    assert fast.keys() == stock.keys()
    for key, value in stock.items():
        assert np.allclose(fast[key], value, rtol=TOLERANCE, atol=1e-6), f"{key}: {fast[key]}, expected {value}"


def assert_same_weights(fast, stock):
    assert_agree(
        {f"{i} {variable.name}": variable.value for i, variable in enumerate(fast.variables)},
        {f"{i} {variable.name}": variable.value for i, variable in enumerate(stock.variables)},
    )


def weights_file(content):
    """Of every dataset of an HDF5 file: its name, type, shape and bytes; and the attributes of all groups."""
    found = {}

    def visit(name, item):
        attributes = {key: str(value) for key, value in item.attrs.items()}
        found[name] = attributes, None
        if isinstance(item, h5py.Dataset):
            found[name] = attributes, item.dtype, item.shape, item[()].tobytes()

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return found
