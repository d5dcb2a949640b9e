"""Train a CIFAR-10 classifier from a recipe."""

import functools
import sys
from pathlib import Path

from kcifar.commands import Parser, add_device_option, is_one_of_several, number_of, one_of, run_command, start
from kcifar.errors import InputError
from kcifar.interrupts import interrupts
from kcifar.output import printable, say

_EXAMPLES = """\
examples:
  python -m kcifar.train recipes/demo.py
  python -m kcifar.train recipes/mixup.py --data cifar-10-batches-py epochs=30
  python -m kcifar.train recipes/mixup.py transforms.MixUp.alpha=0.2 optimizer.learning_rate=1e-3 --seed 1
  python -m kcifar.train recipes/mixup.py --dry-run --out runs/look         # look at its transforms
  python -m kcifar.train recipes/transfer_resnet18.py freeze=stem,layer1,layer2 --progress 100
  python -m kcifar.train recipes/transfer_resnet18.py pretrained=weights/resnet18.safetensors
  python -m kcifar.train recipes/mixup.py seed=0..4     # five runs, in turn; again: what is left of them
  python -m kcifar.train recipes/mixup.py seed=0..4 --workers 2
  python -m kcifar.train --resume runs/mixup-seed42
  python -m kcifar.train --resume runs/mixup-seed42 optimizer.learning_rate=1e-4 epochs=60 --out runs/lower
  python -m kcifar.train --list models
  python -m kcifar.train recipes/elu_cnn.py model='nets:small(width=64)' optimizer='keras.optimizers:AdamW()'
  KERAS_BACKEND=jax python -m kcifar.train recipes/mixup.py
"""

_LISTS = ("recipes", "models", "transforms", "losses", "optimizers", "schedules", "callbacks")


def main(arguments=None):
    """The command; returns its exit code."""
    return run_command(_parser(), _train_together if is_one_of_several() else _train, arguments, shared=True)


def _parser():
    parser = Parser("train", __doc__, _EXAMPLES)
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a recipe's file, or one of kcifar's own, as recipes/mixup.py; with --resume the run's",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a field of the recipe")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="auto, demo, tfds:NAME, or a path: CIFAR-10 or CIFAR-100 folder or archive (of CIFAR-100 with :coarse "
        "behind it the 20 coarse labels), images in train/ test/ and perhaps val/, .npz, TFDS folder",
    )
    parser.add_argument("--seed", metavar="N", help="the same as seed=N; N..M trains each in turn that is not done")
    parser.add_argument(
        "--out",
        metavar="RUN",
        help="folder of the run (default: runs/<recipe>-seed<N>), of several seeds that of their runs "
        "(default: runs/<recipe>-seeds<N>-<M>)",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was interrupted; with epochs=N a longer one; with --out begin a new run where it "
        "is now, its optimizer kept and whatever is given changed",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=number_of("workers"),
        help="train so many of several seeds at a time, which share the cores, or have a GPU each (default: 1)",
    )
    parser.add_argument(
        "--progress",
        metavar="N",
        type=number_of("batches"),
        help="print a line every N batches (default: a bar on a terminal, a line a minute elsewhere)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be done, and train nothing; with --out draw RUN/classes.png and RUN/transforms.png",
    )
    parser.add_argument(
        "--list",
        choices=_LISTS,
        type=one_of(_LISTS),
        help="what there is to name in a recipe, with arguments and defaults",
    )
    add_device_option(parser)
    return parser


def _train_together(options):
    from kcifar.experiment.together import telling

    with telling():
        _train(options)


def _train(options):
    if options.list:
        from kcifar.experiment.listing import listing

        say(listing(options.list))
        return
    if options.recipe and "=" in options.recipe:
        options.overrides.insert(0, options.recipe)
        options.recipe = None
    seeds = None if options.resume else _take_seeds(options)
    if seeds and is_one_of_several():
        raise InputError("a range of seeds is trained by one process after another: start it without torchrun")
    if options.workers and not seeds:
        raise InputError("--workers is for several seeds, but there is one run; expected seed=N..M with it")
    if seeds and not options.dry_run:
        from kcifar.experiment.seeds import train_seeds

        recipe, overrides = _expect_recipe(options), _overrides(options)
        train_seeds(recipe, overrides, seeds, options.out, options.progress, options.workers or 1)
        return
    if seeds:
        options.overrides.append(f"seed={seeds[0]}")
    if options.resume:
        (_branch if options.out else _resume)(options)
        return
    recipe, path = _load(options)

    from kcifar import experiment  # it imports Keras, which takes seconds
    from kcifar.experiment import own_parts
    from kcifar.runs import folder
    from kcifar.runs.lock import writing

    planned = experiment.plan(recipe)
    if _follows(planned, options):
        return
    seeds_row = [("seeds", f"{seeds[0]} to {seeds[-1]}, one after another")] if seeds else []
    _show([("recipe", str(path)), *planned.describe(), *seeds_row])
    if options.dry_run:
        if options.out:
            _draw(planned, folder.make(options.out))
        return
    out = folder.make(options.out or folder.free_path("runs", f"{path.stem}-seed{recipe.seed}")).path
    with writing(out) as writer:
        describe = functools.partial(own_parts.record, wanted=recipe, imported_from=path.parent)
        run = folder.create(out, recipe, path.read_bytes(), planned.dataset, describe)
        _fit(planned, run, options, writer)


