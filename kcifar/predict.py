"""Predict the classes of images of any size and format."""

import sys

from kcifar.commands import Parser, add_device_option, add_import_option, number_of, run_command, start
from kcifar.errors import InputError
from kcifar.output import cells, complain, left, printable, say, say_json

_EXAMPLES = """\
An image is scaled so that its shorter side fits the model's input (bicubic, antialiased), and the middle is cut; one of
just that size is left as it is. For a model of grey images it is made grey. It is turned as its EXIF orientation says;
what is transparent is laid on white; 16-bit grey is scaled to 8 bits; of an animation the first frame counts. The model
gets raw pixels, 0 to 255.
Of an ensemble that votes hard the probabilities are the shares of the votes. One sigmoid is the probability of the
second of two classes; a model of several, whose classes do not exclude one another, is refused.

Of a folder all images in it and below it are taken, sorted by path, without those whose names begin with a dot. One in
a folder that cannot be read is named on stderr and left out; the exit code is 0 as long as there are others. An image
that is named itself and cannot be read ends the command with exit code 2.

examples:
  python -m kcifar.predict runs/mixup-seed42 cat.jpg
  python -m kcifar.predict runs/mixup-seed42 photos/ --top 1
  python -m kcifar.predict runs/mixup-seed42/best.keras cat.jpg dog.png --top 10
  python -m kcifar.predict ensemble.keras photos/ --json > predictions.json
  KERAS_BACKEND=jax python -m kcifar.predict my_own_classifier.keras cat.jpg
"""

_TOP = 3
_ONE_BY_ONE = 4


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _predict, arguments)


def _parser():
    parser = Parser("predict", __doc__, _EXAMPLES)
    parser.add_argument(
        "model",
        metavar="RUN_OR_FILE",
        help="a folder that kcifar.train or kcifar.callbacks.Checkpoint wrote (its best model is taken), or a .keras "
        "file: any classifier of images that gives logits or probabilities",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image, or a folder of images")
    parser.add_argument(
        "--top",
        metavar="N",
        type=number_of("classes"),
        help=f"how many classes, the most probable first (default: {_TOP})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document: a list with an item per image")
    add_device_option(parser)
    add_import_option(parser)
    return parser


def _predict(options):
    from kcifar.data import photos

    found = photos.find(options.images)  # what can be wrong here is told before Keras is imported

    from kcifar.evaluation.photos import load, predict
    from kcifar.voting import Voting  # noqa: F401  (an ensemble that votes hard has this layer)

    classifier = load(options.model)
    names = classifier.class_names
    if (options.top or 1) > len(names):
        raise InputError(f"--top is {options.top}, the model has {len(names)} classes; expected 1 to {len(names)}")
    predictions = predict(classifier, found)
    for reason in predictions.unreadable:
        complain(f"left out: {reason}")
    rows = _rows(predictions, names, options.top or min(_TOP, len(names)))
    if options.json:
        say_json(rows)
    elif len(found) > _ONE_BY_ONE or not all(photo.named for photo in found):
        _print_table(rows)
    else:
        _print_one_by_one(rows)


def _rows(predictions, names, top):
    return [
        {
            "image": str(photo.path),
            "predictions": [{"class": names[label], "probability": float(row[label])} for label in labels],
        }
        for photo, row, labels in zip(predictions.photos, predictions.probabilities, predictions.top(top), strict=True)
    ]


def _print_one_by_one(rows):
    width = _class_width(rows)
    for row in rows:
        say(printable(row["image"]))
        for found in row["predictions"]:
            say(f"  {_with_probability(found, width)}")


def _print_table(rows):
    paths = [printable(row["image"]) for row in rows]
    width = max(map(cells, ["image", *paths]))
    class_width = _class_width(rows)
    places = [f"{place:<{class_width + 9}}" for place in range(1, len(rows[0]["predictions"]) + 1)]
    say("  ".join([left("image", width), *places]).rstrip())
    for path, row in zip(paths, rows, strict=True):
        found = [_with_probability(found, class_width) for found in row["predictions"]]
        say("  ".join([left(path, width), *found]))


def _class_width(rows):
    return max(cells(printable(found["class"])) for row in rows for found in row["predictions"])


def _with_probability(found, width):
    return f"{left(printable(found['class']), width)}  {found['probability']:7.2%}"


if __name__ == "__main__":
    sys.exit(start(main))
