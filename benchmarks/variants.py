"""The ways to train that throughput.py compares; a process for each: variants.py NAME SOURCE BATCH_SIZE.

Each trains without end. Between two steps it calls `Clock.tick`, which measures what the driver asks for over a pipe
and then waits, so that all can be timed in turn without a fit being restarted. Heavy imports are inside the functions:
a process has only the libraries that it needs.
"""

import dataclasses
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
MIXUP_RECIPE = RECIPES / "mixup.py"
EPOCH_IMAGES = 50_000  # an epoch is as long as on CIFAR-10, whatever the source
READY_IMAGES = 5_000  # held in memory as float32 batches by the variants without transforms
ENDLESS = 10**9


class Clock:
    """Times whole steps. A request is a line with a number of seconds, an answer a line of JSON.

    It counts out the steps that take about that long, after the time of those before, and does not look at the time
    between: stock Keras on JAX starts up to 32 steps ahead of the one that is computed.

    Args:
        batch_size: images in a step.
        settle: steps at the start of each measurement that are not timed: caches are cold after a wait, and worker
            processes had time to prepare batches ahead.
        requests, answers: text files.
    """

    def __init__(self, batch_size, settle, requests, answers):
        self.batch_size = batch_size
        self.settle = settle
        self.requests = requests
        self.answers = answers
        self.wanted = 2  # the first measurement is the warm-up; its answer says that the variant is ready
        self.steps, self.started = 0, None

    def tick(self, read_loss):
        """Called once in every step. `read_loss()` waits for all work that was started and returns the loss."""
        self.steps += 1
        if self.started is None:
            if self.steps > self.settle:
                read_loss()
                self.steps, self.started = 0, time.perf_counter()
        elif self.steps == self.wanted:
            loss = float(read_loss())
            seconds = time.perf_counter() - self.started
            self._answer(seconds, loss)
            self._next_request(seconds / self.steps)

    def _answer(self, seconds, loss):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        images = self.steps * self.batch_size
        figures = {"images": images, "seconds": seconds, "loss": loss, "peak_memory_bytes": peak}
        print(json.dumps(figures), file=self.answers, flush=True)

    def _next_request(self, seconds_per_step):
        request = self.requests.readline()
        if not request:
            sys.exit()
        self.wanted = math.ceil(float(request) / seconds_per_step)
        self.steps, self.started = 0, None


def report(source, batch_size, clock):
    """The report's own program: NCHW float32, images transformed one by one in two worker processes."""
    import numpy as np
    import plain_torch
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = plain_torch.elu_cnn().to(device)
    optimizer, schedule = plain_torch.report_b_optimizer(net)
    photographs = Photographs(*_training_images(source, batch_size))
    loader = torch.utils.data.DataLoader(photographs, batch_size, shuffle=True, drop_last=True, num_workers=2)
    clock.settle += 2 * loader.prefetch_factor
    while True:
        total = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            blend, partner = np.random.beta(0.4, 0.4), torch.randperm(batch_size)
            output = F.log_softmax(net(blend * images + (1 - blend) * images[partner]), dim=1)
            loss = blend * F.nll_loss(output, labels) + (1 - blend) * F.nll_loss(output, labels[partner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            clock.tick(loss.item)
        schedule.step()


class Photographs:
    """A split, repeated, as (normalised tensor, label), cropped and mirrored with PIL as torchvision does it."""

    def __init__(self, images, labels):
        self.images = images
        self.labels = labels.tolist()

    def __len__(self):
        return EPOCH_IMAGES

    def __getitem__(self, index):
        import numpy as np
        import torch
        from PIL import Image, ImageOps
        from plain_torch import REPORT_B_MEAN, REPORT_B_STD

        index %= len(self.images)
        image = ImageOps.expand(Image.fromarray(self.images[index]), border=4, fill=0)
        top, left = (torch.randint(0, 9, (1,)).item() for _ in range(2))
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (REPORT_B_MEAN, REPORT_B_STD))
        return (tensor - mean) / std, self.labels[index]


def tuned_torch(source, batch_size, clock, make_net="elu_cnn", bfloat16=False, keep_memory=False):
    """PyTorch written for speed: channels_last, fused Adam, no synchronisation, batches ready in memory.

    With `keep_memory` glibc keeps what is freed, as `kcifar.accelerate` makes it.
    """
    import plain_torch

    _train_tuned(
        source,
        batch_size,
        clock,
        getattr(plain_torch, make_net)(),
        lambda net: plain_torch.report_b_optimizer(net, fused=True)[0],
        lambda images: images,
        bfloat16,
        keep_memory,
    )


def tuned_resnet18_at_224(source, batch_size, clock, bfloat16=False, keep_memory=False):
    """The same of ResNet-18 by SGD, with images scaled to 224×224 batch by batch."""
    import plain_torch
    import torch
    import torch.nn.functional as F

    _train_tuned(
        source,
        batch_size,
        clock,
        plain_torch.resnet18("imagenet"),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True),
        lambda images: F.interpolate(images, (224, 224), mode="bilinear"),
        bfloat16,
        keep_memory,
    )


