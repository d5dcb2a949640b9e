"""A model's forward pass with native kernels, put on from outside."""

import collections

import keras
import torch
from keras import ops, tree

from kcifar.backend import keras_internals
from kcifar.backend.keras_internals import Functional
from kcifar.backend.torch.kernel import NativeCall, channels_first, channels_last, in_place, stock_call
from kcifar.backend.torch.kernels import configuration, kernel_of, may_have_kernel, own_call
from kcifar.backend.torch.onlookers import must_run_as_stock


def native_calls(layer):
    """What makes a built layer or model, and all in it, compute with native kernels: pairs of a layer and its `call`.

    Nothing is changed yet.
    """
    if isinstance(layer, keras.Sequential) and layer._functional is not None:
        yield from native_calls(layer._functional)
    elif _is_graph(layer) and own_call(layer) is None:
        if not isinstance(layer.call, Program):
            program = Program(layer)
            yield from program.others
            yield layer, program
    elif _kernel_by_spec(layer):
        yield layer, _LayerCall(layer)
    else:
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            yield from native_calls(inner)


_FUNCTIONAL_CALL = getattr(Functional, "call", None)


def _is_graph(model):
    """Whether it is a functional model with Keras's own `call`."""
    return isinstance(model, Functional) and type(model).call is _FUNCTIONAL_CALL


def _kernel_by_spec(layer):
    """The kernel of a layer outside a graph, where its input spec tells the rank."""
    rank = getattr(layer.input_spec, "ndim", None)
    return kernel_of(layer, (rank,)) if rank else None


class _LayerCall(NativeCall):
    """`call` of a layer in a model that is not a graph."""

    def __init__(self, layer):
        super().__init__(layer)
        self._read = configuration(layer)
        self._known = None

    def __call__(self, inputs, *args, training=None, **rest):
        if args:
            given = rest if training is None else rest | {"training": training}
            return stock_call(self.of, inputs, *args, **given)
        known = self._read()
        if known != self._known:
            self._known, self._kernel = known, _kernel_by_spec(self.of)
        if self._kernel is None or must_run_as_stock() or any(value is not None for value in rest.values()):
            own = {"training": training} if self.of._call_has_training_arg else {}
            return stock_call(self.of, inputs, **own, **rest)
        if self._kernel.stock_layout:
            return self._kernel.run(training, inputs)
        return channels_last(self._kernel.run(training, channels_first(inputs)))


