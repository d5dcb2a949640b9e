"""ResNet-18 pretrained on a billion images of Instagram, trained on at 224×224, with early stopping.

Source: a course report on CIFAR-10, whose ensemble of five such models (seeds) states 97.61 % (each chosen on the
test set). It leaves open the optimizer, the step of its schedule (here a tenth every 30 epochs), the images at
evaluation (here scaled to 256, the middle 224), and the epochs (here at most 200). Batch 512 over several GPUs there,
128 on one, as here.
Command: python -m kcifar.train recipes/swsl_resnet18.py seed=0..4
         python -m kcifar.vote runs/swsl_resnet18-seeds0-4 --out ensemble.keras
Measured: not run.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("resnet18"),
    pretrained="timm/resnet18.fb_swsl_ig1b_ft_in1k",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    resize=256,
    center_crop=224,
    transforms=(
        Component("Resize", size=256),
        Component("RandomCrop", size=224),
        Component("RandomFlip"),
        Component("RandomRotation", degrees=10),
        Component("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    ),
    batch_size=128,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("SGD", learning_rate=0.01, momentum=0.9),
    schedule=Component("StepDecay", decay_epochs=30, gamma=0.1),
    epochs=200,
    early_stopping=Component("EarlyStopping", patience=50),
    select_on="test",
    deterministic=True,
    seed=0,
)
