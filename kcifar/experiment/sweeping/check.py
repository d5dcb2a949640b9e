"""Configurations of a sweep, planned before any is trained, so that what cannot be is told at once.

In a process of its own: what JAX or CUDA takes of a GPU for it is free again when the first training begins.
"""

import json
import os
import subprocess
import sys

from kcifar.errors import InputError

_ON_THE_CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}


def expect_planned(path, overrides):
    """Raises InputError where a recipe cannot be planned with one of several lists of overrides.

    Args:
        path: of the recipe.
        overrides: a list of lists.
    """
    told = _told_by_a_process({"path": str(path), "overrides": overrides})
    if told is not None:
        raise InputError(*told)


def _told_by_a_process(asked):
    command = [sys.executable, "-m", "kcifar.experiment.sweeping.check"]
    variables = {name: value for name, value in os.environ.items() if name != "KCIFAR_DEVICE"} | _ON_THE_CPU
    done = subprocess.run(
        command, input=json.dumps(asked), env=variables, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"the recipe '{asked['path']}' cannot be planned, see above")
    return json.loads(done.stdout)


def told(asked):
    """What is wrong with the first that cannot be planned, the arguments of an InputError; None where all can."""
    from kcifar import recipe
    from kcifar.experiment import plan

    base = recipe.load(asked["path"])
    for overrides in asked["overrides"]:
        try:
            plan(base.override(overrides))
        except InputError as error:
            advice = error.advice
            text = str(error).removesuffix(f"; {advice}") if advice else str(error)
            return text, advice
    return None


if __name__ == "__main__":
    answer = told(json.load(sys.stdin))
    sys.stdout.write(json.dumps(answer))
