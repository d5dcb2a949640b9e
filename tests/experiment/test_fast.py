"""A training made of the parts of recipes/fast.py: resumed to the bit, what it costs, what is evaluated and when."""

import csv
import json

import keras
import numpy as np
import pytest
from keras import ops

from kcifar import InputError, data, experiment, recipe
from kcifar.evaluation.models import evaluate
from kcifar.experiment import resuming
from kcifar.models.flops import flops
from kcifar.recipe import Component
from kcifar.runs import folder
from tests.interrupted_runs import end_of

pytestmark = pytest.mark.usefixtures("quick_compilation", "blank_pictures")

WIDTHS = "airbench94(widths=(4, 6))"
SIZES = "ImageSizes(sizes=(12, 16), boundary_epochs=(2,))"
MUON = "Muon(learning_rate=0.2, learning_rate_factors={'*/beta': 8.0, 'stem_*': 2.0})"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz with 60 + 20 drawn images of 16×16."""
    drawn = data.load("demo")
    path = tmp_path_factory.mktemp("images") / "images.npz"
    arrays = {"x_train": drawn.train.images[:60, ::2, ::2], "y_train": drawn.train.labels[:60]}
    np.savez(path, **arrays, x_test=drawn.test.images[:20, ::2, ::2], y_test=drawn.test.labels[:20])
    return path


def fast(images, *overrides):
    """recipes/fast.py, so small that it takes a second."""
    small = (f"data={images}", f"model={WIDTHS}", f"image_size={SIZES}", f"optimizer={MUON}", "batch_size=20")
    crop = "transforms.RandomCrop.size=16"
    whole = recipe.load(recipe.find("recipes/fast.py"))
    return whole.override([*small, crop, "epochs=4", "whitening.bias_epochs=1", *overrides])


def trained(wanted, path, callbacks=()):
    planned = experiment.plan(wanted)
    planned.callbacks.extend(callbacks)
    run = folder.create(path, wanted, b"", planned.dataset)
    return planned, experiment.train(planned, run)


def rows(path):
    with open(path / "log.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Interrupted(keras.callbacks.Callback):
    """Ends the process, as it were, in the middle of an epoch, counted from 0."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            raise KeyboardInterrupt


AVERAGED = ["sharpness_aware=SharpnessAware(rho=0.05)", "weight_ema=WeightEMA(decay=0.9)", "optimizer.l2=0.01"]
VARIANTS = {
    "as it is": [],
    "SAM, averages and L2": AVERAGED,
    "frozen until later": ["freeze=layer2", "unfreeze_epoch=3", "optimizer.l2=0.01"],
}


