"""Chains of transforms alone, without a net: in Pillow by two worker processes, by Keras's layers, by kcifar."""

CHAINS = {
    "crop-flip": [("RandomCrop", {"size": 32, "padding": 4}), ("RandomFlip", {})],
    "rotation-jitter": [
        ("RandomCrop", {"size": 32, "padding": 4}),
        ("RandomFlip", {}),
        ("RandomRotation", {"degrees": 10}),
        ("ColorJitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}),
    ],
    "224": [
        ("Resize", {"size": 256}),
        ("RandomCrop", {"size": 224, "padding": 0}),
        ("RandomFlip", {}),
        ("RandomRotation", {"degrees": 10}),
        ("ColorJitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}),
    ],
    "224-jitter-first": [
        ("ColorJitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}),
        ("Resize", {"size": 256}),
        ("RandomCrop", {"size": 224, "padding": 0}),
        ("RandomFlip", {}),
        ("RandomRotation", {"degrees": 10}),
    ],
    "randaugment": [("RandAugment", {"operations": 2, "magnitude": 9})],
}


def pillow(images, labels, batch_size, clock, chain):
    """As torchvision runs it on Pillow's images, to NCHW float32 of 0–1, in a DataLoader with two workers."""
    import torch

    loader = torch.utils.data.DataLoader(
        _Photographs(images, labels, chain), batch_size, shuffle=True, drop_last=True, num_workers=2
    )
    clock.settle += 2 * loader.prefetch_factor
    while True:
        for batch, _ in loader:
            clock.tick(lambda batch=batch: float(batch[0, 0, 0, 0]))


class _Photographs:
    def __init__(self, images, labels, chain):
        self.images, self.labels = images, labels.tolist()
        self.steps = [(_PILLOW[name], arguments) for name, arguments in CHAINS[chain]]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        import numpy as np
        import torch
        from PIL import Image

        image = Image.fromarray(self.images[index])
        for step, arguments in self.steps:
            image = step(image, **arguments)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return tensor, self.labels[index]


def _resize(image, size):
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BILINEAR)


def _crop(image, size, padding):
    from PIL import ImageOps

    image = ImageOps.expand(image, border=padding, fill=0) if padding else image
    top, left = (_whole(side - size) for side in (image.height, image.width))
    return image.crop((left, top, left + size, top + size))


def _flip(image):
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if _between(0, 1) < 0.5 else image


def _rotate(image, degrees):
    return image.rotate(_between(-degrees, degrees))  # the nearest pixel, torchvision's default


def _jitter(image, brightness, contrast, saturation, hue):
    import torch
    from PIL import ImageEnhance

    enhancers = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    for place in torch.randperm(4).tolist():
        if place == 3:
            image = _turn_hue(image, _between(-hue, hue))
        else:
            enhancer, strength = enhancers[place]
            image = enhancer(image).enhance(_between(1 - strength, 1 + strength))
    return image


def _turn_hue(image, turn):
    import numpy as np
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _between(low, high):
    import torch

    return torch.empty(1).uniform_(low, high).item()


def _whole(most):
    import torch

    return torch.randint(0, most + 1, (1,)).item()


_PILLOW = {
    "Resize": _resize,
    "RandomCrop": _crop,
    "RandomFlip": _flip,
    "RandomRotation": _rotate,
    "ColorJitter": _jitter,
}


def keras_layers(images, labels, batch_size, clock, chain):
    """Keras's own preprocessing layers on batches, which draw on the device."""
    import numpy as np
    from keras import layers, ops

    made = {
        # Keras's RandomCrop takes no padding.
        "RandomCrop": lambda size, padding: [layers.ZeroPadding2D(padding), layers.RandomCrop(size, size)],
        "Resize": lambda size: [layers.Resizing(size, size)],
        "RandomFlip": lambda: [layers.RandomFlip("horizontal")],
        "RandomRotation": lambda degrees: [layers.RandomRotation(degrees / 360, fill_mode="constant")],
        "ColorJitter": lambda brightness, contrast, saturation, hue: [
            layers.RandomColorJitter(
                (0, 255), brightness, contrast, (0.5 - saturation / 4, 0.5 + saturation / 4), (0, hue)
            )
        ],
        "RandAugment": lambda operations, magnitude: [
            layers.RandAugment(value_range=(0, 255), num_ops=operations, factor=magnitude / 30)
        ],
    }
    steps = [layer for name, arguments in CHAINS[chain] for layer in made[name](**arguments)]
    rng = np.random.default_rng(0)
    while True:
        batch = ops.convert_to_tensor(images[rng.choice(len(images), batch_size, replace=False)].astype("float32"))
        for layer in steps:
            batch = layer(batch, training=True)
        clock.tick(lambda batch=batch: float(batch[0, 0, 0, 0]))


def kcifar_batches(images, labels, batch_size, clock, chain):
    """What `kcifar.train` takes its batches from."""
    from kcifar import augment, backend, data

    if backend.name == "torch":
        from kcifar.backend.torch.memory import keep_freed_memory

        keep_freed_memory()  # as training does
    transforms = [getattr(augment, name)(**arguments) for name, arguments in CHAINS[chain]]
    batches = data.Batches(data.Split(images, labels, 10), batch_size, transforms, drop_last=True)
    while True:
        for step in range(len(batches)):
            images, _ = batches[step]
            if backend.name == "jax":
                images.block_until_ready()  # a loop without a net would start batches without end
            clock.tick(lambda images=images: float(images[0, 0, 0, 0]))
        batches.on_epoch_end()
