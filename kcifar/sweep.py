"""Train many configurations of a recipe: all combinations of values, or as many as are drawn from ranges."""

import sys

from kcifar.commands import Parser, add_device_option, number_of, run_command, start
from kcifar.errors import InputError
from kcifar.interrupts import interrupts
from kcifar.output import printable, say

_EXAMPLES = """\
examples:
  python -m kcifar.sweep recipes/tutorial_net.py optimizer.learning_rate=0.01,0.001,0.005 seed=0..2
  python -m kcifar.sweep recipes/tutorial_net.py optimizer.learning_rate=0.01,0.001 epochs=2 --workers 2
  python -m kcifar.sweep recipes/mixup.py validation=0.1 select_on=validation epochs=10 \\
      optimizer.learning_rate=log:1e-4..1e-1 transforms.MixUp.alpha=0.1..1 model.dropout=0.0..0.6 --trials 20
  python -m kcifar.sweep recipes/transfer_resnet18.py 'freeze=[],[stem],[stem,layer1]' --workers 2
  python -m kcifar.sweep recipes/mixup.py --range-test
  python -m kcifar.report runs/tutorial_net-sweep-learning_rate     # any time
"""


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _sweep, arguments)


def _parser():
    parser = Parser("sweep", __doc__, _EXAMPLES)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file, or one of kcifar's own, as recipes/mixup.py")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUES",
        help="what is varied: key=a,b,c (a list that is one value in brackets: freeze=[stem],[stem,layer1]), "
        "key=LOW..HIGH, key=log:LOW..HIGH, seed=0..4; and fields that are the same in all runs: key=value",
    )
    parser.add_argument("--data", metavar="SOURCE", help="the same as data=SOURCE, see kcifar.train --help")
    parser.add_argument(
        "--trials", metavar="N", type=number_of("trials"), help="how many configurations are drawn from the ranges"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=number_of("workers"),
        default=1,
        help="trainings at a time, which share the cores, or have a GPU each (default: 1); more may join by the same "
        "command, on any machine that shares the folder",
    )
    parser.add_argument(
        "--out", metavar="SWEEP", help="folder of the sweep (default: runs/<recipe>-sweep-<keys>); again: what is left"
    )
    parser.add_argument(
        "--study",
        metavar="STORAGE",
        help="where Optuna keeps its study, as postgresql+psycopg://user@host/database (default: a file in the folder)",
    )
    parser.add_argument("--random", action="store_true", help="draw by chance alone, not by what did well (TPE)")
    parser.add_argument(
        "--prune", action="store_true", help="end configurations early that do worse than the median at that epoch"
    )
    parser.add_argument("--yes", action="store_true", help="more than a thousand runs are meant")
    parser.add_argument(
        "--range-test",
        action="store_true",
        help="instead of a sweep, one epoch in which the learning rate grows from 1e-6 to 10: draws the loss",
    )
    add_device_option(parser)
    return parser


def _sweep(options):
    overrides = [*options.overrides, *([] if options.data is None else [f"data={options.data}"])]
    from kcifar.experiment.sweeping import begin

    if options.range_test:
        _range_test(options, overrides)
        return
    how = options.trials, options.prune, options.yes, options.random
    begun = begin.prepare(options.recipe, overrides, options.out, *how)
    for name, text in begun.describe():
        say(f"{name:<15}{printable(text)}")
    say()
    with interrupts.advising("the same command again goes on with this sweep"):
        folder, failed = begin.run(begun, options.study, options.workers)

    from kcifar.experiment.sweeping.results import results_of, write_report

    say(f"\n{begin.summary(results_of(folder))}")
    say(printable(write_report(folder)))
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise InputError(f"{failed[0]}{more}; the same command again tries what failed again")


def _range_test(options, overrides):
    given = [name for name in ("trials", "study", "prune", "random", "yes") if getattr(options, name)]
    if given or options.workers > 1:
        raise InputError(f"--{(given or ['workers'])[0]} is for sweeps; a range test is one epoch: leave it out")

    from kcifar import recipe as recipes
    from kcifar.experiment.sweeping.space import space_of

    path = recipes.find(options.recipe)
    space, recipe, _ = space_of(recipes.load(path), overrides)
    if space.dimensions or space.seeds:
        raise InputError(f"a range test is one epoch of one configuration; '{space}' varies: give it one value")

    from kcifar.experiment import range_test

    found = range_test.range_test(recipe)
    picture = range_test.write(found, options.out or f"runs/{path.stem}-range-test")
    steepest = f"{found.steepest:.2g}" if found.steepest else "no rate"
    ended = f"ended at {found.rates[-1]:.2g}, where it exploded" if found.rates[-1] < 9.9 else "ended at 10"
    say(f"the smoothed loss falls steepest at {steepest}, is lowest at {found.lowest:.2g}, and {ended}")
    say(printable(picture))


if __name__ == "__main__":
    sys.exit(start(main))