@pytest.mark.once
@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_in_any_epoch_it_is_the_same_to_the_bit(images, tmp_path, variant):
    wanted = fast(images, *VARIANTS[variant])
    trained(wanted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(wanted, tmp_path / "run", [Interrupted(3)])
    run = folder.find(tmp_path / "run")
    planned = resuming.go_on(run, wanted, tell=lambda text: None)
    experiment.train(planned, run, resume=True)
    expected, found = end_of(tmp_path / "whole"), end_of(tmp_path / "run")
    differing = {name for name in expected if expected[name] != found.get(name)}
    assert not {name for name in differing if not name.startswith("peak")}


def test_sizes_flips_and_the_bias_follow_the_epochs(images, tmp_path):
    seen = []

    class Seen(Interrupted):
        def on_epoch_end(self, epoch, logs=None):
            conv = next(layer for layer in self.model.layers if layer.name == "stem_conv")
            seen.append(
                (planned.batches.at(epoch, 0)[0].shape[1], *map(ops.convert_to_numpy, (conv.kernel, conv.bias)))
            )

    wanted = fast(images)
    planned = experiment.plan(wanted)
    planned.callbacks.append(Seen(99))
    experiment.train(planned, folder.create(tmp_path / "run", wanted, b"", planned.dataset))
    sizes, kernels, biases = zip(*seen, strict=True)
    assert sizes == (12, 12, 16, 16)
    assert all((kernel == kernels[0]).all() for kernel in kernels)
    assert biases[0].any()
    assert all((bias == biases[0]).all() for bias in biases)
    first, second = (planned.batches.at(epoch, 0)[1] for epoch in (0, 1))
    assert not np.array_equal(*map(ops.convert_to_numpy, (first, second)))  # the order changes too


def test_what_it_costs_and_what_the_end_evaluates(images, tmp_path):
    planned, metrics = trained(fast(images), tmp_path / "run")
    assert set(rows(tmp_path / "run")[-1]) == {"epoch", "learning_rate", "loss", "accuracy"}
    whole, small = flops(planned.whole), flops(planned.whole, (12, 12, 3))
    # In the first epoch the bias of the stem is trained, and so has a backward pass; from then on the stem has none.
    stem = 2 * 24 * 2 * 2 * 3 * 11 * 11
    assert metrics["training_flops"] == 60 * (2 * small[1] + 2 * whole[1] + 2 * stem)
    assert metrics["evaluation_flops"] == 20 * 7 * whole[0]
    best = keras.saving.load_model(tmp_path / "run" / "best.keras")
    test = planned.dataset.test
    for name, tta in (("test_accuracy", "none"), ("test_accuracy_with_views", "flip+shift")):
        assert metrics[name] == evaluate(best, test, tta).accuracy
    assert metrics["test_time_augmentation"] == "flip+shift"


@pytest.mark.once
@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (None, [4]), (9, [4])])
def test_evaluated_after_every_so_many_epochs_and_the_last(images, tmp_path, every, evaluated):
    """The best epoch is one of those; training is the same whatever is evaluated."""
    changes = [f"evaluate_every={every}", "validation=0.4", "select_on=validation", "batch_size=12"]
    _, metrics = trained(fast(images, *changes), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [int(row["epoch"]) for row in found if row["validation_accuracy"]] == evaluated
    assert not any(name.startswith("train_") for name in found[0])
    best = max(evaluated, key=lambda epoch: float(found[epoch - 1]["validation_accuracy"]))
    assert metrics["best_epoch"] == best
    assert metrics["selected_accuracy"] == float(found[best - 1]["validation_accuracy"])
    assert len({row["loss"] for row in found}) == 4


@pytest.mark.once
def test_early_stopping_counts_the_evaluated_epochs(images, tmp_path):
    """At a rate of next to nothing no figure improves: the second evaluated one ends it."""
    stopping = "early_stopping=EarlyStopping(patience=1)"
    changes = ["epochs=9", "evaluate_every=2", "validation=0.4", "select_on=validation", "batch_size=12", stopping]
    slow = ["optimizer=SGD(learning_rate=1e-12)", "schedule=none", "model.norm_momentum=0.999"]
    _, metrics = trained(fast(images, *changes, *slow), tmp_path / "run")
    assert metrics["epochs"] == 4


@pytest.mark.once
def test_an_epoch_that_was_evaluated_as_the_last_is_not_gone_on_from(images, tmp_path):
    changes = ["epochs=3", "evaluate_every=2", "schedule=none", "validation=0.4", "batch_size=12"]
    wanted = fast(images, *changes)
    trained(wanted, tmp_path / "run")
    with pytest.raises(InputError, match=r"because it was the last.*--out"):
        resuming.go_on(folder.find(tmp_path / "run"), fast(images, *changes, "epochs=4"), tell=lambda text: None)


@pytest.mark.once
def test_a_factor_for_a_group_that_is_trained_later_is_known_in_time(images):
    factors = "optimizer.learning_rate_factors={'layer2_*': 2.0}"
    later = ["freeze=layer2", "unfreeze_epoch=1"]
    experiment.plan(fast(images, *later, factors))
    with pytest.raises(InputError, match="no weight that is trained is called"):
        experiment.plan(fast(images, "freeze=layer2", factors))


@pytest.mark.once
def test_recipe_goes_through_json():
    wanted = recipe.load(recipe.find("recipes/fast.py"))
    again = recipe.Recipe.from_json(wanted.to_json())
    assert again == wanted
    assert isinstance(again.optimizer, Component)
    assert json.loads(wanted.to_json())["optimizer"]["arguments"]["learning_rate_factors"]
