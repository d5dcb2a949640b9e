"""Values of tensors and variables."""

import torch


def known_values(tensor):
    """A tensor's values as a NumPy array; None where it has none yet, because a step is only being compiled."""
    return None if tensor.device.type == "meta" else tensor.detach().float().cpu().numpy()


def clipped(values, low, high):
    """Values between two numbers. ops.clip copies these to the device, and takes five times as long."""
    return values.clamp(low, high)


def switch(index, branches, operand):
    """What one of some functions of a tensor gives: the one at `index`, a NumPy integer."""
    return branches[int(index)](operand)


def values_between_steps(model):
    """The values of the model's variables while it trains but in no step: other objects after each step."""
    return [variable.value.data for variable in model.variables]


@torch.no_grad()
def blended(averages, values, share):
    """(1 − share)·average + share·value of each: in the memory of the averages."""
    torch._foreach_lerp_(averages, values, float(share))
    return averages