def _train_tuned(source, batch_size, clock, net, make_optimizer, prepare, bfloat16, keep_memory):
    import torch
    import torch.nn.functional as F

    if keep_memory:
        from kcifar.backend.torch.memory import keep_freed_memory

        keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(net)
    batches = [  # NHWC in memory, seen as NCHW: channels_last
        (torch.from_numpy(images).to(device).permute(0, 3, 1, 2), torch.from_numpy(labels).to(device))
        for images, labels in _ready_batches(source, batch_size)
    ]
    total, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    while True:
        for images, labels in batches:
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                logits = net(prepare(images))
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            correct += (logits.argmax(1) == labels).sum()
            clock.tick(loss.item)


def keras_fit(source, batch_size, clock, make_model, accelerated=False, make_optimizer=None, side=32):
    """`keras.Model.fit` of batches ready in memory, as it comes or accelerated."""
    import keras
    import numpy as np

    import kcifar

    one_hot, scale = np.eye(10, dtype="float32"), side // 32
    batches = [
        (images.repeat(scale, axis=1).repeat(scale, axis=2), one_hot[labels])
        for images, labels in _ready_batches(source, batch_size)
    ]

    class Ready(keras.utils.PyDataset):
        def __len__(self):
            return EPOCH_IMAGES // batch_size

        def __getitem__(self, step):
            return batches[step % len(batches)]

    model = make_model()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile((make_optimizer or keras.optimizers.Adam)(2e-3), loss, metrics=["accuracy"])
    if accelerated:
        kcifar.accelerate(model)
    model.fit(Ready(), epochs=ENDLESS, callbacks=[_ticking(clock)], verbose=0)


def _kcifar_model(name, precision=None, **options):
    from kcifar import models

    return models.build(name, precision=precision, **options)


def _kcifar_adam(learning_rate):
    from kcifar import training

    return training.Adam(learning_rate, l2=1e-3)  # as the hand-tuned one's


def _application(name):
    """A net of keras.applications for images of 64×64, ten classes, logits."""
    import keras

    return getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )


def kcifar_train(source, batch_size, clock, recipe_file=MIXUP_RECIPE, overrides=()):
    """What `kcifar.train RECIPE` does in an epoch: its batches, model, schedule, log and progress bar."""
    from rich.console import Console

    from kcifar import experiment, recipe
    from kcifar.callbacks.progress import ProgressBar
    from kcifar.callbacks.run_log import RunLog

    chosen = recipe.load(recipe_file).override([f"data={source}", f"batch_size={batch_size}", *overrides])
    planned = experiment.plan(chosen)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        log = RunLog(Path(folder, "log.csv"), planned.learning_rate_at)
        bar = ProgressBar(planned.learning_rate_at, EPOCH_IMAGES, batch_size, console=Console(file=nowhere))
        callbacks = [callback for callback in (planned.weight_ema, log, bar) if callback]
        callbacks.append(_ticking(clock))
        planned.model.fit(planned.batches, shuffle=False, epochs=ENDLESS, callbacks=callbacks, verbose=0)


