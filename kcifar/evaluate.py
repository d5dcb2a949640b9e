"""Evaluate a run's best model on the test images: accuracy, calibration, confusion; how sharp its minimum is."""

import dataclasses
import math
import sys

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
Prints accuracy with its 95 % interval (Wilson's), top-2 accuracy, loss, Brier score and expected calibration error,
these also with a temperature fitted on the run's validation images, accuracy of each class, the confusion matrix, and
the most confident mistakes. What the model predicts is kept in RUN/predictions, of a file
nowhere. Of a model that no recipe was trained by, --data gives the images; without validation images no temperature
is fitted.

examples:
  python -m kcifar.evaluate runs/mixup-seed42
  python -m kcifar.evaluate runs/mixup-seed42 --data cifar-10-python.tar.gz
  python -m kcifar.evaluate ensemble.keras --data cifar-10-python.tar.gz
  python -m kcifar.evaluate runs/mixup-seed42 --tta flip+shift
  python -m kcifar.evaluate runs/mixup-seed42 --export onnx
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness --rho 0.1 --images 5000
  python -m kcifar.evaluate runs/mixup-seed42 --json > figures.json
"""


_RHO, _IMAGES = 0.05, 1000
_FORMATS = ("onnx",)


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _evaluate, arguments)


def _parser():
    parser = Parser("evaluate", __doc__, _EXAMPLES)
    parser.add_argument(
        "run",
        metavar="RUN_OR_FILE",
        help="a folder that kcifar.train wrote; with --data also one that kcifar.callbacks.Checkpoint wrote, or a "
        ".keras file: any classifier of images that gives logits or probabilities",
    )
    parser.add_argument("--data", metavar="SOURCE", help="test images from elsewhere (default: those of the run)")
    add_tta_option(parser)
    parser.add_argument(
        "--export",
        choices=_FORMATS,
        type=one_of(_FORMATS),
        help="write the model beside its file as .onnx too, checked against Keras",
    )
    sharpness = parser.add_argument_group("sharpness of the minimum, by the recipe's loss on training images")
    sharpness.add_argument(
        "--sharpness",
        action="store_true",
        help="the loss increase at radius RHO along SAM's direction, the Hessian's top eigenvalue (a minute on a CPU)",
    )
    sharpness.add_argument("--rho", metavar="RHO", type=float, help=f"radius (default: {_RHO})")
    sharpness.add_argument(
        "--images", metavar="N", type=number_of("images"), help=f"the first N training images (default: {_IMAGES})"
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    add_device_option(parser)
    add_import_option(parser)
    return parser


def _evaluate(options):
    for name, value in (("--rho", options.rho), ("--images", options.images)):
        if value is not None and not options.sharpness:
            raise InputError(f"{name} is of the sharpness: give --sharpness too, or leave it out")
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} is {value}; expected a number above 0")

    from kcifar.evaluation.assessment import assess
    from kcifar.runs import saved

    run = saved.find(options.run)
    if options.sharpness and run.recipe is None:
        raise InputError(f"--sharpness is of a recipe's loss, and '{run.path}' has no recipe: leave it out")
    know_ensembles([run])
    found = assess(run, options.data, options.tta)
    if not options.json:
        say(found.text())
    if options.export:
        wrote = f"wrote {printable(found.export_onnx())}"
        if options.json:
            note(wrote)
        else:
            say(f"\n{wrote}")
    of_minimum = _sharpness(run, found.dataset, options) if options.sharpness else None
    if options.json:
        say_json(found.figures() | {"sharpness": of_minimum})
    elif of_minimum:
        _print_sharpness(run, **of_minimum)


def _sharpness(run, dataset, options):
    """The figures of the minimum, and what they are of, as a dict of plain values."""
    from kcifar.evaluation.models import load_model
    from kcifar.evaluation.sharpness import sharpness
    from kcifar.experiment import components

    rho, images, batch_size = options.rho or _RHO, options.images or _IMAGES, run.recipe.batch_size
    loss = components.loss(run.recipe.loss, importing=False)
    model = load_model(run.best, float32=True)
    found = sharpness(model, dataset.train, loss, rho, images, batch_size, verbose=True)
    of = {"rho": rho, "images": min(images, len(dataset.train)), "batch_size": min(batch_size, images)}
    return of | dataclasses.asdict(found)


def _print_sharpness(run, rho, images, batch_size, loss, increase, eigenvalue, iterations, converged):
    say(f"\nsharpness, {run.recipe.loss} on {images:,} training images")
    say(f"loss                           {loss:.4f}")
    uphill = f"uphill at radius {rho:g}"
    say(f"{uphill:<30}{increase:+.4f}  (batches of {batch_size}, in training mode, as in SAM)")
    how = "" if converged else ", not converged"
    say(f"top eigenvalue of the Hessian  {eigenvalue:.3f}  ({iterations} iterations{how})")


if __name__ == "__main__":
    sys.exit(start(main))
