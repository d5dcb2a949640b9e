"""The arithmetic of a model."""

import math

import keras
from keras import layers, tree

from kcifar.models.sizes import image_for, through


def flops(model, image_shape=None):
    """The floating-point operations that one image costs: (of the forward pass, of both passes of training).

    Two for each multiply-add of convolutions and dense layers, as papers count them; all else is little beside these
    and not counted. The backward pass is counted as twice the forward one, of each layer that is trained or has one in
    front of it that is; of the others there is none.

    Args:
        model: a built `keras.Model` of one image, its layers frozen or not as they are trained.
        image_shape: (height, width, channels), where it is not the model's own.

    Returns:
        Two whole numbers; None for both where a layer with a matrix is of a kind that is not known here, or a part of
        the model is no graph.
    """
    counted = _Counted()
    try:
        counted.run(model, image_for(model, image_shape or model.input.shape[1:]))
    except _Unknown:
        return None, None
    return counted.forward, counted.training


class _Unknown(Exception):
    """A layer whose arithmetic is not known."""


class _Counted:
    """The operations of the layers that were called by it."""

    def __init__(self):
        self.forward = self.training = 0
        self._behind_trained = []  # tensors that have something trained in front of them

    def run(self, model, image):
        """What the model gives of another image, its layers counted."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                image = self._call(layer, image)
            return image
        if len(getattr(model, "inputs", None) or ()) != 1:
            raise _Unknown
        return through(model, image, self._call)

    def _call(self, layer, *args, **kwargs):
        result = layer(*args, **kwargs)
        behind = any(map(self._is_behind, tree.flatten((args, kwargs))))
        if isinstance(layer, keras.Model):
            image = image_for(layer, args[0].shape[1:])
            self._behind_trained += [image] if behind else []
            behind = self._is_behind(self.run(layer, image))
        else:
            count = 2 * _multiply_adds(layer, result)
            behind = behind or bool(layer.trainable_variables)
            self.forward += count
            self.training += 3 * count if behind else count
        self._behind_trained += tree.flatten(result) if behind else []
        return result

    def _is_behind(self, value):
        return any(value is tensor for tensor in self._behind_trained)


def _multiply_adds(layer, result):
    """Of one image."""
    count = _MULTIPLY_ADDS.get(type(layer))
    if count is not None:
        return count(layer, result.shape)
    if any(len(variable.shape) > 1 for variable in layer.weights):
        raise _Unknown
    return 0


def _convolution(layer, shape):
    return math.prod(shape[1:3]) * math.prod(layer.kernel.shape)


def _separable(layer, shape):
    return math.prod(shape[1:3]) * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))


def _dense(layer, shape):
    return math.prod(shape[1:-1]) * math.prod(layer.kernel.shape)


_MULTIPLY_ADDS = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.SeparableConv2D: _separable,
    layers.Dense: _dense,
}
