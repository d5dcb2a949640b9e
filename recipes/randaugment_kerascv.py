"""ELU CNN with KerasCV's RandAugment.

Source: elu_cnn.py, with keras_cv.layers.RandAugment behind crop and flip. It needs the extra cv (pip install -e
'.[cv]') and patience: KerasCV goes from image to image in TensorFlow, some 30 a second, half an hour an epoch.
kcifar's own makes thousands: transforms='[RandomCrop(size=32, padding=4), RandomFlip(), RandAugment(operations=3)]'.
Command: python -m kcifar.train recipes/randaugment_kerascv.py
Measured: not run to its end.
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
        Component("KerasCV", layer="RandAugment", augmentations_per_image=3, magnitude=0.3),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.002, l2=0.001),
    schedule=Component("CyclicLR", base=0.001, maximum=0.004, step_size_up=10, mode="triangular2", unit="epoch"),
    epochs=200,
    select_on="test",
    select_from_epoch=10,
    deterministic=True,
    seed=42,
)
