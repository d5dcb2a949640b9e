"""DenseNet-169 with ImageNet weights on images of 32×32, all of it trained, by Adam.

Source: a course report on CIFAR-10, which states about 80 %, 93 % on the training images (chosen on the test set).
Its images are not resized, so they come into the stem for ImageNet as they are. It leaves open what was frozen (here
nothing, as its 93 % speaks for), and which of torchvision's weights it took (here the first, IMAGENET1K_V1).
Command: python -m kcifar.train recipes/transfer_densenet169.py
Variants: resize=224; freeze=none; freeze=stem,layer1,layer2,layer3,layer4, the head alone; unfreeze_epoch=5
Measured: not run: the weights were not at hand.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("densenet169"),
    pretrained="torchvision/densenet169",
    mean=(0.4914, 0.4824, 0.4467),
    std=(0.2471, 0.2436, 0.2616),
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("RandomRotation", degrees=10),
        Component("RandomAffine", scale=(0.8, 1.2), shear=10),
        Component("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    ),
    batch_size=128,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("Adam", learning_rate=0.001),
    schedule=Component("PiecewiseConstant", boundary_epochs=(80, 130), factors=(1, 0.5, 0.1)),
    epochs=200,
    select_on="test",
    deterministic=True,
    seed=0,
)
