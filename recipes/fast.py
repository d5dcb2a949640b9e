"""94 % in minutes on two cores: whitening, Muon and images that grow.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), and the published programs
that came after it; see docs/fast.md for what each part is from and what it gives.
Command: python -m kcifar.train recipes/fast.py
"""

from kcifar.recipe import Component, Recipe

recipe = Recipe(
    data="auto",
    model=Component("airbench94", activation="silu"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    whitening=Component("Whitening", images=5000, bias_epochs=3),
    transforms=(
        Component("RandomCrop", size=32, padding=2, padding_mode="reflect"),
        Component("RandomFlip", alternating=True),
        Component("ColorJitter", brightness=0.07, contrast=0.13),
    ),
    image_size=Component("ImageSizes", sizes=(24, 28, 32), boundary_epochs=(3, 6)),
    batch_size=512,
    drop_last=True,
    loss=Component("CategoricalCrossentropy", label_smoothing=0.1),
    optimizer=Component(
        "Muon",
        learning_rate=0.13,
        momentum=0.65,
        l2=0.008,
        learning_rate_factors={"*/beta": 300.0, "stem_conv/bias": 300.0, "head_*": 4.6},
    ),
    schedule=Component("WarmupLinear"),
    epochs=8,
    evaluate_every=None,
    evaluate_train=False,
    tta="flip+shift",
    seed=0,
)
