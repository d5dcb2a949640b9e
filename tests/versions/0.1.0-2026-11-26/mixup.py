"""ELU CNN with MixUp and a cyclic learning rate.

Source: a course report on CIFAR-10 (its figure is not stated). It leaves open step_size_up of the cycle (10 is that of
a baseline which is commented out in it) and whether the cycle steps by batch or epoch: here by epoch.
Command: python -m kcifar.train recipes/mixup.py
Measured: 64.6 % after 30 of the 200 epochs (sd 0.6), 69.1 % at its best (sd 0.5; chosen on the test set), on CIFAR-10
(JPEG copy), mean of seeds 42, 0, 1, torch, CPU; with precision=bfloat16 65.8 % (sd 1.0) and 68.9 % (sd 0.5). Five seeds
with validation=0.1 select_on=validation epochs=20: 67.7 % (sd 0.6), their soft vote 71.2 %.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.0,
    validation_seed=0,
    model=Component("elu_cnn", dropout=0.5),
    pretrained=None,
    freeze=(),
    unfreeze_epoch=None,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    resize=None,
    center_crop=None,
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("MixUp", alpha=0.4, probability=1.0),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component("Adam", learning_rate=2e-3, l2=1e-3, l2_kernels_only=False, global_clipnorm=None),
    sharpness_aware=None,
    schedule=Component("CyclicLR", base=1e-3, maximum=4e-3, step_size_up=10, mode="triangular2", unit="epoch"),
    weight_ema=None,
    epochs=200,
    early_stopping=None,
    select_on="test",
    select_from_epoch=10,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=42,
)
