"""ResNet-18 with ImageNet weights, trained on at 224×224 by ASAM, with the asymmetric loss and an average of weights.

Source: a course report on CIFAR-10, which states 97.41 % on its validation images. It says nothing of pretrained
weights, but at its rate only a pretrained net can get there, and the course's baseline is one, at 224. It leaves
open: epochs, momentum, L2, ρ and η (here those of ASAM's own program), the EMA's decay (here 0.999), and the
strengths of the augmentation (here those of another report, and of Cutout's paper; it took Albumentations, of which a
recipe may name any: "albumentations:CoarseDropout"). A tenth of the training images is held out here, and chooses the
epoch.
Command: python -m kcifar.train recipes/asam_resnet18.py
Measured: not run: the weights were not at hand.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.1,
    model=Component("resnet18"),
    pretrained="torchvision/resnet18",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    resize=224,
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        Component("Cutout", size=16, fill=(125, 123, 114)),
    ),
    batch_size=16,
    loss=Component("AsymmetricLoss", gamma_neg=4.0, label_smoothing=0.1),
    optimizer=Component("SGD", learning_rate=0.0001, momentum=0.9, l2=0.0005),
    sharpness_aware=Component("SharpnessAware", rho=0.5, adaptive=True, eta=0.01),
    schedule=Component("WarmupCosine"),
    weight_ema=Component("WeightEMA", decay=0.999),
    epochs=200,
    select_on="validation",
    deterministic=True,
    seed=0,
)
