"""Training from a recipe, in a run folder, by `model.fit`."""

import sys

import keras

from kcifar import backend
from kcifar.callbacks import Checkpoint, StopOnNaN, TensorBoard
from kcifar.callbacks.evaluate import Evaluate
from kcifar.callbacks.live_figures import LiveCurves
from kcifar.callbacks.progress import ProgressBar
from kcifar.callbacks.run_log import RunLog, plus
from kcifar.evaluation.predictions import predictions
from kcifar.evaluation.reporting import write_report
from kcifar.evaluation.test_time import TEST_TIME_AUGMENTATIONS
from kcifar.experiment.cost import Cost
from kcifar.experiment.planning import has_state
from kcifar.experiment.together import begin, common_callbacks, fit, last_callbacks
from kcifar.output import say
from kcifar.runs import figures
from kcifar.runs.files import write_json


def train(planned, run, resume=False, progress_every=None, writer=None):
    """Trains what was planned, writes the run folder, and returns what `metrics.json` holds.

    Args:
        planned: what `kcifar.experiment.plan` made of the recipe.
        run: the recipe's `kcifar.runs.folder.RunFolder`, made by `create`.
        resume: go on behind the last epoch that the folder holds, exactly as if the run had not been interrupted;
            from the start where it was interrupted before the first one ended.
        progress_every: batches after which a line is printed; None for a bar on a terminal, a line a minute elsewhere.
        writer: the `kcifar.runs.lock.Writer` of the folder, where it is shared: training ends where another took it.

    Raises:
        InputError: what there is to resume from is damaged; tensorboardX is not installed and the recipe wants it.
    """
    recipe, model, batches = planned.recipe, planned.model, planned.batches
    images = len(batches) * recipe.batch_size if recipe.drop_last else len(batches.split)
    cost = Cost(planned, images)
    log = RunLog(run.log, planned.learning_rate_at, cost.of_epoch)
    tensorboard = TensorBoard(run.path / "tensorboard") if recipe.tensorboard else None
    own = [callback for callback in planned.callbacks if has_state(callback)]
    stateful = [part for part in (planned.unfreeze, planned.weight_ema, log, planned.early_stopping, *own) if part]
    selection = {"monitor": planned.monitor, "from_epoch": recipe.select_from_epoch, "every": recipe.evaluate_every}
    checkpoint = Checkpoint(run.path, stateful=stateful, saved=planned.whole, **selection)
    progress = ProgressBar(planned.learning_rate_at, images, recipe.batch_size, progress_every)
    evaluation = Evaluate(planned.processes, recipe.evaluate_every, **planned.evaluated_splits())
    callbacks = [
        *common_callbacks(planned, evaluation),
        writer and keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: writer.expect_mine()),
        log,
        tensorboard,
        planned.early_stopping,
        checkpoint,
        StopOnNaN(),
        LiveCurves(run.figure("curves"), log, recipe.select_on),
        progress,
        *last_callbacks(planned),
    ]

    run.divergence.unlink(missing_ok=True)
    done = checkpoint.resume(model) if resume and run.last.exists else 0
    if planned.processes:
        states = [state for part, state in zip(stateful, checkpoint.restored, strict=False) if part is not log]
        begin(planned, done, checkpoint.stopped, states, f"go on, with one process or several: {run.how_to_go_on}")
    schedule = figures.learning_rate(planned.learning_rates, recipe.epochs, len(batches))
    figures.save(schedule, run.figure("learning_rate"))
    figures.save(figures.classes(planned.dataset.train, planned.dataset.class_names), run.figure("classes"))
    if done >= recipe.epochs or checkpoint.stopped:
        say("this run was complete: only its figures and metrics.json are written again")
    else:
        log.feature_seconds += planned.part.compute_features(evaluation.splits)
        try:
            fit(planned, callbacks, done, run)
        finally:
            progress.close()
            if tensorboard:
                tensorboard.close()
    if planned.processes:
        planned.processes.watch.leave()
    return _finish(planned, run, log, checkpoint, cost)


def _finish(planned, run, log, checkpoint, cost):
    """Evaluates the best model on the test split, and writes the figures, the report and, last, `metrics.json`."""
    test, names = planned.dataset.test, planned.dataset.class_names
    result, tta = predictions(run, "test", test), planned.recipe.tta
    selected_on = planned.recipe.select_on
    figures.save(figures.curves(log.rows, selected_on), run.figure("curves"))
    figures.save(figures.confusion(result.confusion, names), run.figure("confusion"))
    figures.save(figures.predictions(test, result.probabilities, names), run.figure("predictions"))

    train_seconds = sum(log.train_seconds)
    metrics = {
        "test_accuracy": result.accuracy,
        "test_loss": result.loss,
        **(_with_views(predictions(run, "test", test, tta), tta) if tta != "none" else {}),
        "best_epoch": checkpoint.best_epoch,
        "selected_on": selected_on,
        f"selected_{planned.recipe.select_by}": checkpoint.best,
        "epochs": log.rows[-1]["epoch"],
        "parameters": planned.whole.count_params(),
        "trained_parameters": planned.trained_parameters,
        "feature_seconds": log.feature_seconds,
        "train_seconds": train_seconds,
        "seconds_per_epoch": log.train_seconds,
        "images_per_second": cost.images * len(log.rows) / train_seconds,
        **_flops(log, cost, tta),
        "peak_memory_bytes": _peak_memory_bytes(),
        "peak_device_bytes": backend.peak_device_bytes(),
    }
    if "test_accuracy" in log.rows[-1]:
        metrics["last_test_accuracy"] = log.rows[-1]["test_accuracy"]
    write_report([run], run.report, dataset=planned.dataset, metrics=metrics)
    write_json(run.metrics, metrics)
    return metrics


def _flops(log, cost, tta):
    """The floating-point operations of the training, and of all that was evaluated, the test images at the end too."""
    training, evaluation = log.flops
    views = len(TEST_TIME_AUGMENTATIONS[tta]) if tta != "none" else 0
    return {
        "training_flops": plus(training, cost.of_features()),
        "evaluation_flops": plus(evaluation, cost.of_test(1 + views)),
    }


def _with_views(scores, tta):
    return {
        "test_accuracy_with_views": scores.accuracy,
        "test_loss_with_views": scores.loss,
        "test_time_augmentation": tta,
    }


def _peak_memory_bytes():
    """The most main memory that the process held so far; None where the system does not tell, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
