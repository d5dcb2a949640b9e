"""The net of PyTorch's CIFAR-10 tutorial, trained as the tutorial does but for 10 epochs.

Source: PyTorch's tutorial "Training a classifier" and a course report that starts from it, which states 64.19 % on
the original pixels.
Command: python -m kcifar.train recipes/tutorial_net.py
Measured: 61.2 % after the last epoch on CIFAR-10 (JPEG copy), mean of seeds 0, 1, 2 (62.34, 61.07, 60.22), torch,
CPU; the same training in plain PyTorch (benchmarks/plain_torch.py) 61.2 % (60.67, 60.95, 61.86).
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("tutorial_net"),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    batch_size=4,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("SGD", learning_rate=0.001, momentum=0.9),
    epochs=10,
    select_on="last",
    deterministic=True,
    seed=0,
)
