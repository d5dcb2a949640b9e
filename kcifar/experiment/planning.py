"""All that a recipe stands for, built as a notebook would build it."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kcifar import backend, callbacks, data, models
from kcifar.callbacks.tensorboard import expect_tensorboardx
from kcifar.data import Batches
from kcifar.data.batches import expect_shared
from kcifar.data.fixed import Fixed
from kcifar.errors import InputError
from kcifar.evaluation.models import evaluation_batches, gives_probabilities, last_activation
from kcifar.experiment import components
from kcifar.experiment.part import Part, trained_part
from kcifar.models.freezing import trained_parameters
from kcifar.recipe import Recipe
from kcifar.training import Accumulated
from kcifar.training.accumulated import expect_mean
from kcifar.training.coupled_l2 import CoupledL2


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe's data, batches and compiled model, with the lengths that follow from them.

    Attributes:
        own_validation: whether the data came with their validation images, so that the recipe holds none out.
        whole: the model that is saved.
        new_layers: those of it that its pretrained weights do not have.
        part: what of it is trained.
        model: that, compiled, or SAM or `Accumulated` around it.
        trained_parameters: how many are trained, in the first epoch.
        constant_rate: the learning rate of the optimizer, where there is no schedule.
        processes: those that train it together, see `kcifar.backend.join_processes`; None where one does.
    """

    recipe: Recipe
    dataset: data.Dataset
    own_validation: bool
    whole: keras.Model
    new_layers: list[str]
    part: Part
    batches: Batches
    model: keras.Model
    trained_parameters: int
    constant_rate: float
    schedule: keras.optimizers.schedules.LearningRateSchedule | None
    unfreeze: keras.callbacks.Callback | None
    freeze: keras.callbacks.Callback | None
    weight_ema: keras.callbacks.Callback | None
    early_stopping: keras.callbacks.Callback | None
    callbacks: list[keras.callbacks.Callback]
    processes: object | None = None

    @property
    def steps_per_epoch(self):
        return len(self.batches)

    @property
    def monitor(self):
        """The figure that tells which epoch is best; None where the last one is."""
        return _monitor(self.recipe)

    def evaluated_splits(self):
        """What is evaluated after epochs, as batches by name. The test split is there only if it selects.

        Each of several processes has a part of its own.
        """
        return {
            name: evaluation_batches(self.part.model, self._own_part(split), self.part.evaluation)
            for name, split in self.part.splits.items()
            if {"train": self.recipe.evaluate_train, "test": self.recipe.select_on == "test"}.get(name, True)
        }

    def _own_part(self, split):
        """Of a split that all processes evaluate together, this one's; all of what frozen layers made."""
        if not self.processes or not hasattr(split, "take") or len(split) < self.processes.count:
            return split
        rank, count = self.processes.rank, self.processes.count
        return split.take(slice(len(split) * rank // count, len(split) * (rank + 1) // count))

    def learning_rates(self, steps):
        """The learning rates of optimizer steps, counted from 0: float32, of the array's shape."""
        if self.schedule is None:
            return np.full(np.shape(steps), self.constant_rate, np.float32)
        return ops.convert_to_numpy(self.schedule(np.asarray(steps)))

    def learning_rate_at(self, step):
        """The learning rate of an optimizer step, counted from 0: float, to the 7 digits that float32 holds."""
        return float(f"{self.learning_rates(step):.7g}")

    def describe(self):
        """What will be done, as (name, text) rows."""
        recipe, dataset = self.recipe, self.dataset
        whose = " (the data's own)" if self.own_validation else ""
        held_out = f", {len(dataset.validation):,} validation{whose}" if dataset.validation else ""
        steps = self.steps_per_epoch
        return [
            ("data", f"{dataset.source}: {len(dataset.train):,} train{held_out}, {len(dataset.test):,} test images"),
            ("model", f"{recipe.model}, {self.whole.count_params():,} parameters"),
            ("start", self._start()),
            ("trained", self._trained()),
            ("transforms", self._transforms()),
            ("image size", self._image_size()),
            *([("whitening", str(recipe.whitening))] if recipe.whitening else []),
            (
                "batches",
                f"{steps:,} of {recipe.batch_size} an epoch, {recipe.epochs * steps:,} in {recipe.epochs} epochs"
                + (f"; each in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""),
            ),
            ("loss", str(recipe.loss)),
            ("optimizer", str(recipe.optimizer) + (f" in {recipe.sharpness_aware}" if recipe.sharpness_aware else "")),
            ("weight average", str(recipe.weight_ema or "none")),
            ("schedule", str(recipe.schedule or "constant learning rate")),
            ("early stopping", str(recipe.early_stopping or "none")),
            ("callbacks", self._callbacks()),
            ("best epoch", _selection(recipe)),
            ("seed", str(recipe.seed)),
            ("backend", f"{backend.name}, {recipe.precision}{self._together()}"),
        ]

    def _together(self):
        if not self.processes:
            return ""
        count = self.processes.count
        return f"; {count} processes, each of which takes {self.recipe.batch_size // count} images of a batch"

    def _start(self):
        if not self.recipe.pretrained:
            return "new weights"
        new = f"; new are {', '.join(self.new_layers)}" if self.new_layers else ""
        return f"weights of {self.recipe.pretrained}{new}"

    def _trained(self):
        recipe, count = self.recipe, f"{self.trained_parameters:,} parameters"
        if not recipe.freeze:
            return f"all {count}"
        how_long = f" until epoch {recipe.unfreeze_epoch} is over" if recipe.unfreeze_epoch else ""
        cached = ", which run once over each image" if self.part.on_features else ""
        return f"{count}; frozen{how_long} are {', '.join(recipe.freeze)}{cached}"

    def _transforms(self):
        fixed = ", ".join(map(str, self.recipe.fixed_transforms))
        drawn = ", ".join(map(str, self.recipe.transforms))
        return "; ".join([*([f"once for each image {fixed}"] if fixed else []), *([drawn] if drawn else [])]) or "none"

    def _callbacks(self):
        named = ", ".join(map(str, self.recipe.callbacks)) or "none"
        forgetful = [type(callback).__name__ for callback in self.callbacks if not has_state(callback)]
        without = f"; without state() and restore(state), so a resumed run may differ: {', '.join(forgetful)}"
        return named + (without if forgetful else "")

    def _image_size(self):
        height, width, _ = self.whole.input.shape[1:]
        resized = f", scaled to {self.recipe.resize}" if self.recipe.resize else ""
        cropped = f", the middle {self.recipe.center_crop}" if self.recipe.center_crop else ""
        by_epoch = f"; trained on {self.recipe.image_size}" if self.recipe.image_size else ""
        return f"{height}×{width}{resized}{cropped}{by_epoch}"


def plan(recipe, start=None):
    """Loads the data and builds batches and the compiled model of a recipe, for each of the processes that train it.

    Args:
        start: weights that it starts from, in the place of the recipe's pretrained ones: those of a run that goes on.

    Raises:
        InputError: something that the recipe names does not exist or does not fit.
    """
    processes = backend.join_processes()
    if recipe.deterministic:
        backend.use_deterministic_algorithms()
    if recipe.tensorboard:
        expect_tensorboardx()
    schedule_of = recipe.schedule and components.schedule(recipe.schedule)
    weight_ema = recipe.weight_ema and components.weight_ema(recipe.weight_ema)
    stopping = recipe.early_stopping and components.early_stopping(
        recipe.early_stopping, _monitor(recipe), recipe.evaluate_every
    )
    further = [components.callback(component) for component in recipe.callbacks]
    transforms = [components.transform(component) for component in recipe.transforms]
    fixed = [components.transform(component) for component in recipe.fixed_transforms]
    sizes = recipe.image_size and components.image_size(recipe.image_size)
    if hasattr(sizes, "expect_all_in"):
        sizes.expect_all_in(recipe.epochs)
    whiten = recipe.whitening and components.whitening(recipe.whitening)
    optimizer = components.optimizer(recipe.optimizer)
    loss = components.loss(recipe.loss)

    dataset, own_validation = _dataset(recipe)
    expect_shared(0 if recipe.drop_last else len(dataset.train), recipe.batch_size, backend.device_count())
    train = Fixed(dataset.train, fixed, recipe.seed) if fixed else dataset.train
    batching = {"batch_size": recipe.batch_size, "seed": recipe.seed, "drop_last": recipe.drop_last}
    batching["part"] = (processes.rank, processes.count) if processes else (0, 1)
    batches = Batches(train, transforms=transforms, of_epoch=sizes, **batching)

    whole = _new(recipe, dataset)
    freeze = whiten(whole, dataset.train) if whiten else None
    new_layers = _start(recipe, whole, start or recipe.pretrained)
    unfreeze = callbacks.Unfreeze(recipe.unfreeze_epoch, recipe.freeze) if recipe.unfreeze_epoch else None
    part = trained_part(whole, dataset, batches, recipe.epochs, unfreezes=unfreeze is not None)
    if part.on_features:
        batches = Batches(part.splits["train"], **batching)
    if isinstance(optimizer, CoupledL2):
        optimizer.expect_variables(whole.weights if unfreeze else whole.trainable_weights)
    model = _training(recipe, part.model)
    backend.accelerate(model)
    rate, schedule = float(optimizer.learning_rate), None
    if schedule_of:
        schedule = optimizer.learning_rate = schedule_of(rate, recipe.epochs, len(batches))
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    if processes:
        expect_mean(model.loss, f"{processes.count} processes")
        backend.average_gradients(model, processes)
    return Plan(
        recipe=recipe,
        dataset=dataset,
        own_validation=own_validation,
        whole=whole,
        new_layers=new_layers,
        part=part,
        batches=batches,
        model=model,
        trained_parameters=trained_parameters(model),
        constant_rate=rate,
        schedule=schedule,
        unfreeze=unfreeze,
        freeze=freeze,
        weight_ema=weight_ema,
        early_stopping=stopping,
        callbacks=further,
        processes=processes,
    )


def _dataset(recipe):
    """The data, with the validation images that the recipe holds out; and whether they came with their own."""
    dataset = data.load(recipe.data)
    if len(dataset.class_names) < 2:
        raise InputError(
            f"{dataset.source} has one class, {dataset.class_names[0]}; expected two or more to tell apart"
        )
    own_validation = dataset.validation is not None
    if recipe.validation and not own_validation:
        dataset = dataset.split_validation(recipe.validation, recipe.validation_seed)
    if recipe.select_on == "validation" and dataset.validation is None:
        raise InputError(
            f"select_on is 'validation' but validation is 0, and {dataset.source} has no images for it: hold images "
            "out (validation=0.1) or select on 'last'"
        )
    return dataset, own_validation


def _start(recipe, whole, start):
    """Gives a model the weights of a file where `start` names one, and freezes layers; which ones the file lacks."""
    new_layers = models.load_pretrained(whole, start) if start else []
    if recipe.freeze:
        models.freeze(whole, recipe.freeze)
    return new_layers


def _training(recipe, model):
    """The model, or what trains it by steps of another kind."""
    if recipe.sharpness_aware:
        return components.sharpness_aware(recipe.sharpness_aware, model, recipe.accumulate)
    return Accumulated(model, recipe.accumulate) if recipe.accumulate > 1 else model


def _new(recipe, dataset):
    keras.utils.set_random_seed(recipe.seed % 2**32)
    whole = components.model(
        recipe.model,
        classes=dataset.train.classes,
        input_shape=dataset.train.images.shape[1:],
        mean=recipe.mean,
        std=recipe.std,
        seed=recipe.seed,
        precision=recipe.precision,
        resize=recipe.resize,
        center_crop=recipe.center_crop,
    )
    if recipe.model.is_own:
        given = ops.convert_to_numpy(whole(dataset.train.images[:4], training=False))
        if last_activation(whole) == "sigmoid" or gives_probabilities(whole, given):
            raise InputError(
                f"model is {recipe.model}, which gives probabilities; expected logits: leave out its softmax or "
                "sigmoid (classifier_activation=None of keras.applications)"
            )
    return whole


def has_state(callback):
    """Whether a callback goes on where it was when a run is resumed."""
    return hasattr(callback, "state") and hasattr(callback, "restore")


def _monitor(recipe):
    return None if recipe.select_on == "last" else f"{recipe.select_on}_{recipe.select_by}"


def _selection(recipe):
    if recipe.select_on == "last":
        return "the last one, unselected"
    honest = " (not an honest estimate: the test set selects)" if recipe.select_on == "test" else ""
    return f"by {recipe.select_on} {recipe.select_by} from epoch {recipe.select_from_epoch} on{honest}"
