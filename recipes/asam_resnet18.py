"""ResNet-18 trained by ASAM over SGD with the asymmetric loss and an average of the weights.

Source: a course report on CIFAR-10, which states 97.41 % on its validation images (original pixels). It leaves open:
the stem (here that for 32×32), whether it starts from pretrained weights (here not), epochs, momentum, L2, ρ and η
(here those of ASAM's own program), the EMA's decay (here 0.999), and the strengths of the augmentation (here those of
another report, and of Cutout's paper). A tenth of the training images is held out here, and chooses the epoch.
Command: python -m kcifar.train recipes/asam_resnet18.py
Measured: 26.73 % on test after epochs=1, JPEG copy, seed 0, n = 1; torch on a CPU. Not run further.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.1,
    validation_seed=0,
    model=Component("resnet18", stem="cifar"),
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
        Component("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        Component("Cutout", size=16, fill=(125, 123, 114)),
    ),
    batch_size=16,
    drop_last=False,
    loss=Component("AsymmetricLoss", gamma_pos=0.0, gamma_neg=4.0, label_smoothing=0.1),
    optimizer=Component(
        "SGD", learning_rate=1e-4, momentum=0.9, nesterov=False, l2=5e-4, l2_kernels_only=False, global_clipnorm=None
    ),
    sharpness_aware=Component("SharpnessAware", rho=0.5, adaptive=True, eta=0.01),
    schedule=Component("WarmupCosine", warmup_epochs=0.0, final=0.0),
    weight_ema=Component("WeightEMA", decay=0.999),
    epochs=200,
    early_stopping=None,
    select_on="validation",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
