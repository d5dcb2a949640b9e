"""By which figure configurations are compared: that of the epoch that the recipe chooses."""

import json
from pathlib import Path

import pytest

from kcifar import InputError, recipe
from kcifar.experiment.sweeping.selection import Selection
from tests.fake_trainings import begin_run

pytestmark = pytest.mark.once

DEMO = recipe.load(Path(__file__).parents[3] / "recipes" / "demo.py")
LOG = """\
epoch,learning_rate,loss,validation_accuracy,validation_loss,test_accuracy,test_loss
1,0.1,2.0,0.5,1.5,0.48,1.6
2,0.1,1.9,0.7,1.2,0.68,1.3
3,0.1,1.8,0.6,1.1,0.61,1.2
"""


@pytest.fixture
def run(tmp_path):
    """Whose second epoch was chosen."""
    run = begin_run(tmp_path / "run", DEMO)
    run.log.write_text(LOG)
    run.metrics.write_text(json.dumps({"best_epoch": 2, "test_accuracy": 0.68, "test_loss": 1.3}))
    return run


@pytest.mark.parametrize(
    ("overrides", "has_validation", "column", "figure"),
    [
        (["select_on=validation"], True, "validation_accuracy", 0.7),
        (["select_on=validation", "select_by=loss"], True, "validation_loss", 1.2),
        (["select_on=last"], True, "validation_accuracy", 0.6),
        (["select_on=last"], False, "test_accuracy", 0.68),
        (["select_on=test", "select_by=loss"], True, "test_loss", 1.3),
    ],
)
def test_the_figure_of_a_run(run, overrides, has_validation, column, figure):
    selection = Selection(DEMO.override(overrides), has_validation)
    assert (selection.column, selection.of(run)) == (column, figure)
    assert selection.direction == ("minimize" if column.endswith("loss") else "maximize")
    assert selection.by_epoch(run)[3] == float(
        LOG.splitlines()[3].split(",")[LOG.splitlines()[0].split(",").index(column)]
    )


def test_a_run_without_it(run):
    run.log.write_text("epoch,learning_rate,loss\n2,0.1,1.9\n")
    with pytest.raises(InputError, match="has no validation_accuracy: delete it"):
        Selection(DEMO).of(run)
    assert Selection(DEMO).by_epoch(run) == {}