def _resume(options):
    from kcifar.runs import folder

    run = folder.find(options.resume)
    wanted = _load(options)[0] if options.recipe else run.recipe.override(_overrides(options))
    run.expect_recipe(wanted, may_be_longer=True)

    from kcifar import backend
    from kcifar.experiment import resuming
    from kcifar.runs.lock import writing

    if options.dry_run:
        _show(resuming.plan_again(run, wanted).describe())
        return
    processes = backend.join_processes()
    if processes and processes.rank:
        processes.told_by_first(None)  # that the folder is ready
        _follows(resuming.plan_again(run, wanted, resuming.start_of(run, wanted)), options)
        return
    with writing(run.path) as writer:
        planned = resuming.go_on(run, wanted, tell=_show)
        if processes:
            processes.told_by_first(None)
            _follows(planned, options)
        _fit(planned, run, options, writer)


def _branch(options):
    from kcifar.runs import folder

    origin = folder.find(options.resume)
    wanted, path = _load(options) if options.recipe else (origin.recipe.override(_overrides(options)), None)

    from kcifar.experiment import own_parts
    from kcifar.experiment.branching import branch
    from kcifar.runs.lock import writing

    begun = branch(origin, wanted)
    if _follows(begun.planned, options):
        return
    _show(begun.describe())
    out = folder.make(options.out).path
    if options.dry_run:
        _draw(begun.planned, folder.RunFolder(out))
        return
    source = path or origin.recipe_source
    imported_from = path.parent if path else own_parts.go_on(origin) or Path.cwd()

    def describe(run):
        own_parts.record(run, wanted, imported_from)
        begun.write(run)

    with writing(out) as writer:
        run = folder.create(out, wanted, source.read_bytes(), begun.planned.dataset, describe)
        _fit(begun.planned, run, options, writer)


def _follows(planned, options):
    """Whether another process leads this one: then it has trained with that one, where that is wanted."""
    from kcifar.experiment.together import follow, leads

    if leads(planned):
        return False
    if not options.dry_run:
        follow(planned)
    return True


def _show(rows):
    for name, text in rows:
        say(f"{name:<15}{printable(text)}")


def _fit(planned, run, options, writer):
    from kcifar import experiment

    say(f"{'run':<15}{printable(run.path)}\n")
    with interrupts.advising(f"go on with: {run.how_to_go_on}"):
        metrics = experiment.train(planned, run, bool(options.resume), options.progress, writer)
    say(f"\n{_result(metrics)}\n{printable(run.path)}/: report.html, metrics.json, best.keras")


def _draw(planned, run):
    """Draws what can be looked at before training."""
    from kcifar.experiment.preview import draw_classes, draw_transforms

    for draw, name in ((draw_classes, "classes"), (draw_transforms, "transforms")):
        draw(planned, run.figure(name))
        _show([("picture", run.figure(name))])


def _take_seeds(options):
    """The range of seeds that is given as `seed=0..4` or `--seed 0..4`, taken out of the options; None without."""
    texts = [o.partition("=")[2].strip() for o in options.overrides if o.partition("=")[0].strip() == "seed"]
    texts += [] if options.seed is None else [options.seed]
    if not any(".." in text for text in texts):
        return None
    if len(texts) > 1:
        raise InputError(f"the seed is given {len(texts)} times ({', '.join(texts)}); expected once")
    from kcifar.experiment.sweeping.space import seeds_in

    options.overrides = [o for o in options.overrides if o.partition("=")[0].strip() != "seed"]
    options.seed = None
    return seeds_in(texts[-1])


def _expect_recipe(options):
    if not options.recipe:
        raise InputError("no recipe given; expected the path of one, as recipes/mixup.py, or --resume RUN")
    return options.recipe


def _load(options):
    """The recipe with its overrides, and the path of its file."""
    from kcifar import recipe

    path = recipe.find(_expect_recipe(options))
    return recipe.load(path).override(_overrides(options)), path


def _overrides(options):
    named = [f"{name}={getattr(options, name)}" for name in ("data", "seed") if getattr(options, name) is not None]
    return [*options.overrides, *named]


def _result(metrics):
    how = {
        "validation": "chosen on validation",
        "test": "chosen on the test set itself: not an honest estimate",
        "last": "the last one",
    }[metrics["selected_on"]]
    views = ""
    if "test_accuracy_with_views" in metrics:
        views = f", {metrics['test_accuracy_with_views']:.2%} with the views {metrics['test_time_augmentation']}"
    return (
        f"test accuracy {metrics['test_accuracy']:.2%}{views}, loss {metrics['test_loss']:.4f}, "
        f"of epoch {metrics['best_epoch']} ({how})"
    )


if __name__ == "__main__":
    sys.exit(start(main))
