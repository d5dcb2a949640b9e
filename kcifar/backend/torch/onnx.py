"""Models as ONNX files."""

import contextlib
import logging
import warnings

import torch
from keras import ops

from kcifar.errors import InputError, one_line


def write_onnx(model, path):
    """Writes what a model computes in inference as one ONNX file: float32 `image` (batch, …) -> `output`.

    Keras's own `model.export` goes by torch's older exporter, which PyTorch gives up, and leaves Keras's layout in the
    file: two transpositions around each convolution.

    Args:
        model: a stock `keras.Model` that computes in float32. Where it is accelerated, images are in the file as ONNX
            lays them out.
        path: of a file in a folder that exists.

    Raises:
        InputError: something in the model has no counterpart in ONNX.
    """
    example = ops.zeros((2, *model.inputs[0].shape[1:]))
    batch = torch.export.Dim("batch")
    try:
        with _without_notes():
            program = torch.onnx.export(
                _Inference(model).eval(),
                (example,),
                input_names=["image"],
                output_names=["output"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error  # itself gives only advice to who works on torch
        while cause.__cause__:
            cause = cause.__cause__
        raise InputError(f"the model '{model.name}' cannot be written as ONNX: {one_line(cause)}") from None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in which files on this machine it was traced
    program.save(path, external_data=False)


class _Inference(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image, training=False)


@contextlib.contextmanager
def _without_notes():
    """Leaves out what torch's exporter says of itself: its copies of trees, and that torchvision is not installed."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")

    def wanted(record):
        return not record.getMessage().startswith("torchvision is not installed")

    log.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        log.removeFilter(wanted)
