"""Write the report of a run, of several compared, or of a sweep, as one HTML file that opens without a network."""

import sys
from pathlib import Path

from kcifar.commands import (
    Parser,
    add_device_option,
    add_import_option,
    know_ensembles,
    one_of,
    run_command,
    start,
)
from kcifar.errors import InputError
from kcifar.output import printable, say

_EXAMPLES = """\
With --csv, --latex or --figures the page is written only where --out is given. Tables have a row for each run, and
behind these one for each set of runs that differ in the seed alone: mean, sample standard deviation, n, and the 95 %
interval of Student's t over the seeds; that of a single run is Wilson's, over the images.

Of one run --figures draws curves, learning rate (at the end of each epoch), classes, confusion, predictions and
reliability into its folder; of several, the accuracies by epoch, beside the page; of a sweep, the page's figures into
its folder.

examples:
  python -m kcifar.report runs/mixup-seed42                        # writes runs/mixup-seed42/report.html
  python -m kcifar.report runs/elu_cnn-seed0 runs/mixup-seed0      # compares them in ./report.html
  python -m kcifar.report runs/study --out study.html              # all runs in a folder
  python -m kcifar.report runs/tutorial_net-sweep-learning_rate    # a sweep, also while it runs
  python -m kcifar.report runs/mixup-seed42 --data cifar-10-python.tar.gz
  python -m kcifar.report runs/mixup-seeds0-4 --csv mixup.csv --latex mixup.tex
  python -m kcifar.report runs/mixup-seed42 --figures pdf          # runs/mixup-seed42/curves.pdf and others
"""

_FORMATS = ("pdf", "svg")


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
    parser.add_argument("--csv", metavar="FILE.csv", help="write the figures as a table for programs")
    parser.add_argument("--latex", metavar="FILE.tex", help="write them as a table for LaTeX, by its package booktabs")
    parser.add_argument(
        "--figures", choices=_FORMATS, type=one_of(_FORMATS), help="draw the figures as files of this format"
    )
    add_device_option(parser)
    add_import_option(parser)
    return parser


def _report(options):
    from kcifar.experiment.sweeping import folder
    from kcifar.runs import saved

    tables = {path: ending for path, ending in ((options.csv, ".csv"), (options.latex, ".tex")) if path}
    for path, ending in tables.items():
        if Path(path).suffix != ending:
            raise InputError(f"the table is '{path}'; expected a file that ends in {ending}")
    sweep = folder.find(options.runs[0]) if len(options.runs) == 1 else None
    if sweep:
        _report_sweep(sweep, options)
        if not tables:
            return
        options.out = options.figures = None  # which are of the sweep; tables are of its runs
    runs = saved.find_all(sweep.ended() if sweep else options.runs)
    know_ensembles(runs)

    from kcifar.evaluation.reporting import expect_place, gathered, write_page
    from kcifar.runs.report import drawings

    page = options.out or (runs[0].report if len(runs) == 1 else "report.html")
    writes_page = options.out or not (tables or options.figures)
    for path in [page, *tables]:
        expect_place(path, "an HTML file" if path is page else "a table")
    if options.figures:
        drawings.folder_of(runs, page)
    reported, dataset = gathered(runs, options.data)
    if writes_page:
        write_page(reported, dataset, page)
        say(printable(page))
    if tables:
        _write_tables(tables, reported, dataset.source)
    if options.figures:
        for path in drawings.draw(reported, dataset, options.figures, page):
            say(printable(path))


def _report_sweep(sweep, options):
    from kcifar.experiment.sweeping import results

    has_tables = options.csv or options.latex
    if options.data and not has_tables:
        raise InputError("--data is for reports of runs; that of a sweep is of what its runs wrote: leave it out")
    if options.out or not (has_tables or options.figures):
        say(printable(results.write_report(sweep, options.out)))
    if options.figures:
        for path in results.draw(sweep, options.figures):
            say(printable(path))


def _write_tables(paths, reported, source):
    from kcifar.runs.files import write_text
    from kcifar.runs.report import table

    rows = table.rows(reported)
    for path, ending in paths.items():
        write_text(path, table.csv_text(rows) if ending == ".csv" else table.latex_text(rows, source))
        say(printable(path))


if __name__ == "__main__":
    sys.exit(start(main))