def _ticking(clock):
    """A callback that ticks before each step.

    Not after it: for a callback with `on_train_batch_end` Keras would wait for every step to end, which a fit without
    callbacks does not. The model is looked at only when the clock is read: on JAX that makes Keras copy its state.
    """
    import keras

    class Ticking(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.tick(self._read_loss)

        def _read_loss(self):
            int(self.model.optimizer.iterations.numpy())  # changed last in a step
            return float(self.model.get_metrics_result()["loss"])

    return Ticking()


def _training_images(source, batch_size):
    """Images uint8 (n, 32, 32, 3) and labels int64 (n,)."""
    from kcifar import data

    split = data.load(source).train
    if batch_size > len(split):
        raise ValueError(f"batch size is {batch_size}, but there are {len(split)} images; expected at most that many")
    return split.images, split.labels


def _ready_batches(source, batch_size):
    """Normalised float32 NHWC batches with their int64 labels, from the first images of the split."""
    import numpy as np

    from kcifar import recipe

    images, labels = _training_images(source, batch_size)
    usual = recipe.load(MIXUP_RECIPE)
    mean, std = np.array(usual.mean, "float32"), np.array(usual.std, "float32")
    count = max(min(READY_IMAGES, len(images)) // batch_size, 1)
    parts = [slice(i * batch_size, (i + 1) * batch_size) for i in range(count)]
    return [((images[part].astype("float32") / 255 - mean) / std, labels[part]) for part in parts]


def transforms(source, batch_size, clock, chain, by):
    """A chain of transforms alone: see transform_chains.py."""
    import transform_chains

    makers = {
        "pillow": transform_chains.pillow,
        "keras": transform_chains.keras_layers,
        "kcifar": transform_chains.kcifar_batches,
    }
    makers[by](*_training_images(source, batch_size), batch_size, clock, chain)


@dataclasses.dataclass(frozen=True)
class Variant:
    """What trains, on which Keras backend, and which variants its speed is divided by."""

    train: Callable
    backend: str | None = None
    versus: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (32, 512)  # measured by default

    @property
    def environment(self):
        """Variables of the process: on JAX, `python -m kcifar.train` asks glibc for huge pages."""
        if self.backend is None:
            return {}
        from kcifar.commands import HUGE_PAGES

        huge_pages = HUGE_PAGES if self.backend == "jax" and self.train.func in (kcifar_train, transforms) else {}
        return {"KERAS_BACKEND": self.backend, **huge_pages}


_PLAIN, _BFLOAT16 = "transforms=[]", "precision=bfloat16"


def _kcifar(backend, versus, *overrides):
    return Variant(partial(kcifar_train, overrides=overrides), backend, versus)


def _resnet20(recipe_name, backend, versus=(), *overrides):
    return Variant(
        partial(kcifar_train, recipe_file=RECIPES / f"{recipe_name}_resnet20.py", overrides=overrides),
        backend,
        versus,
        (128,),
    )


def _on_resnet18(train, backend=None, versus=(), **options):
    return Variant(partial(train, **options), backend, versus, (128,))


VARIANTS = {
    "report": Variant(report),
    "torch": Variant(tuned_torch),
    "torch-bf16": Variant(partial(tuned_torch, bfloat16=True)),
    "torch-memory": Variant(partial(tuned_torch, keep_memory=True), versus=("torch",)),
    "torch-memory-bf16": Variant(partial(tuned_torch, bfloat16=True, keep_memory=True), versus=("torch-bf16",)),
    "keras-torch": Variant(partial(keras_fit, make_model=partial(_kcifar_model, "elu_cnn")), "torch"),
    "keras-torch-accelerated": Variant(
        partial(keras_fit, make_model=partial(_kcifar_model, "elu_cnn"), accelerated=True),
        "torch",
        ("torch", "keras-torch"),
    ),
    "keras-jax": Variant(partial(keras_fit, make_model=partial(_kcifar_model, "elu_cnn")), "jax"),
    "kcifar-torch": _kcifar("torch", ("report", "keras-torch")),
    "kcifar-torch-bf16": _kcifar("torch", ("report", "keras-torch"), _BFLOAT16),
    "kcifar-torch-plain": _kcifar("torch", ("torch", "torch-memory", "keras-torch"), _PLAIN),
    "kcifar-torch-plain-bf16": _kcifar("torch", ("torch-bf16", "torch-memory-bf16", "keras-torch"), _PLAIN, _BFLOAT16),
    "kcifar-jax": _kcifar("jax", ("keras-jax",)),
    "kcifar-jax-plain": _kcifar("jax", ("keras-jax",), _PLAIN),
    "resnet18-torch-bf16": _on_resnet18(tuned_torch, make_net="resnet18", bfloat16=True),
    "resnet18-torch-memory-bf16": _on_resnet18(tuned_torch, make_net="resnet18", bfloat16=True, keep_memory=True),
    "resnet18-kcifar-bf16": _on_resnet18(
        keras_fit,
        "torch",
        ("resnet18-torch-bf16", "resnet18-torch-memory-bf16"),
        make_model=partial(_kcifar_model, "resnet18", "bfloat16", stem="cifar"),
        accelerated=True,
        make_optimizer=_kcifar_adam,
    ),
}
for _suffix, _bfloat16, _precision in (("", False, ()), ("-bf16", True, (_BFLOAT16,))):
    _tuned = partial(tuned_resnet18_at_224, bfloat16=_bfloat16)
    VARIANTS |= {
        f"resnet18-224-torch{_suffix}": Variant(_tuned, batch_sizes=(50,)),
        f"resnet18-224-torch-memory{_suffix}": Variant(partial(_tuned, keep_memory=True), batch_sizes=(50,)),
        f"resnet18-224-kcifar{_suffix}": Variant(
            partial(
                kcifar_train,
                recipe_file=RECIPES / "transfer_resnet18.py",
                overrides=("pretrained=none", *_precision),
            ),
            "torch",
            (f"resnet18-224-torch{_suffix}", f"resnet18-224-torch-memory{_suffix}"),
            (50,),
        ),
    }
_EMA = "weight_ema=WeightEMA(decay=0.999)"
for _backend in ("torch", "jax"):
    _plain = f"resnet20-sgd-{_backend}"
    VARIANTS |= {
        _plain: _resnet20("sgd", _backend),
        f"resnet20-sam-{_backend}": _resnet20("sam", _backend, (_plain,)),
        f"resnet20-asam-{_backend}": _resnet20("asam", _backend, (_plain,)),
        f"resnet20-sgd-ema-{_backend}": _resnet20("sgd", _backend, (_plain,), _EMA),
    }
for _chain in ("crop-flip", "rotation-jitter", "224", "224-jitter-first", "randaugment"):
    _pillow = f"{_chain}-pillow"
    if _chain != "randaugment":
        VARIANTS[_pillow] = Variant(partial(transforms, chain=_chain, by="pillow"), batch_sizes=())
    for _name, _by, _backend in (
        ("keras", "keras", "torch"),
        ("kcifar-torch", "kcifar", "torch"),
        ("kcifar-jax", "kcifar", "jax"),
    ):
        _versus = (_pillow,) if _pillow in VARIANTS else ()
        VARIANTS[f"{_chain}-{_name}"] = Variant(
            partial(transforms, chain=_chain, by=_by), _backend, _versus, batch_sizes=()
        )
for _name in ("ResNet50", "DenseNet121", "MobileNetV2", "EfficientNetB0"):
    _train = partial(keras_fit, make_model=partial(_application, _name), side=64)
    VARIANTS[f"{_name}-keras"] = Variant(_train, "torch", batch_sizes=(64,))
    VARIANTS[f"{_name}-kcifar"] = Variant(
        partial(_train, accelerated=True), "torch", (f"{_name}-keras",), batch_sizes=(64,)
    )


def main():
    name, source, batch_size = sys.argv[1:]
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        VARIANTS[name].train(source, int(batch_size), Clock(int(batch_size), 3, sys.stdin, answers))
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        print(json.dumps({"error": message}), file=answers, flush=True)
        raise


if __name__ == "__main__":
    main()