class Program(NativeCall):
    """`call` of a functional model: its graph as a flat list of native calls.

    Images stay in torch's layout from one kernel to the next. An operation without a kernel runs as stock Keras runs
    it, and sees them in Keras's. A value is dropped after its last use.

    Attributes:
        others: pairs of a layer and its native `call`, for what is in operations that have none.
    """

    def __init__(self, model):
        super().__init__(model)
        self._translate(model)

    @property
    def is_native(self):
        """Whether every operation has a kernel."""
        self._follow_changes()
        return self._is_native

    def _follow_changes(self):
        """Translates anew where a layer is not what it was."""
        if any(read() != known for read, known in self._configurations):
            self._translate(self.of)
            for layer, call in self.others:
                layer.call = call

    def _translate(self, model):
        self._is_native = True
        self.others = []
        self._slots = {}  # of (a Keras tensor's id, whether in torch's layout)
        self._calls = []  # (function of training and the sources' values, sources, targets, whether it is stock)
        self._overwritable = {}  # kernels and the places of their calls, by the slot that they fill
        self._configurations = []  # of layers: what reads it, and what it read
        self._paddings = {}  # by a padded tensor's id, where its reader pads: the tensor before and the padding
        self._readers = collections.defaultdict(list)
        for tensor in model._outputs:
            self._readers[id(tensor)].append(None)
        nodes = [
            node
            for depth in sorted(model._nodes_by_depth, reverse=True)
            for node in model._nodes_by_depth[depth]
            if node.operation and not node.is_input
        ]
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers[id(tensor)].append(node)
        self._inputs = [self._new_slot(tensor, native=False) for tensor in model._inputs]
        for node in nodes:
            self._add(node)
        for layer in {node.operation: None for node in nodes if may_have_kernel(node.operation)}:
            read = configuration(layer)
            self._configurations.append((read, read()))
        self._outputs = [self._slot(tensor, native=False) for tensor in model._outputs]
        self._calls = [(*call, dead) for call, dead in zip(self._calls, self._last_uses(), strict=True)]

    def __call__(self, inputs, training=None, mask=None, **context):
        model = self.of
        plain = mask is None and all(value is None for value in context.values())
        if not plain or not _is_graph(model) or must_run_as_stock():
            return stock_call(model, inputs, training=training, mask=mask, **context)
        self._follow_changes()
        if not keras_internals.graph_decides_training(training):
            training = keras_internals.training_here()
        return self.run(inputs, training)

    def takes(self, inputs):
        """Whether inputs are tensors of the model's shapes, so that Keras has nothing to check or to change."""
        given, expected = tree.flatten(inputs), self.of._inputs
        return len(given) == len(expected) and all(map(_has_shape_of, given, expected))

    def run(self, inputs, training):
        """What the model gives where each layer in it is called with this `training`, unless it was given another."""
        given = keras_internals.graph_decides_training(training)
        handed_on = training if given else None  # to an operation that runs as stock, which else knows by itself
        values = [None] * len(self._slots)
        for slot, value in zip(self._inputs, self._tensors(inputs), strict=True):
            values[slot] = value
        for run, sources, targets, is_stock, dead in self._calls:
            result = run(handed_on if is_stock else training, *[values[source] for source in sources])
            if is_stock and not given:
                training = keras_internals.training_here()
            if len(targets) == 1:
                values[targets[0]] = result
            else:
                for target, value in zip(targets, result, strict=True):
                    values[target] = value
            del result
            for slot in dead:
                values[slot] = None
        outputs = tree.pack_sequence_as(self.of._outputs_struct, [values[slot] for slot in self._outputs])
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs

    def _tensors(self, inputs):
        if torch.is_tensor(inputs) and len(self._inputs) == 1 and inputs.ndim == len(self.of._inputs[0].shape):
            return [ops.convert_to_tensor(inputs, self.of._inputs[0].dtype)]
        return self.of._standardize_inputs(inputs)

    def _add(self, node):
        tensors, kernel = node.input_tensors, _kernel_of_node(node)
        if kernel is None:
            self._add_stock(node)
            return
        if kernel.padding and self._only_reader_pads(node.outputs[0]):
            self._paddings[id(node.outputs[0])] = tensors[0], kernel.padding
            return
        if id(tensors[0]) in self._paddings:
            before, padding = self._paddings[id(tensors[0])]
            tensors, kernel = [before], kernel.padded(padding)
        native = not kernel.stock_layout
        sources = [self._slot(tensor, native) for tensor in tensors]
        target = self._new_slot(node.outputs[0], native)
        if kernel.overwriting and sources[0] in self._overwritable and len(self._readers[id(tensors[0])]) == 1:
            first, place = self._overwritable[sources[0]]
            self._calls[place] = (in_place(first, kernel), self._calls[place][1], [target], False)
        else:
            if kernel.overwritable:
                self._overwritable[target] = kernel, len(self._calls)
            self._calls.append((kernel.run, sources, [target], False))
        readers = self._readers[id(node.outputs[0])]
        if native and len(readers) > 1 and any(map(_reads_as_stock, readers)):
            self._lead_through_stock(node.outputs[0])

    def _add_stock(self, node):
        self._is_native = False
        if isinstance(node.operation, keras.Layer):
            self.others += native_calls(node.operation)
        tensors = node.input_tensors

        def run(training, *values):
            args, kwargs = node.arguments.fill_in(
                {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}
            )
            result = keras_internals.run_operation(node.operation, training, args, kwargs)
            return result if len(node.outputs) == 1 else tree.flatten(result)

        sources = [self._slot(tensor, native=False) for tensor in tensors]
        self._calls.append((run, sources, [self._new_slot(tensor, native=False) for tensor in node.outputs], True))

    def _lead_through_stock(self, tensor):
        """Has native operations read a view of what the others read: so that what they make has a gradient by it.

        The model may give that very tensor, itself or through operations that give what they are given.
        """
        if len(tensor.shape) == 4:
            given = self._slot(tensor, native=False)
            self._slots[id(tensor), True] = self._slots.setdefault((id(tensor), "again"), len(self._slots))
            self._calls.append((_first, [given], [self._slots[id(tensor), True]], False))

    def _only_reader_pads(self, tensor):
        readers = self._readers[id(tensor)]
        kernel = _kernel_of_node(readers[0]) if len(readers) == 1 and readers[0] is not None else None
        return kernel is not None and kernel.padded is not None

    def _new_slot(self, tensor, native):
        return self._slots.setdefault((id(tensor), native and len(tensor.shape) == 4), len(self._slots))

    def _slot(self, tensor, native):
        """Where a value is in that layout, which it is brought into where nobody has yet."""
        native = native and len(tensor.shape) == 4
        if (id(tensor), native) not in self._slots:
            source = self._slots[id(tensor), not native]
            self._calls.append((_first if native else _last, [source], [self._new_slot(tensor, native)], False))
        return self._slots[id(tensor), native]

    def _last_uses(self):
        """For each call the slots that no later one reads."""
        seen, dead = set(self._outputs), []
        for _, sources, *_ in reversed(self._calls):
            dead.append(tuple(set(sources) - seen))
            seen.update(sources)
        return reversed(dead)


def _has_shape_of(tensor, expected):
    if not torch.is_tensor(tensor) or tensor.ndim != len(expected.shape):
        return False
    return all(side in (None, own) for side, own in zip(expected.shape, tensor.shape, strict=True))


def _first(training, x):
    return channels_first(x)


def _last(training, x):
    return channels_last(x)


def _kernel_of_node(node):
    """The kernel of a graph's operation; None where it is not known, or not called in the usual way, and where a mask
    has to be handed on."""
    if not _takes_tensors_only(node) or len(node.outputs) != 1:
        return None
    if any(map(keras_internals.has_mask, node.input_tensors)):
        return None
    return kernel_of(node.operation, tuple(len(tensor.shape) for tensor in node.input_tensors))


def _reads_as_stock(node):
    """Whether an operation, or the model's output where it is None, takes images in Keras's layout."""
    kernel = _kernel_of_node(node) if node is not None else None
    return kernel is None or kernel.stock_layout


def _takes_tensors_only(node):
    """Whether a graph's operation is called as layer(tensor) or layer([tensor, …]).

    Where it was given `training`, Keras knows whether that holds for it, and for those behind it; a Resizing, which
    Keras gives it by itself, does the same with and without.
    """
    args, kwargs = node.arguments.args, node.arguments.kwargs
    nested = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
    ignored = "training" if type(node.operation) is keras.layers.Resizing else None
    given = any(value is not None for name, value in kwargs.items() if name != ignored)
    return not given and all(isinstance(tensor, keras.KerasTensor) for tensor in nested)
