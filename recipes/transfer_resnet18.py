"""ResNet-18 with ImageNet weights, trained on at 224×224, SGD in three steps of the learning rate.

Source: a course report on CIFAR-10, which states 95.9 % at epoch 10 (original pixels; chosen on the test set). It
leaves open how many epochs were planned (here 20, as long as its steps go) and what was frozen for it (here nothing).
Command: python -m kcifar.train recipes/transfer_resnet18.py
Variants: freeze=stem,layer1,layer2; freeze=stem,layer1,layer2,layer3,layer4, the head alone, for which all before it
runs once over each image; with either unfreeze_epoch=5; a head of two layers, model.hidden=256 model.dropout=0.5
Measured: not run from its weights; speed and memory from new ones are in the README.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.0,
    validation_seed=0,
    model=Component("resnet18", hidden=None, dropout=0.0),
    pretrained="torchvision/resnet18",
    freeze=(),
    unfreeze_epoch=None,
    mean=(0.4914, 0.4824, 0.4467),
    std=(0.2471, 0.2436, 0.2616),
    resize=224,
    center_crop=None,
    transforms=(),
    batch_size=50,
    drop_last=False,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component(
        "SGD", learning_rate=0.01, momentum=0.9, nesterov=False, l2=0.0, l2_kernels_only=False, global_clipnorm=None
    ),
    sharpness_aware=None,
    schedule=Component("PiecewiseConstant", boundary_epochs=(5, 10), factors=(1, 0.5, 0.1)),
    weight_ema=None,
    epochs=20,
    early_stopping=None,
    select_on="test",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
