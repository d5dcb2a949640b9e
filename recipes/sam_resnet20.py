"""ResNet-20 trained by SAM over SGD.

Source: Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization" (arXiv 2102.11600), table 3: 93.56 % on the
original pixels, in 200 epochs. Batch, learning rate, L2, schedule, smoothing and augmentation are those of its
program, SamsungLabs/ASAM. A tenth of the training images is held out here, and chooses the epoch.
Command: python -m kcifar.train recipes/sam_resnet20.py
Measured: 85.71 % (validation 85.76 %, train 90.18 %) after epochs=22, JPEG copy, seed 0, n = 1; torch 2.11 on an
H200 (convolutions in TF32), 243 s of training beside two others.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.1,
    validation_seed=0,
    model=Component("resnet20"),
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
    ),
    batch_size=128,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.1),
    optimizer=Component(
        "SGD", learning_rate=0.1, momentum=0.9, nesterov=False, l2=5e-4, l2_kernels_only=False, global_clipnorm=None
    ),
    sharpness_aware=Component("SharpnessAware", rho=0.05, adaptive=False, eta=0.01),
    schedule=Component("WarmupCosine", warmup_epochs=0.0, final=0.0),
    weight_ema=None,
    epochs=200,
    early_stopping=None,
    select_on="validation",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
