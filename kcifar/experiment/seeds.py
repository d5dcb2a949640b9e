"""The same recipe from several seeds: members of an ensemble, or a mean with its spread."""

import shlex
from pathlib import Path

from kcifar import recipe
from kcifar.experiment.sweeping.folder import Sweep, SweepFolder
from kcifar.experiment.sweeping.runner import Listed, Runner
from kcifar.experiment.sweeping.selection import Selection
from kcifar.experiment.sweeping.shown import shown
from kcifar.experiment.sweeping.space import Space
from kcifar.interrupts import interrupts
from kcifar.output import printable, say
from kcifar.runs.report import records
from kcifar.runs.report.spread import spread


def train_seeds(path, overrides, seeds, out=None, progress_every=None, workers=1):
    """Trains a recipe once for each seed, in processes of their own: a sweep of nothing but the seed.

    Runs are `OUT/seed0`, …. Those that are done stay, one that was interrupted goes on: so the same command again does
    what is left.

    Args:
        path: of the recipe.
        overrides: without the seed.
        seeds: a range.
        out: folder of the runs; None for `runs/<recipe>-seeds<first>-<last>`.
        progress_every: see `kcifar.experiment.train`.
        workers: how many are trained at a time.

    Returns:
        The folder.

    Raises:
        InputError: a run in the folder is of another recipe, or a training ended with an error.
    """
    out = Path(out or Path("runs") / f"{Path(path).stem}-seeds{seeds[0]}-{seeds[-1]}")
    base = recipe.load(path).override(overrides)
    sweep = Sweep(Path(path).stem, base, Space((), tuple(seeds)))
    folder = SweepFolder(out, sweep, name_of=lambda configuration, seed: f"seed{seed}")
    folder.expect_runs_of_it([{}])
    runs = {seed: folder.run({}, seed) for seed in seeds}
    for place, (seed, run) in enumerate(runs.items(), start=1):
        if run.complete:
            done = f"is done, {records.test_accuracy(run):.2%} on test"
            say(f"seed {seed}, {place} of {len(runs)}: {printable(run.path)} {done}")
    progress = shown(folder, Selection(base, has_validation=False), workers)
    with interrupts.advising("the same command again goes on with this seed and the others"):
        Runner(folder, Listed({}), path, overrides, progress, workers, progress_every).run()
    say(f"\n{_summary(runs)}\nlet them vote: python -m kcifar.vote {printable(shlex.quote(str(out)))}")
    return out


def _summary(runs):
    accuracies = [records.test_accuracy(run) for run in runs.values()]
    viewed = [records.metrics(run).get("test_accuracy_with_views") for run in runs.values()]
    lines = [
        f"seed {seed:<6}{accuracy:.2%} on test" + (f", {views:.2%} with views" if views is not None else "")
        for seed, accuracy, views in zip(runs, accuracies, viewed, strict=True)
    ]
    if len(accuracies) > 1:
        lines.append(f"{'mean':<11}{_mean(accuracies)}")
        if None not in viewed:
            lines.append(f"{'with views':<11}{_mean(viewed)}")
    if next(iter(runs.values())).recipe.select_on == "test":
        lines.append("their epochs were chosen on the test set itself: not an honest estimate")
    return "\n".join(lines)


def _mean(accuracies):
    of_all = spread(accuracies)
    low, high = of_all.interval
    return (
        f"{of_all.mean:.2%} ± {100 * of_all.deviation:.2f} (standard deviation of {of_all.n} seeds; "
        f"95 % interval of the mean {100 * low:.2f} to {100 * high:.2f})"
    )
