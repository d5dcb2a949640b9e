"""Train report A's and report B's nets in plain PyTorch: a reference for kcifar's accuracy that shares no code with it.

Only the images are read by kcifar. Batches are drawn and transformed in memory by torch's own generator.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

REPORT_B_MEAN, REPORT_B_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

_EXAMPLES = """\
examples:
  python benchmarks/plain_torch.py --net tutorial_net --data cifar-10-batches-py
  python benchmarks/plain_torch.py --net elu_cnn --epochs 30 --seed 1 --data cifar-10-batches-py --out elu-1.json
  python benchmarks/plain_torch.py --net elu_cnn --epochs 2 --data demo --threads 1
"""


def tutorial_net():
    """Report A's net, that of PyTorch's tutorial: (batch, 3, 32, 32) -> logits (batch, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def elu_cnn(dropout=0.5):
    """Report B's net with its initial values: (batch, 3, 32, 32) -> logits (batch, 10)."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ELU(), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ELU(), nn.BatchNorm2d(32), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ELU(), nn.BatchNorm2d(64), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4096, 100), nn.ELU(), nn.Dropout(dropout), nn.BatchNorm1d(100), nn.Linear(100, 10)),
    )
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


class _BasicBlock(nn.Module):
    """ReLU(x + F(x)), F two 3×3 convolutions with BatchNorm."""

    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride > 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner.add_(self.shortcut(x)))


def resnet18(stem="cifar"):
    """ResNet-18 with a 3×3 stem, or ImageNet's: (batch, 3, height, width) -> logits (batch, 10)."""
    blocks, before = [], 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [_BasicBlock(before, channels, stride), _BasicBlock(channels, channels, 1)]
        before = channels
    first = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if stem == "imagenet":
        first = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), *first[1:], nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def report_b_optimizer(net, **options):
    """Report B's Adam, with `options` of torch's, and its cyclic learning rate, to be stepped once an epoch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-3, **options)
    cycle = {"base_lr": 1e-3, "max_lr": 4e-3, "step_size_up": 10, "mode": "triangular2", "cycle_momentum": False}
    return optimizer, torch.optim.lr_scheduler.CyclicLR(optimizer, **cycle)


class ReportA:
    """No transforms; normalised to −1 … 1; SGD at a constant rate, batches of 4."""

    batch_size, epochs, mean, std = 4, 10, (0.5,) * 3, (0.5,) * 3
    net = staticmethod(tutorial_net)

    @staticmethod
    def optimizer(net):
        return torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9), None

    @staticmethod
    def loss(net, images, labels, normalise):
        return F.cross_entropy(net(normalise(images)), labels)


class ReportB:
    """Crop, flip and MixUp; Adam with a cyclic learning rate, batches of 32."""

    batch_size, epochs, mean, std = 32, 200, REPORT_B_MEAN, REPORT_B_STD
    net = staticmethod(elu_cnn)
    optimizer = staticmethod(report_b_optimizer)

    @staticmethod
    def loss(net, images, labels, normalise):
        images = normalise(crop_and_flip(images))
        blend = torch.distributions.Beta(0.4, 0.4).sample().item()
        partner = torch.randperm(len(images))
        logits = net(blend * images + (1 - blend) * images[partner])
        return blend * F.cross_entropy(logits, labels) + (1 - blend) * F.cross_entropy(logits, labels[partner])


NETS = {"tutorial_net": ReportA, "elu_cnn": ReportB}


def crop_and_flip(images, padding=4):
    """Each image shifted by up to `padding` pixels, black moving in, and mirrored with probability ½."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (batch, 1)) + torch.arange(height)
    columns = torch.randint(2 * padding + 1, (batch, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(batch, 1) < 0.5, columns.flip(1), columns)
    image = torch.arange(batch)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normaliser(mean, std):
    """A function from pixels 0–255, (batch, 3, height, width), to (pixels/255 − mean) / std in float32."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return lambda pixels: (pixels.float() / 255 - mean) / std


def train(report, splits, epochs, seed):
    """Trains on `splits["train"]`, (pixels, labels), and yields the figures of each epoch as a dict."""
    torch.manual_seed(seed)
    net, normalise = report.net(), normaliser(report.mean, report.std)
    optimizer, schedule = report.optimizer(net)
    images, labels = splits["train"]
    for epoch in range(1, epochs + 1):
        started, total, steps = time.perf_counter(), 0.0, len(images) // report.batch_size
        order = torch.randperm(len(images))[: steps * report.batch_size]
        net.train()
        for chosen in order.view(steps, report.batch_size):
            loss = report.loss(net, images[chosen], labels[chosen], normalise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if schedule:
            schedule.step()
        seconds = time.perf_counter() - started
        test_accuracy = accuracy(net, *splits["test"], normalise)
        yield {"epoch": epoch, "loss": total / steps, "test_accuracy": test_accuracy, "train_seconds": seconds}


@torch.no_grad()
def accuracy(net, images, labels, normalise):
    """Fraction of images whose largest logit is the label's, without dropout and on moving statistics."""
    net.eval()
    parts = zip(images.split(500), labels.split(500), strict=True)
    return sum((net(normalise(x)).argmax(1) == y).sum().item() for x, y in parts) / len(labels)


def load(source):
    """{"train": …, "test": …} of (uint8 (n, 3, 32, 32), int64 (n,)) tensors."""
    from kcifar import data

    dataset = data.load(source)
    return {
        name: (torch.tensor(split.images).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.labels))
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=NETS, required=True, help="tutorial_net is report A, elu_cnn is report B")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the report's, 10 and 200")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of initial values, order and transforms")
    parser.add_argument("--data", default="auto", metavar="SOURCE", help="what kcifar.data.load takes (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: OMP_NUM_THREADS, else all cores)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON, after every epoch")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    report = NETS[options.net]
    settings = {**vars(options), "epochs": options.epochs or report.epochs, "threads": torch.get_num_threads()}
    settings = {**settings, "out": str(options.out), "torch": torch.__version__}
    splits, rows = load(options.data), []
    for row in train(report, splits, settings["epochs"], options.seed):
        rows.append(row)
        print(
            f"epoch {row['epoch']}/{settings['epochs']}  loss {row['loss']:.4f}  "
            f"test accuracy {row['test_accuracy']:.2%}  {row['train_seconds']:.1f} s",
            flush=True,
        )
        if options.out:
            part = options.out.with_name(options.out.name + ".part")
            part.write_text(json.dumps({**settings, "log": rows}, indent=2) + "\n", encoding="utf-8")
            os.replace(part, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
