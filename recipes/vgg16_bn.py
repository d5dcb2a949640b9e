"""VGG-16 with BatchNorm for 32×32 images, SGD, batch 16, the best epoch chosen on a fifth of the training images.

Source: none; `vgg16.py`, with BatchNorm behind each convolution (torchvision's vgg16_bn).
Command: python -m kcifar.train recipes/vgg16_bn.py
Measured: not run.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.2,
    model=Component("vgg16", batch_norm=True, hidden=4096, dropout=0.5, initial="pytorch"),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    batch_size=16,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("SGD", learning_rate=0.005, momentum=0.9),
    epochs=20,
    select_on="validation",
    deterministic=True,
    seed=0,
)
