"""What a value of a sweep makes impossible is told before anything is trained."""

import pytest

from kcifar import InputError
from kcifar.experiment.sweeping import begin, check, folder
from tests.experiment.sweeping.sweeps import RECIPE, prepared

pytestmark = pytest.mark.once


class Possible(Exception):
    """All values can be."""


@pytest.fixture
def asked(monkeypatch):
    """What is looked at, in this process; then nothing is begun."""
    found = []

    def told(given):
        found.append(given)
        return check.told(given)

    def make(path):
        raise Possible

    monkeypatch.setattr(check, "_told_by_a_process", told)
    monkeypatch.setattr(folder, "make", make)
    return found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.learning_rat=0.1,0.2"], "Adam has no argument 'learning_rat'; did you mean 'learning_rate'"),
        (["model.dropuot=0.1,0.2"], "unknown option 'dropuot' of elu_cnn; did you mean 'dropout'"),
        (["model=elu_cnn(),elu_cn()"], "elu_cn"),
        (["freeze=[],[layr9]", "model=resnet20()"], "layr9"),
        (["sharpness_aware=none,SharpnessAware(rhoo=1)"], "rhoo"),
        (["early_stopping=none,EarlyStopping(bogus=1)"], "bogus"),
        (["pretrained=none,nofile.pth"], "nofile.pth"),
    ],
)
def test_what_cannot_be_is_refused(overrides, message, out, asked):
    with pytest.raises(InputError, match=message):
        begin.run(prepared(out, *overrides))
    assert not out.exists()


def test_each_value_is_looked_at_with_the_first_of_the_others(out, asked):
    """Of numbers the smallest and the greatest."""
    with pytest.raises(Possible):
        begin.run(prepared(out, "epochs=1", "optimizer.learning_rate=0.2,0.3,0.1", "model.dropout=0..0.5", trials=2))
    values = [(0.1, 0.0), (0.3, 0.0), (0.1, 0.5)]
    expected = [["epochs=1", f"optimizer.learning_rate={rate}", f"model.dropout={drop}"] for rate, drop in values]
    assert [each["overrides"] for each in asked] == [expected]


def test_the_process():
    with pytest.raises(InputError, match="no_such_net"):
        check.expect_planned(RECIPE, [["model=tutorial_net()"], ["model=no_such_net()"]])
