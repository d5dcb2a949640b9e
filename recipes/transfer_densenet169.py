"""DenseNet-169 with ImageNet weights, of which the head is trained, at 224×224, by Adam.

Source: a course report on CIFAR-10, which states about 80 % (original pixels; chosen on the test set). It leaves open
what was frozen for it (here all but the head).
Command: python -m kcifar.train recipes/transfer_densenet169.py
Variants: freeze=none; freeze=stem,layer1,layer2; unfreeze_epoch=5; a head of two layers, model.hidden=256
model.dropout=0.5
Measured: not run.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.0,
    validation_seed=0,
    model=Component("densenet169", hidden=None, dropout=0.0),
    pretrained="torchvision/densenet169",
    freeze=("stem", "layer1", "layer2", "layer3", "layer4"),
    unfreeze_epoch=None,
    mean=(0.4914, 0.4824, 0.4467),
    std=(0.2471, 0.2436, 0.2616),
    resize=224,
    center_crop=None,
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("RandomRotation", degrees=10),
        Component("RandomAffine", degrees=0, scale=(0.8, 1.2), shear=10),
        Component("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    ),
    batch_size=128,
    drop_last=False,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component("Adam", learning_rate=1e-3, l2=0.0, l2_kernels_only=False, global_clipnorm=None),
    sharpness_aware=None,
    schedule=Component("PiecewiseConstant", boundary_epochs=(80, 130), factors=(1, 0.5, 0.1)),
    weight_ema=None,
    epochs=200,
    early_stopping=None,
    select_on="test",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
