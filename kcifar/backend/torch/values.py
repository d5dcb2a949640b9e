"""Values of tensors and variables."""

import torch


def known_values(tensor):
    """A tensor's values as a NumPy array; None where it has none yet, because a step is only being compiled."""
    return None if tensor.device.type == "meta" else tensor.detach().float().cpu().numpy()


def switch(index, branches, operand):
    """What one of some functions of a tensor gives: the one at `index`, a NumPy integer."""
    return branches[int(index)](operand)


def values_between_steps(model):
    """The values of the model's trainable variables, then of the others, while it trains but in no step: tensors."""
    return [variable.value for variable in model.trainable_variables + model.non_trainable_variables]


@torch.no_grad()
def blended(averages, values, share):
    """(1 − share)·average + share·value of each: in the memory of the averages."""
    torch._foreach_lerp_(averages, values, float(share))
    return averages
