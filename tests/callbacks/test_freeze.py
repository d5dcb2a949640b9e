"""Freeze against torch.optim with parameters that require no gradient from an epoch on; resumed; refused."""

import numpy as np
import pytest

from kcifar import InputError
from kcifar.callbacks import Checkpoint, Freeze
from tests.callbacks.test_unfreeze import EachEpoch
from tests.models.test_freezing import ALL_KINDS, RHO, STEPS, TOLERANCE, Loop, compiled, difference, fit, net, of_kind
from tests.sharpness_steps import assert_same_bits, bits

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Until(Loop):
    """`trained_from` tells the epoch that a group is trained until."""

    def begin(self, epoch, frozen):
        super().begin(epoch, [group for group, last in self.trained_from.items() if epoch >= last])


def trained(kind, optimizer, epochs, callbacks, first=0, resume=None):
    model, seen = compiled(of_kind(kind, net()), optimizer), EachEpoch()
    if resume:
        assert resume.resume(model) == first
    fit(model, epochs, first, callbacks=[*callbacks, *([resume] if resume else []), seen])
    return model, seen.ends


ON_BOTH = {("nesterov", "stock")}


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        pytest.param(optimizer, kind, marks=[] if (optimizer, kind) in ON_BOTH else pytest.mark.once)
        for optimizer in ("nesterov", "Adam")
        for kind in ALL_KINDS
    ],
)
def test_weights_are_pytorchs(optimizer, kind):
    _, ends = trained(kind, optimizer, 3, [Freeze(1, "stem"), Freeze(2, ["layer1_conv1"])])
    # A layer's whole name stands for that layer alone: its BatchNorm goes on.
    until = {"stem": 1}
    seen, _ = Until(optimizer, until, RHO if kind == "SAM" else 0).run(2)
    for epoch in range(2):
        assert difference(ends[epoch], seen[(epoch + 1) * STEPS]) < TOLERANCE
    still = [path for path in ends[1] if np.array_equal(ends[1][path], ends[2][path])]
    assert sorted(still) == sorted(path for path in ends[1] if path.startswith("stem") or path == "layer1_conv1/kernel")


def test_resumed_behind_that_epoch_it_is_the_same_to_the_bit(tmp_path):
    def parts():
        freeze = Freeze(1, "stem")
        return [freeze], Checkpoint(tmp_path, None, stateful=[freeze])

    straight, _ = trained("stock", "SGD", 4, [Freeze(1, "stem")])
    callbacks, checkpoint = parts()
    model = compiled(net())
    fit(model, 2, callbacks=[*callbacks, checkpoint])
    callbacks, checkpoint = parts()
    resumed, _ = trained("stock", "SGD", 4, callbacks, 2, checkpoint)
    assert_same_bits(bits(resumed), bits(straight))


@pytest.mark.once
@pytest.mark.parametrize("epoch", [0, -1, 1.5, True, None], ids=repr)
def test_refuses_what_is_no_epoch(epoch):
    with pytest.raises(InputError, match="whole number of epochs"):
        Freeze(epoch, "stem")


@pytest.mark.once
def test_refuses_an_unknown_group():
    with pytest.raises(InputError, match=r"'stam'.*stem"):
        fit(compiled(net()), callbacks=[Freeze(1, "stam")])
