"""What a recipe becomes on data of other shapes, and on data that have validation images of their own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kcifar import InputError, backend, recipe
from kcifar.evaluation.assessment import assess
from kcifar.evaluation.predictions import predictions
from kcifar.experiment import plan
from kcifar.runs import folder
from kcifar.runs.state import save_model
from kcifar.voting.members import members
from tests.data_fixtures import make, write_images

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.py"
GREY = ["model=tutorial_net()", "mean=(0.5,)", "std=(0.5,)", "transforms=[]", "schedule=none", "batch_size=8"]
NAMES = ("ash", "elm", "oak")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with 60 training, 12 test and 12 validation images of 18×20, grey."""
    return write_images(tmp_path_factory.mktemp("images"), make(shape=(18, 20, 1), names=NAMES, validation=True))


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The same without validation images."""
    return write_images(tmp_path_factory.mktemp("images"), make(shape=(18, 20, 1), names=NAMES))


def planned(source, *overrides):
    return plan(recipe.load(RECIPE).override([f"data={source}", *GREY, *overrides]))


def make_run(path, found):
    """The folder of a run as after its training, with the model as it began."""
    run = folder.create(path, found.recipe, RECIPE.read_bytes(), found.dataset)
    save_model(found.whole, run.best)
    run.metrics.write_text("{}")
    return run


@pytest.mark.parametrize("validation", [0.5, 0])
def test_the_datas_own_validation_images_are_taken(images, validation):
    found = planned(images, f"validation={validation}", "select_on=validation")
    expected = make(shape=(18, 20, 1), names=NAMES, validation=True)
    assert len(found.dataset.train) == 60
    np.testing.assert_array_equal(found.dataset.validation.images, expected.validation.images)
    assert "60 train, 12 validation (the data's own), 12 test images" in dict(found.describe())["data"]
    assert list(found.evaluated_splits()) == ["train", "validation"]
    assert found.whole.input_shape == (None, 18, 20, 1)


@pytest.mark.once
@pytest.mark.parametrize("around", ["none", "SharpnessAware(rho=0.1)"])
def test_a_batch_in_parts_is_the_same_batch(images, around):
    """Of 8 images, of which the last of 60 has 4."""
    given = ["transforms=[RandomFlip(), MixUp(alpha=0.4)]", "drop_last=false", f"sharpness_aware={around}"]
    whole, found = (planned(images, *given, *more) for more in ([], ["accumulate=3"]))
    for step in (0, 7):
        for one, other in zip(found.batches[step], whole.batches[step], strict=True):
            np.testing.assert_array_equal(one, other)
    assert found.model.accumulate == 3
    assert (found.steps_per_epoch, found.model.count_params()) == (8, whole.model.count_params())
    said = dict(whole.describe())["batches"]
    assert said.startswith("8 of 8 an epoch")
    assert dict(found.describe())["batches"] == f"{said}; each in 3 parts"


def test_a_selection_needs_validation_images(without):
    with pytest.raises(InputError, match=r"select_on is 'validation' but validation is 0.*validation=0\.1"):
        planned(without, "validation=0", "select_on=validation")
    assert "45 train, 15 validation, 12 test" in dict(planned(without, "validation=0.25").describe())["data"]


def test_runs_with_their_datas_own_validation_images_held_out_the_same(images, without, tmp_path):
    """However their recipes would have split the training images."""
    overrides = (["validation=0.5"], ["validation=0", "seed=1"], ["validation=0.1", "validation_seed=3", "seed=2"])
    runs = [make_run(tmp_path / f"run{place}", planned(images, *each)) for place, each in enumerate(overrides)]
    found = members(runs)
    dataset = make(shape=(18, 20, 1), names=NAMES, validation=True)
    assert found.warnings == []
    for run, scores in zip(runs, found.validation, strict=True):
        assert run.splits(found.dataset) is found.dataset
        np.testing.assert_array_equal(scores.labels, dataset.validation.labels)
        alone = predictions(run, "validation", dataset.validation)
        np.testing.assert_array_equal(scores.log_probabilities, alone.log_probabilities)
    assert assess(runs[1]).temperature is not None
    # Validation images of others may have trained it.
    other = write_images(tmp_path / "other", make(seed=1, shape=(18, 20, 1), names=NAMES, validation=True))
    assert assess(runs[1], other).temperature is None
    assert assess(make_run(tmp_path / "split", planned(without, "validation=0.25")), images).temperature is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mean=(0.5, 0.5, 0.5)", "std=(0.2, 0.2, 0.2)"], ("1 channel, grey", '"mean=(0.5,)" "std=(0.5,)"')),
        (["transforms=[ColorJitter(hue=0.1)]"], ("ColorJitter", "1 channel", "hue=0")),
        (["transforms=[Cutout(size=4, fill=(0, 0, 0))]"], ("Cutout(fill=(0, 0, 0))", "1 channel")),
        (["transforms=[RandomCrop(size=12, padding=1)]"], ("12×12", "18×20")),
        (["accumulate=9"], ("accumulate is 9", "8 images")),
        (["sharpness_aware=SharpnessAware(accumulate=2)"], ("SharpnessAware has no argument 'accumulate'",)),
        (["loss=keras.losses:MeanSquaredError(reduction='sum')", "accumulate=2"], ("reduction='sum'",)),
    ],
)
def test_what_does_not_fit_the_images_is_told_in_a_line(images, overrides, words):
    with pytest.raises(InputError) as caught:
        planned(images, *overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.once
def test_processes_need_a_loss_that_is_a_mean(images, monkeypatch):
    """Whose parts have theirs; as one of two processes it would be another training."""
    loss = "loss=keras.losses:CategoricalCrossentropy(reduction='sum')"
    planned(images, loss)
    monkeypatch.setattr(backend, "join_processes", lambda: SimpleNamespace(rank=0, count=2))
    with pytest.raises(
        InputError, match=r"2 processes: the loss CategoricalCrossentropy has reduction='sum'; expected"
    ):
        planned(images, loss)
