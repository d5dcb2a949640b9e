"""Accuracy and loss on whole splits after an epoch."""

import keras

from kcifar.callbacks.processes import mean_figures
from kcifar.runs import generators


class Evaluate(keras.callbacks.Callback):
    """Evaluates the model on splits after epochs and adds `<name>_loss` and `<name>_accuracy` to their logs.

    Unlike the running figures of training, these are of the finished epoch's weights, in inference mode and on images
    as they are. Put it before the callbacks that read its figures.

    Args:
        splits: `kcifar.data.Batches` by name: Evaluate(train=…, test=…). Of several processes that train together, each
            has those of a part of its own.
        processes: what `kcifar.backend.join_processes` gave; None where this process is alone.
        every: after so many epochs, and after the last one; None for that alone.
    """

    def __init__(self, processes=None, every=1, **splits):
        super().__init__()
        self.splits = splits
        self.processes = processes
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if not is_evaluated(epoch, self.every, self.params):
            return
        states = generators.states()  # dropout without a seed draws by them: training is the same, evaluated or not
        for name, batches in self.splits.items():
            figures = self.model.evaluate(batches, verbose=0, return_dict=True)
            if self.processes:
                figures = mean_figures(self.processes, len(batches.split), figures)
            logs[f"{name}_loss"] = figures["loss"]
            logs[f"{name}_accuracy"] = figures["accuracy"]
        generators.restore(states)


def is_evaluated(epoch, every, params):
    """Whether the splits are evaluated after an epoch, counted from 0; `every` as of `Evaluate`.

    Args:
        params: of a callback, which tell how many `epochs` there are.
    """
    return (every is not None and (epoch + 1) % every == 0) or epoch + 1 == params["epochs"]
