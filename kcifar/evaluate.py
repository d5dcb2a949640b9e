"""Evaluate a run's best model on the test images: accuracy, loss, accuracy of each class; how sharp its minimum is."""

import argparse
import sys

from kcifar.commands import run_command
from kcifar.errors import InputError

_EXAMPLES = """\
examples:
  python -m kcifar.evaluate runs/mixup-seed42
  python -m kcifar.evaluate runs/mixup-seed42 --data cifar-10-python.tar.gz
  python -m kcifar.evaluate runs/mixup-seed42 --tta flip+shift
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness --rho 0.1 --images 5000
"""


_RHO, _IMAGES = 0.05, 1000
_TTA = ("flip", "flip+shift")


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _evaluate, arguments)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m kcifar.evaluate",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a folder that kcifar.train wrote")
    parser.add_argument("--data", metavar="SOURCE", help="test images from elsewhere (default: those of the run)")
    parser.add_argument(
        "--tta",
        metavar="VIEWS",
        choices=_TTA,
        help="test-time augmentation, the mean of the logits: flip (2 views), flip+shift (6, shifted by a pixel too)",
    )
    sharpness = parser.add_argument_group("sharpness of the minimum, by the recipe's loss on training images")
    sharpness.add_argument(
        "--sharpness",
        action="store_true",
        help="the loss increase at radius RHO along SAM's direction, the Hessian's top eigenvalue (a minute on a CPU)",
    )
    sharpness.add_argument("--rho", metavar="RHO", type=float, help=f"radius (default: {_RHO})")
    sharpness.add_argument("--images", metavar="N", type=int, help=f"the first N training images (default: {_IMAGES})")
    return parser


def _evaluate(options):
    for name, value in (("--rho", options.rho), ("--images", options.images)):
        if value is not None and not options.sharpness:
            raise InputError(f"{name} is of the sharpness: give --sharpness too, or leave it out")
        if value is not None and not value > 0:
            raise InputError(f"{name} is {value}; expected above 0")

    from kcifar.runs import folder

    run = folder.find(options.run)
    recipe = run.recipe

    from kcifar import data
    from kcifar.training.evaluation import evaluate, load_model

    dataset = data.load(options.data or recipe.data)
    result = evaluate(load_model(run.best), dataset.test, options.tta or "none")
    views = f", test-time augmentation {options.tta}" if options.tta else ""
    print(f"{run.best} on {len(dataset.test):,} test images of {dataset.source}{views}")
    if recipe.select_on == "test":
        print("the epoch was chosen on the test set itself: not an honest estimate")
    print(f"accuracy  {result.accuracy:.2%}\nloss      {result.loss:.4f}\n")
    width = max(map(len, dataset.class_names))
    for name, accuracy in zip(dataset.class_names, result.per_class, strict=True):
        print(f"{name:<{width}}  {accuracy:7.2%}")
    if options.sharpness:
        _print_sharpness(run, dataset, options.rho or _RHO, options.images or _IMAGES)


def _print_sharpness(run, dataset, rho, images):
    from kcifar.training import components
    from kcifar.training.evaluation import load_model
    from kcifar.training.landscape import sharpness

    recipe = run.recipe
    if recipe.validation:
        dataset = dataset.split_validation(recipe.validation, recipe.validation_seed)
    loss = components.loss(recipe.loss)
    model = load_model(run.best, float32=True)
    found = sharpness(model, dataset.train, loss, rho, images, recipe.batch_size, verbose=True)
    print(f"\nsharpness, {recipe.loss} on {min(images, len(dataset.train)):,} training images")
    print(f"loss                           {found.loss:.4f}")
    batch_size = min(recipe.batch_size, images)
    uphill = f"uphill at radius {rho:g}"
    print(f"{uphill:<30}{found.increase:+.4f}  (batches of {batch_size}, in training mode, as in SAM)")
    how = "" if found.converged else ", not converged"
    print(f"top eigenvalue of the Hessian  {found.eigenvalue:.3f}  ({found.iterations} iterations{how})")


if __name__ == "__main__":
    sys.exit(main())
