"""Let runs vote: accuracy of each, of ensembles of every size, chosen on validation and confirmed on test."""

import sys
from pathlib import Path

from kcifar.commands import (
    Parser,
    add_device_option,
    add_import_option,
    add_tta_option,
    know_ensembles,
    number_of,
    one_of,
    run_command,
    start,
)
from kcifar.errors import InputError
from kcifar.output import note, printable, say, say_json

_EXAMPLES = """\
Of each size those members are taken that are best on validation: of all subsets where there are at most eleven runs, of
more by adding the best one at a time. Validation are the training images that none of the runs was trained on; where
runs held out different ones a warning says which are left. Runs that held out none (validation=0, as in mixup.py) vote
as well, but nothing is chosen. What each run predicts is kept in its folder. The file of a soft vote opens in plain
Keras with KERAS_BACKEND=torch or jax; that of a hard vote needs `from kcifar.voting import Voting` first. Views (--tta)
are in the figures, not in the file.

examples:
  python -m kcifar.train recipes/mixup.py seed=0..4 validation=0.1 select_on=validation   # makes the runs
  python -m kcifar.vote runs/mixup-seed0 runs/mixup-seed1 runs/elu_cnn-seed0
  python -m kcifar.vote runs/mixup-seeds0-4                        # a folder of runs
  python -m kcifar.vote runs/mixup-seeds0-4 --out ensemble.keras   # the best ensemble, in one file
  python -m kcifar.vote runs/mixup-seeds0-4 --size 3 --out three.keras
  python -m kcifar.vote runs/mixup-seeds0-4 --mode hard --out ensemble.keras --export onnx
  python -m kcifar.vote runs/tuned-seeds0-4 --soup                 # beside it the mean of the weights
  python -m kcifar.vote runs/mixup-seeds0-4 --tta flip+shift       # each member by the mean over six views
  python -m kcifar.vote runs/mixup-seeds0-4 --json > votes.json
"""

_MODES = ("soft", "hard")
_FORMATS = ("onnx",)


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _vote, arguments)


def _parser():
    parser = Parser("vote", __doc__, _EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a folder that kcifar.train wrote, or one with several; with --data also one that "
        "kcifar.callbacks.Checkpoint wrote, or a .keras file",
    )
    parser.add_argument("--data", metavar="SOURCE", help="the images from elsewhere (default: those of the first run)")
    parser.add_argument(
        "--mode",
        choices=_MODES,
        type=one_of(_MODES),
        default="soft",
        help="of the ensemble that is named and written: soft, the mean of the probabilities (default); hard, the most "
        "frequent class, ties to the larger mean",
    )
    parser.add_argument("--out", metavar="FILE.keras", type=Path, help="write the best ensemble as one Keras model")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        metavar="N",
        type=number_of("members"),
        help="write the best of N members, whatever is best on validation",
    )
    size.add_argument("--all", action="store_true", help="write that of all members")
    parser.add_argument(
        "--export", choices=_FORMATS, type=one_of(_FORMATS), help="and beside FILE.keras the same as FILE.onnx"
    )
    parser.add_argument(
        "--soup",
        action="store_true",
        help="compare with the mean of the weights of all runs, of one architecture; BatchNorm's statistics found anew",
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    add_tta_option(parser)
    add_device_option(parser)
    add_import_option(parser)
    return parser


def _vote(options):
    if options.out and options.out.suffix != ".keras":
        raise InputError(f"--out is '{options.out}'; expected a file that ends in .keras")
    if options.out and (options.out.is_dir() or any(folder.is_file() for folder in options.out.parents)):
        what = "a folder" if options.out.is_dir() else "below a file"
        raise InputError(f"--out is '{options.out}', {what}; expected the path of a file that can be written")
    for name in ("export", "size", "all"):
        if getattr(options, name) not in (None, False) and not options.out:
            raise InputError(f"--{name} is of the ensemble's file: give --out FILE.keras too")

    from kcifar.runs import saved
    from kcifar.voting.election import elect, expect_size

    runs = saved.find_all(options.runs)
    size = len(runs) if options.all else options.size
    expect_size(size, runs)
    know_ensembles(runs)
    election = elect(runs, options.mode, options.data, options.soup, options.tta)
    for warning in election.members.warnings:
        note(f"vote: warning: {warning}")
    if options.json:
        say_json(election.figures())
    else:
        say(election.text())
    if options.out:
        for path in election.write(options.out, options.export, size):
            (note if options.json else say)(f"wrote {printable(path)}")


if __name__ == "__main__":
    sys.exit(start(main))
