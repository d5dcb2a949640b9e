"""Evaluate a run's best model on the test images: accuracy, loss, accuracy of each class."""

import argparse
import sys

from kcifar.commands import run_command

_EXAMPLES = """\
examples:
  python -m kcifar.evaluate runs/mixup-seed42
  python -m kcifar.evaluate runs/mixup-seed42 --data cifar-10-python.tar.gz
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


if __name__ == "__main__":
    sys.exit(main())
