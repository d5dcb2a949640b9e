"""Train CIFAR-10 to 94 % in plain PyTorch: the program that kcifar's recipes/fast.py is timed against.

The training of Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, sections 3 and 4 and
table 5 for airbench94), written for a CPU: channels_last, and bfloat16 by autocast where that is faster. Only the
images are read by kcifar.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH_SIZE, MOMENTUM, LABEL_SMOOTHING = 1024, 0.85, 0.2
STEP_SCALE = 1 + 1 / (1 - MOMENTUM)  # of Nesterov's steps over the gradients, which the rates of the paper leave out
LEARNING_RATE, BIAS_FACTOR = 11.5 / STEP_SCALE, 64.0
WEIGHT_DECAY = 0.0153 / STEP_SCALE  # a step, whatever the rate
WHITENING_BIAS_EPOCHS, WHITENING_IMAGES, WHITENING_EPSILON = 3, 5000, 5e-4
AVERAGED_EVERY = 5  # steps, of Lookahead

_EXAMPLES = """\
examples:
  python benchmarks/airbench94.py --data cifar-10-batches-py
  python benchmarks/airbench94.py --data cifar-10-batches-py --seed 1 --out airbench94-1.json
  python benchmarks/airbench94.py --data demo --epochs 0.5 --precision float32
"""


class Block(nn.Sequential):
    """Two 3×3 convolutions, a max-pooling behind the first, each with BatchNorm and GELU."""

    def __init__(self, before, channels):
        super().__init__(
            *(_convolution(before, channels), nn.MaxPool2d(2), _norm(channels), nn.GELU()),
            *(_convolution(channels, channels), _norm(channels), nn.GELU()),
        )


def _convolution(before, channels):
    """A 3×3 convolution that starts as the identity on its first channels."""
    convolution = nn.Conv2d(before, channels, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:before])
    return convolution


def _norm(channels):
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


class Net(nn.Module):
    """airbench94's network: (batch, 3, 32, 32) -> logits (batch, 10)."""

    def __init__(self):
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad = False
        nn.init.zeros_(self.whitening.bias)
        self.blocks = nn.Sequential(Block(24, 64), Block(64, 256), Block(256, 256))
        self.head = nn.Linear(256, 10, bias=False)

    def forward(self, x):
        x = F.max_pool2d(self.blocks(F.gelu(self.whitening(x))), 3)
        return self.head(x.flatten(1)) / 9

    @torch.no_grad()
    def whiten(self, images):
        """Gives the first convolution the eigenvectors of the patches' second moments, scaled, and their negatives."""
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))


class Lookahead:
    """Slow copies of the weights and statistics, which move towards the fast ones and then replace them."""

    def __init__(self, net):
        self.slow = {name: value.clone() for name, value in _floats(net)}

    @torch.no_grad()
    def step(self, net, decay):
        for name, fast in _floats(net):
            fast.copy_(self.slow[name].lerp_(fast, 1 - decay))


def _floats(net):
    return [(name, value) for name, value in net.state_dict().items() if value.is_floating_point()]


def rate_factor(step, steps):
    """From 0.2 up to 1 in the first 23 % of the steps, then down to 0.07."""
    top = int(0.23 * steps)
    if step < top:
        return 0.2 + 0.8 * step / top
    return 1 - 0.93 * (step - top) / (steps - top)


def optimizer_of(net):
    biases = [value for name, value in net.blocks.named_parameters() if name.endswith("bias")]
    others = [net.whitening.bias, *(value for value in net.parameters() if value.ndim > 1 and value.requires_grad)]
    groups = [(biases, LEARNING_RATE * BIAS_FACTOR), (others, LEARNING_RATE)]
    return torch.optim.SGD(
        [{"params": values, "lr": rate, "weight_decay": WEIGHT_DECAY / rate} for values, rate in groups],
        momentum=MOMENTUM,
        nesterov=True,
        fused=True,
    )


