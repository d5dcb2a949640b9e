"""What to do where a training ended with an error."""

from kcifar import backend
from kcifar.callbacks.checkpoint import Diverged
from kcifar.errors import InputError, one_line
from kcifar.runs.files import write_text


def advised(error, recipe, run=None):
    """The error that says what is wrong and what to do, of one that ended training; None where it is not known.

    Args:
        error: that was raised.
        recipe: of the training.
        run: its `kcifar.runs.folder.RunFolder`, into which it is written that the loss was no number; None where
            another process does.
    """
    if isinstance(error, Diverged):
        if run is None:
            return error
        write_text(run.divergence, f"{error.found}\n")
        if not error.epochs:
            return error
        # From the last good epoch.
        return InputError(str(error), f"for example {run.how_to_go_on} optimizer.global_clipnorm=1 --out NEW")
    if backend.is_out_of_memory(error):
        parts, half = 2 * recipe.accumulate, max(recipe.batch_size // 2, 1)
        less = f"accumulate={parts} (the same batch in parts)" if parts <= recipe.batch_size else f"batch_size={half}"
        return InputError(
            f"out of memory ({one_line(error)[:80]}) with batch_size={recipe.batch_size} in {recipe.precision}: start "
            f"a new run with {less} or precision=bfloat16, or --device cpu"
        )
    return None
