"""A small CNN on images of ten shapes that kcifar draws itself: needs no data, takes half a minute on 2 cores.

Source: none; it shows a whole run, with an honest selection on held-out images.
Command: python -m kcifar.train recipes/demo.py
Measured: 97.0 % of the test images in 34 s, n = 1, torch, 2 CPU cores.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="demo",
    validation=0.1,
    model=Component("elu_cnn", dropout=0.1),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    transforms=(
        Component("RandomCrop", size=32, padding=2),
        Component("RandomFlip"),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.001),
    schedule=Component("CyclicLR", base=0.0001, maximum=0.003, step_size_up=400, step_size_down=1000, unit="batch"),
    epochs=10,
    select_on="validation",
    deterministic=True,
    seed=0,
)
