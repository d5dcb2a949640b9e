"""Write the report of a run, of several compared, or of a sweep, as one HTML file that opens without a network."""

import sys

from kcifar.commands import Parser, add_device_option, add_import_option, know_ensembles, run_command, start
from kcifar.errors import InputError
from kcifar.output import printable, say

_EXAMPLES = """\
examples:
  python -m kcifar.report runs/mixup-seed42                        # writes runs/mixup-seed42/report.html
  python -m kcifar.report runs/elu_cnn-seed0 runs/mixup-seed0      # compares them in ./report.html
  python -m kcifar.report runs/study --out study.html              # all runs in a folder
  python -m kcifar.report runs/tutorial_net-sweep-learning_rate    # a sweep, also while it runs
  python -m kcifar.report runs/mixup-seed42 --data cifar-10-python.tar.gz
"""


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _report, arguments)


def _parser():
    parser = Parser("report", __doc__, _EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a folder that kcifar.train wrote, or a folder of such, or one that kcifar.sweep wrote; with --data also "
        "one that kcifar.callbacks.Checkpoint wrote, or a .keras file",
    )
    parser.add_argument(
        "--out", metavar="FILE.html", help="the file (default: report.html, of one run in its folder, else here)"
    )
    parser.add_argument("--data", metavar="SOURCE", help="test images from elsewhere (default: those of the runs)")
    add_device_option(parser)
    add_import_option(parser)
    return parser


def _report(options):
    from kcifar.experiment.sweeping import folder

    sweep = folder.find(options.runs[0]) if len(options.runs) == 1 else None
    if sweep:
        from kcifar.experiment.sweeping.results import write_report as write_sweep

        if options.data:
            raise InputError("--data is for reports of runs; that of a sweep is of what its runs wrote: leave it out")
        say(printable(write_sweep(sweep, options.out)))
        return
    from kcifar.runs import saved

    runs = saved.find_all(options.runs)
    know_ensembles(runs)

    from kcifar.evaluation.reporting import write_report

    path = options.out or (runs[0].report if len(runs) == 1 else "report.html")
    write_report(runs, path, options.data)
    say(printable(path))


if __name__ == "__main__":
    sys.exit(start(main))
