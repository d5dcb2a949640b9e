"""Evaluate a run's best model on the test images: accuracy, loss, accuracy of each class; how sharp its minimum is."""

import argparse
import sys

from kcifar.commands import run_command

_EXAMPLES = """\
examples:
  python -m kcifar.evaluate runs/mixup-seed42
  python -m kcifar.evaluate runs/mixup-seed42 --data cifar-10-python.tar.gz
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness
  python -m kcifar.evaluate runs/sam_resnet20-seed0 --sharpness --rho 0.1 --images 5000
"""


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
    sharpness = parser.add_argument_group("sharpness of the minimum, by the recipe's loss on training images")
    sharpness.add_argument(
        "--sharpness",
        action="store_true",
        help="the loss increase at radius RHO along SAM's direction, the Hessian's top eigenvalue (a minute on a CPU)",
    )
    sharpness.add_argument("--rho", metavar="RHO", type=float, default=0.05, help="radius (default: %(default)s)")
    sharpness.add_argument(
        "--images",
        metavar="N",
        type=int,
        default=1000,
        help="the first N training images (default: %(default)s)",
    )
    return parser


def _evaluate(options):
    from kcifar.runs import folder

    run = folder.find(options.run)
    recipe = run.recipe

    from kcifar import data
    from kcifar.training.evaluation import evaluate, load_model

    dataset = data.load(options.data or recipe.data)
    result = evaluate(load_model(run.best), dataset.test)
    print(f"{run.best} on {len(dataset.test):,} test images of {dataset.source}")
    if recipe.select_on == "test":
        print("the epoch was chosen on the test set itself: not an honest estimate")
    print(f"accuracy  {result.accuracy:.2%}\nloss      {result.loss:.4f}\n")
    width = max(map(len, dataset.class_names))
    for name, accuracy in zip(dataset.class_names, result.per_class, strict=True):
        print(f"{name:<{width}}  {accuracy:7.2%}")
    if options.sharpness:
        _print_sharpness(run, dataset, options.rho, options.images)


def _print_sharpness(run, dataset, rho, images):
    from kcifar.training import components
    from kcifar.training.evaluation import load_model
    from kcifar.training.landscape import sharpness

    recipe = run.recipe
    if recipe.validation:
        dataset = dataset.split_validation(recipe.validation, recipe.seed)
    loss = components.loss(recipe.loss)
    model, batch_size = load_model(run.best, float32=True), min(recipe.batch_size, images)
    found = sharpness(model, dataset.train, loss, rho, images, batch_size, verbose=True)
    print(f"\nsharpness, {recipe.loss} on {min(images, len(dataset.train)):,} training images")
    print(f"loss                           {found.loss:.4f}")
    uphill = f"uphill at radius {rho:g}"
    print(f"{uphill:<30}{found.increase:+.4f}  (batches of {batch_size}, in training mode, as in SAM)")
    how = "" if found.converged else ", not converged"
    print(f"top eigenvalue of the Hessian  {found.eigenvalue:.3f}  ({found.iterations} iterations{how})")


if __name__ == "__main__":
    sys.exit(main())
