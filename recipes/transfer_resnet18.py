"""ResNet-18 with ImageNet weights, trained on at 224×224, SGD in three steps of the learning rate.

Source: a course report on CIFAR-10, which states 95.9 % at epoch 10 (chosen on the test set), and at epoch 6 its
least test loss, 0.1639, with 95.79 %: select_by=loss chooses by that. It planned 20 epochs and was stopped by hand.
Command: python -m kcifar.train recipes/transfer_resnet18.py
Variants: freeze=stem,layer1,layer2; freeze=stem,layer1,layer2,layer3,layer4, the head alone, for which all before it
runs once over each image; with either unfreeze_epoch=5; a head of two layers, model.hidden=256 model.dropout=0.5
Measured: not run from its weights; speed and memory from new ones are in the README.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("resnet18"),
    pretrained="torchvision/resnet18",
    mean=(0.4914, 0.4824, 0.4467),
    std=(0.2471, 0.2436, 0.2616),
    resize=224,
    batch_size=50,
    loss=Component("CategoricalCrossentropy"),
    optimizer=Component("SGD", learning_rate=0.01, momentum=0.9),
    schedule=Component("PiecewiseConstant", boundary_epochs=(5, 10), factors=(1, 0.5, 0.1)),
    epochs=20,
    select_on="test",
    deterministic=True,
    seed=0,
)
