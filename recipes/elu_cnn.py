"""ELU CNN at a constant learning rate: the baseline of mixup.py, without MixUp, L2 and cycle.

Source: a course report on CIFAR-10, in which the baseline's schedule stands commented out; its figure is not stated.
The last batch is dropped in training as there; all 10,000 test images are evaluated, there 9,984.
Command: python -m kcifar.train recipes/elu_cnn.py
Measured: not yet at this setting (with the cycle and L2 of mixup.py: 68.2 % after 30 epochs, 71.2 % at its best,
CIFAR-10 as a JPEG copy, seed 42, n = 1, torch, CPU).
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("elu_cnn", dropout=0.5),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.002),
    epochs=200,
    select_on="test",
    select_from_epoch=11,
    deterministic=True,
    seed=42,
)
