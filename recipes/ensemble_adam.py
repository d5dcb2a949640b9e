"""ResNet-18 trained by Adam with the asymmetric loss: one of the eleven members of a voting ensemble.

Source: a course report on CIFAR-10. It compared ensembles of every size, of seeds 0 to 10; six members were best, and
their soft vote states 97.68 % (original pixels). Against its single model (asam_resnet18.py) it has Adam for ASAM, a
step decay, plain transforms and no average of the weights. It leaves open the step (here a tenth every 30 epochs), the
epochs (here 100) and what is plain (here crop and flip); batch and learning rate are here those of its single model.
A tenth of the training images, the same for every seed, is held out; it chooses the epoch and then the members.
Command: python -m kcifar.train recipes/ensemble_adam.py seed=0..10
         python -m kcifar.vote runs/ensemble_adam-seeds0-10 --out ensemble.keras
Measured: not run to its end.
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    validation=0.1,
    validation_seed=0,
    model=Component("resnet18", stem="cifar"),
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
    ),
    batch_size=16,
    drop_last=False,
    loss=Component("AsymmetricLoss", gamma_pos=0.0, gamma_neg=4.0, label_smoothing=0.1),
    optimizer=Component("Adam", learning_rate=1e-4, l2=0.0, l2_kernels_only=False, global_clipnorm=None),
    sharpness_aware=None,
    schedule=Component("StepDecay", decay_epochs=30, gamma=0.1),
    weight_ema=None,
    epochs=100,
    early_stopping=None,
    select_on="validation",
    select_from_epoch=1,
    precision="float32",
    deterministic=True,
    tensorboard=False,
    seed=0,
)
