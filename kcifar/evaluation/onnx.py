"""A model as an ONNX file, which runs without Keras."""

import importlib.util

import keras
import numpy as np

from kcifar import backend
from kcifar.errors import InputError
from kcifar.evaluation.models import in_float32
from kcifar.runs.files import replacing

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-5
_BATCH_SIZE = 100
COMPARED = 100  # test images that the commands compare on


def export_onnx(model, path, images):
    """Writes a model as one ONNX file, and compares what onnxruntime makes of images with what Keras does.

    The file takes float32 `image` (batch, height, width, channels), raw as the model does, in batches of any size, and
    gives float32 `output` (batch, classes). All weights are in it. It computes in float32, whatever precision the model
    was trained in, and so does Keras in the comparison, on the CPU by stock layers, for both. The model is left as it
    is, and may have been accelerated. The file is written whole or not at all, and not where the comparison fails.

    Args:
        model: a functional or sequential `keras.Model` of one input and one output.
        path: of the file.
        images: (n, height, width, channels), n above 0, of any real dtype; the comparison is made on them.

    Returns:
        The largest absolute difference of an output, in units of the largest output's size, or of 1 where that is less.

    Raises:
        InputError: the backend is not torch, a package is missing, the model has a part without counterpart in ONNX, or
            that difference is above 1e-5, which is more than the order of sums explains.
    """
    _expect_packages()
    # On a GPU, Keras may round the products of convolutions to TF32.
    with keras.device("cpu"), replacing(path) as temporary:
        backend.write_onnx(backend.accelerate(_copy(model)), temporary)
        expected = _copy(model).predict(images, batch_size=_BATCH_SIZE, verbose=0)
        difference = np.abs(_outputs(temporary, images) - expected).max() / max(1, np.abs(expected).max())
        if not difference <= _TOLERANCE:
            raise InputError(
                f"onnxruntime differs from Keras by {difference:.1e} on {len(images):,} images, expected at most "
                f"{_TOLERANCE:g}: '{path}' is not written; try other versions of torch and onnxruntime"
            )
    return float(difference)


def _expect_packages():
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX files need {', '.join(missing)}, not installed here: pip install 'kcifar[onnx]'")


def _copy(model):
    """The same model of stock layers that compute in float32, with weights of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return in_float32(copy)


def _outputs(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
    return np.concatenate([session.run(None, {"image": np.asarray(batch, np.float32)})[0] for batch in batches])
