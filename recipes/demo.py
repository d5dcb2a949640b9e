"""A small CNN on images of ten shapes that kcifar draws itself: needs no data, takes half a minute on 2 cores.

Source: none; it shows a whole run, with an honest selection on held-out images.
Command: python -m kcifar.train recipes/demo.py
Measured: 97.0 % of the test images in 34 s, n = 1, torch, 2 CPU cores.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="demo",
    validation=0.1,
    validation_seed=0,
    model=Component("elu_cnn", dropout=0.1),
    pretrained=None,
    freeze=(),
    unfreeze_epoch=None,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    resize=None,
    center_crop=None,
    transforms=(
        Component("RandomCrop", size=32, padding=2),
        Component("RandomFlip"),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component("Adam", learning_rate=1e-3, l2=0.0, l2_kernels_only=False, global_clipnorm=None),
    sharpness_aware=None,
    schedule=Component("CyclicLR", base=1e-4, maximum=3e-3, step_size_up=400, step_size_down=1000, unit="batch"),
    weight_ema=None,
    epochs=10,
    early_stopping=None,
    select_on="validation",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
