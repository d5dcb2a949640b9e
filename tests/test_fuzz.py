"""The short form of `tests.fuzz`: a few damaged inputs for each reader, always the same."""

import pytest

from tests.fuzz import Fuzz

pytestmark = pytest.mark.once

_INPUTS = 66  # three for each of the readers


def test_no_input_is_too_much_for_a_reader(tmp_path):
    found = Fuzz(tmp_path).run(_INPUTS)
    assert not found["failures"]
    outcomes = {name: sum(of.get(name, 0) for of in found["readers"].values()) for name in ("read", "refused")}
    assert sum(outcomes.values()) == _INPUTS
    assert min(outcomes.values()) > _INPUTS // 5  # the damage is neither nothing nor all