def shifted(padded, size):
    """Each image cut out of the padded one at a place of its own."""
    batch, _, height, width = padded.shape
    rows = torch.randint(height - size + 1, (batch, 1)) + torch.arange(size)
    columns = torch.randint(width - size + 1, (batch, 1)) + torch.arange(size)
    image = torch.arange(batch)[:, None, None]
    # Of memory in the order of channels_last whole pixels are copied.
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(net, images, labels, epochs, cast):
    """Trains for a number of epochs, which may end within one; yields the loss of each one's last batch."""
    steps_per_epoch = len(images) // BATCH_SIZE
    steps, step = math.ceil(steps_per_epoch * epochs), 0
    optimizer, lookahead = optimizer_of(net), Lookahead(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    mirrored = torch.rand(len(images)) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (2,) * 4, "reflect").to(memory_format=torch.channels_last)
    net.train()
    for epoch in range(math.ceil(epochs)):
        net.whitening.bias.requires_grad = epoch < WHITENING_BIAS_EPOCHS
        order = torch.randperm(len(images))
        for chosen in order[: steps_per_epoch * BATCH_SIZE].view(-1, BATCH_SIZE):
            x = shifted(padded[chosen], images.shape[2])
            x = x.flip(3) if epoch % 2 else x
            with cast():
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % AVERAGED_EVERY == 0 or step == steps:
                lookahead.step(net, 1.0 if step == steps else 0.95**5 * (step / steps) ** 3)
            if step == steps:
                break
        yield loss.item()


@torch.no_grad()
def accuracies(net, images, labels, cast):
    """(of the images as they are, with the six views): fractions of images whose largest logit is the label's."""
    net.eval()
    plain = viewed = 0
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        padded = F.pad(x, (1,) * 4, "reflect")
        with cast():
            as_is = net(x).float()
            middle = (as_is + net(x.flip(3)).float()) / 2
            moved = [padded[:, :, :32, :32], padded[:, :, 2:, 2:]]
            others = sum(net(view).float() + net(view.flip(3)).float() for view in moved) / 4
        plain += (as_is.argmax(1) == y).sum().item()
        viewed += ((middle + others) / 2).argmax(1).eq(y).sum().item()
    return plain / len(labels), viewed / len(labels)


def casting(precision):
    """What makes the context of a pass: autocast to bfloat16, or none."""
    return lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def faster_precision():
    """ "float32" or "bfloat16", whichever a step of a small batch takes less time with."""
    net, x, seconds = Net().to(memory_format=torch.channels_last), torch.randn(32, 3, 32, 32), {}
    for precision in ("float32", "bfloat16") * 2:  # the second time counts
        started = time.perf_counter()
        with casting(precision)():
            logits = net(x)
        logits.float().sum().backward()
        seconds[precision] = time.perf_counter() - started
    return min(seconds, key=seconds.get)


def load(source):
    """{"train": …, "test": …} of (normalised float32 (n, 3, 32, 32), int64 (n,)) tensors."""
    from kcifar import data

    dataset = data.load(source)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return {
        name: (((torch.tensor(split.images).permute(0, 3, 1, 2) / 255) - mean) / std, torch.tensor(split.labels))
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=9.9, metavar="N", help="default: 9.9")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of initial values, order and transforms")
    parser.add_argument("--data", default="auto", metavar="SOURCE", help="what kcifar.data.load takes (default: auto)")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="default: the faster one here"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: OMP_NUM_THREADS, else all cores)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    precision = faster_precision() if options.precision == "auto" else options.precision
    splits, cast, losses = load(options.data), casting(precision), []
    net = Net().to(memory_format=torch.channels_last)
    net.whiten(splits["train"][0][:WHITENING_IMAGES])
    for loss in train(net, *splits["train"], options.epochs, cast):
        losses.append(loss)
        print(f"epoch {len(losses)}  loss {loss:.4f}  {time.perf_counter() - started:.1f} s", flush=True)
    plain, viewed = accuracies(net, *splits["test"], cast)
    seconds = time.perf_counter() - started
    print(f"test accuracy {plain:.2%}, with views {viewed:.2%}; {seconds:.1f} s in all", flush=True)
    if options.out:
        figures = {"test_accuracy": plain, "test_accuracy_with_views": viewed, "seconds": seconds, "losses": losses}
        settings = {**vars(options), "precision": precision, "threads": torch.get_num_threads()}
        settings |= {"out": str(options.out), "torch": torch.__version__}
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps({**settings, **figures}, indent=2) + "\n", encoding="utf-8")
        os.replace(part, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
