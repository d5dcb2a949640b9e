"""ResNet-18 with ImageNet weights, trained on at 224×224 by Adam: one of the eleven members of a voting ensemble.

Source: a course report on CIFAR-10. It compared ensembles of every size, of seeds 0 to 10; six members were best, and
their soft vote states 97.68 %. Against its single model (asam_resnet18.py) it has Adam for ASAM, a step decay, plain
transforms and no average of the weights. It leaves open the step (here a tenth every 30 epochs), the epochs (here
100) and what is plain (here crop and flip); batch and learning rate are here those of its single model. A tenth of
the training images, the same for every seed, is held out; it chooses the epoch and then the members.
Command: python -m kcifar.train recipes/ensemble_adam.py seed=0..10
Measured: not run to its end.
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
    ),
    batch_size=16,
    loss=Component("AsymmetricLoss", gamma_neg=4.0, label_smoothing=0.1),
    optimizer=Component("Adam", learning_rate=0.0001),
    schedule=Component("StepDecay", decay_epochs=30, gamma=0.1),
    epochs=100,
    select_on="validation",
    deterministic=True,
    seed=0,
)
