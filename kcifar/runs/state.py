"""What of a model is saved: for others to open, and all that training changes, for an exact resume."""

import contextlib
import json
import zipfile

import keras
from keras import ops

from kcifar import reading
from kcifar.errors import InputError, some
from kcifar.runs.files import replacing

_CLASS_NAMES = "class_names.json"
_MOST_NAMES = 2**20  # bytes


def save_model(model, path, class_names=None):
    """Saves the model as a `.keras` file that plain Keras opens: without the optimizer, whole or not at all.

    Args:
        class_names: kept in the file too, which is a zip archive: in an entry that Keras does not look at.
    """
    uncompiled = keras.Model(model.inputs, model.outputs, name=model.name)
    with replacing(path) as temporary:
        uncompiled.save(temporary)
        if class_names:
            with open(temporary, "r+b") as file, zipfile.ZipFile(file, "a") as archive:
                archive.writestr(_CLASS_NAMES, json.dumps(list(class_names)))


def class_names_in(path):
    """The names that `save_model` kept in the file; None without. Raises InputError where they are something else."""
    with reading.archive(path) as archive:
        if _CLASS_NAMES not in archive.namelist():
            return None
        text = archive.open(_CLASS_NAMES).read(_MOST_NAMES + 1)
    with contextlib.suppress(ValueError):
        names = reading.parsed_json(text)
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    raise InputError(f"'{path}' has a {_CLASS_NAMES} that is no list of names: write the model again, or take it out")


def save_state(last, model, record):
    """Keeps the values of all that training changes: the model's variables, seeds among them, and the optimizer's.

    Args:
        last: the `kcifar.runs.last.Last` of the run.
        model: a compiled model with a built optimizer.
        record: what else is to be kept, as JSON can hold it, and NumPy arrays anywhere in it.
    """
    last.save(arrays_of(model), record)


def arrays_of(model):
    """The values, as NumPy arrays by name, of all that training changes."""
    return {key: ops.convert_to_numpy(variable) for key, variable in _variables(model).items()}


def assign(model, state):
    """Gives the model and its optimizer the values of a `kcifar.runs.last.State`, which `save_state` kept.

    Raises:
        InputError: the model is not compiled, or an optimizer that it has beside is not built; the arrays are of
            another model or optimizer. Nothing is changed then.
    """
    optimizer_of(model).build(model.trainable_variables)
    for name, optimizer in _further_optimizers(model):
        if not optimizer.built:
            raise InputError(
                f"the model '{model.name}' trains with '{name}' too, which has no state yet: before it is resumed call "
                f"model.{name}.build(variables) with those that it trains"
            )
    variables = _variables(model)
    # A schedule takes the place of the learning rate's variable when training begins.
    unmatched = (set(variables) ^ set(state.arrays)) - {"learning_rate"}
    shared = sorted(set(variables) & set(state.arrays))
    reshaped = [key for key in shared if tuple(variables[key].shape) != state.arrays[key].shape]
    if unmatched or reshaped:
        differing = sorted(unmatched) + reshaped
        raise InputError(
            f"'{state.path}' was saved from another model or optimizer: {len(differing)} of its arrays do not fit "
            f"({some(differing, 3)})"
        )
    for key in shared:
        variables[key].assign(state.arrays[key])


def _variables(model):
    """Every variable that training changes, by a key that does not depend on automatic names, or on what is frozen."""
    of_optimizer = optimizer_of(model).variables
    variables = {f"variable_{place}": variable for place, variable in enumerate(model.variables)}
    slots = [variable for variable in of_optimizer if variable.name != "learning_rate"]
    variables |= {f"optimizer_{place}": variable for place, variable in enumerate(slots)}
    variables |= {v.name: v for v in of_optimizer if v.name == "learning_rate"}
    of_others = {f"{name}_{i}": v for name, other in _further_optimizers(model) for i, v in enumerate(other.variables)}
    return variables | of_others


def _further_optimizers(model):
    """Those that a model of a class of its own has beside the one it is compiled with, by the attribute's name."""
    found = [(name, value) for name, value in vars(model).items() if isinstance(value, keras.optimizers.Optimizer)]
    return [(name, value) for name, value in sorted(found) if value is not model.optimizer]


def optimizer_of(model):
    """The model's optimizer; InputError where it is not compiled."""
    if getattr(model, "optimizer", None) is None:
        raise InputError(f"the model '{model.name}' has no optimizer, whose state is kept too: compile it first")
    return model.optimizer
