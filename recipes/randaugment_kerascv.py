"""ELU CNN with KerasCV's RandAugment.

Source: elu_cnn.py, with keras_cv.layers.RandAugment behind crop and flip. It needs the extra cv (pip install -e
'.[cv]') and patience: KerasCV goes from image to image in TensorFlow, some 30 a second, half an hour an epoch. kcifar's
own makes thousands: transforms='[RandomCrop(size=32, padding=4), RandomFlip(), RandAugment(operations=3)]'.
Command: python -m kcifar.train recipes/randaugment_kerascv.py
Measured: not run to its end.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.0,
    validation_seed=0,
    model=Component("elu_cnn", dropout=0.5),
    pretrained=None,
    freeze=(),
    unfreeze_epoch=None,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    resize=None,
    center_crop=None,
    transforms=(
        Component("RandomCrop", size=32, padding=4),
        Component("RandomFlip"),
        Component("KerasCV", layer="RandAugment", augmentations_per_image=3, magnitude=0.3),
    ),
    batch_size=32,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.0),
    optimizer=Component("Adam", learning_rate=2e-3, l2=1e-3, l2_kernels_only=False, global_clipnorm=None),
    sharpness_aware=None,
    schedule=Component("CyclicLR", base=1e-3, maximum=4e-3, step_size_up=10, mode="triangular2", unit="epoch"),
    weight_ema=None,
    epochs=200,
    early_stopping=None,
    select_on="test",
    select_from_epoch=10,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=42,
)
