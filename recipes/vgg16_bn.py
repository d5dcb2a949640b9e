"""VGG-16 with BatchNorm for 32×32 images, SGD, batch 16, the best epoch chosen on a fifth of the training images.

Source: none; `vgg16.py`, with BatchNorm behind each convolution (torchvision's vgg16_bn).
Command: python -m kcifar.train recipes/vgg16_bn.py
Measured: not run.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.2,
    validation_seed=0,
    model=Component("vgg16", batch_norm=True, hidden=4096, dropout=0.5),
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
