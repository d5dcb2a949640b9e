"""Transforms of a batch of images: chance drawn on the host, applied on the device.

A transform has two methods. `draw(rng, batch_size, image_shape)` draws its random numbers with NumPy;
`apply(images, labels, drawn)` is a pure function in keras.ops, so the same numbers give the same batch on each backend.
Images are (batch, height, width, channels) with values 0–255, uint8 or float32; labels are one-hot float32
(batch, classes). `kcifar.data.Batches` does neighbours that move pixels at once (`kcifar.augment.geometric`). One of
your own needs no more than these two; `mixes = True` says of one that it mixes images, `on_host = True` that its
`apply` leaves the device, and cannot be compiled, `by_image = True` that its `draw` takes one argument more, the
`Place` of the batch: the epoch, and which images it has.
"""

from kcifar.augment.adapters import Albumentations, KerasLayer, adapted
from kcifar.augment.affine import RandomAffine, RandomRotation
from kcifar.augment.color import ColorJitter
from kcifar.augment.crop import RandomCrop
from kcifar.augment.cutmix import CutMix, MixUpOrCutMix
from kcifar.augment.erasing import Cutout, RandomErasing
from kcifar.augment.flip import RandomFlip
from kcifar.augment.growing import ImageSizes
from kcifar.augment.keras_cv import KerasCV
from kcifar.augment.mixup import MixUp
from kcifar.augment.policies import RandAugment, TrivialAugment
from kcifar.augment.resize import CenterCrop, Resize
from kcifar.chance import Place

__all__ = [
    "TRANSFORMS",
    "Albumentations",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "ImageSizes",
    "KerasCV",
    "KerasLayer",
    "MixUp",
    "MixUpOrCutMix",
    "Place",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomRotation",
    "Resize",
    "TrivialAugment",
    "adapted",
]

_NO_TRANSFORMS = ("TRANSFORMS", "Albumentations", "ImageSizes", "KerasLayer", "Place", "adapted")
TRANSFORMS = [name for name in __all__ if name not in _NO_TRANSFORMS]
"""Those that a recipe names without a module."""
