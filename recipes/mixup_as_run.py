"""ELU CNN with MixUp, as its report's program runs as printed: a constant rate, each image's crop and flip drawn once.

Source: a course report on CIFAR-10, which states 78.58 % after 200 epochs (chosen on the test set, from the eleventh
epoch on). Its loops never step the schedule, so the rate stays at the cycle's base, and its loader gets
`list(dataset)`. As it means it: mixup.py. The last batch is dropped in training as there; all 10,000 test images are
evaluated, there 9,984.
Command: python -m kcifar.train recipes/mixup_as_run.py
Measured: 73.98 % after 30 epochs, 74.24 % at its best (epoch 26, chosen on the test set), CIFAR-10, seed 42, n = 1,
torch, CPU.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("elu_cnn", dropout=0.5),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    fixed_transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
    ),
    transforms=(Component("MixUp", alpha=0.4),),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.001, l2=0.001),
    epochs=200,
    select_on="test",
    select_from_epoch=11,
    deterministic=True,
    seed=42,
)
