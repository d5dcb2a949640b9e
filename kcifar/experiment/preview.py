"""Pictures of what a recipe trains on: images of each class, and what its transforms make of some."""

import keras

from kcifar import data
from kcifar.data import Batches
from kcifar.experiment import components
from kcifar.runs import figures

_IMAGES, _DRAWS = 8, 8


def draw_transforms(planned, path):
    """Writes a picture of the first eight training images, with eight draws of the recipe's transforms for them.

    They are drawn for these eight as a batch: what they are mixed with are others of them.

    Args:
        planned: what `kcifar.experiment.plan` made of the recipe.
        path: of a PNG file.
    """
    recipe, train = planned.recipe, planned.dataset.train
    few = data.Split(train.images[:_IMAGES], train.labels[:_IMAGES], train.classes)
    named = (*recipe.fixed_transforms, *recipe.transforms)
    transforms = [components.transform(component) for component in named]
    batches = Batches(few, len(few), transforms, recipe.seed, shuffle=False)
    draws = []
    for epoch in range(_DRAWS):
        batches.epoch = epoch
        draws.append(tuple(map(keras.ops.convert_to_numpy, batches[0])))
    figures.save(figures.transforms(few, draws, planned.dataset.class_names), path)


def draw_classes(planned, path):
    """Writes a picture of the first ten training images of each class.

    Args:
        planned: what `kcifar.experiment.plan` made of the recipe.
        path: of a PNG file.
    """
    figures.save(figures.classes(planned.dataset.train, planned.dataset.class_names), path)
