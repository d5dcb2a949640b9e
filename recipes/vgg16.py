"""VGG-16 for 32×32 images, SGD, batch 16, the best epoch chosen on a fifth of the training images.

Source: a course report on CIFAR-10, which states 76.82 % for this learning rate after 20 epochs, 70.99 % for 0.01 and
73.19 % for 0.001, and 78.4 % for 0.001 after 100 epochs (original pixels). It leaves open the classifier and the
initial values: here VGG's own three dense layers of 4,096 units with dropout, and torchvision's values (the loss
leaves ln 10 after 600 steps; from PyTorch's defaults it had not after 500; seed 0, n = 1, CPU).
Command: python -m kcifar.train recipes/vgg16.py
Measured: 28.6, 53.7 and 63.5 % on validation after epochs 1 to 3, JPEG copy, seed 0, n = 1; torch on a CPU. Not run
further.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.2,
    validation_seed=0,
    model=Component("vgg16", batch_norm=False, hidden=4096, dropout=0.5),
    pretrained=None,
    freeze=(),
    unfreeze_epoch=None,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    resize=None,
    center_crop=None,
    transforms=(),
    batch_size=16,
    drop_last=False,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component(
        "SGD", learning_rate=0.005, momentum=0.9, nesterov=False, l2=0.0, l2_kernels_only=False, global_clipnorm=None
    ),
    sharpness_aware=None,
    schedule=None,
    weight_ema=None,
    epochs=20,
    early_stopping=None,
    select_on="validation",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
