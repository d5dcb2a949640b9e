"""ResNet-20 trained by SGD: what sam_resnet20.py and asam_resnet20.py are compared with.

Source: Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization" (arXiv 2102.11600), table 3: 93.18 % on the
original pixels, in 400 epochs. Batch, learning rate, L2, schedule, smoothing and augmentation are those of its
program, SamsungLabs/ASAM. A tenth of the training images is held out here, and chooses the epoch.
Command: python -m kcifar.train recipes/sgd_resnet20.py
Measured: 85.51 % (validation 86.14 %, train 91.67 %) after epochs=22, JPEG copy, seed 0, n = 1; torch 2.11 on an H200
(convolutions in TF32), 128 s of training beside two others.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.1,
    model=Component("resnet20"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
    ),
    batch_size=128,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.1),
    optimizer=Component("SGD", learning_rate=0.1, momentum=0.9, l2=0.0005),
    schedule=Component("WarmupCosine"),
    epochs=200,
    select_on="validation",
    deterministic=True,
    seed=0,
)
