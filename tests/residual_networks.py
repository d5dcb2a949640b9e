"""ResNets and wide ResNets in PyTorch, written from the papers; in float64, so that all rounding is not theirs."""

from types import SimpleNamespace

import torch
from sharpness_steps import copies
from torch.nn import functional

RIGHT = {
    "momentum": 0.9,
    "epsilon": 1e-5,
    "unbiased": False,  # the moving variance is the biased one, as the models' docstrings say
    "far_side": False,  # where a strided convolution pads more
    "strided": 1,  # which convolution of a block has the stride
    "first_pixel": 0,
    "averaged": False,
    "zeros_before": lambda added: 0,  # option A: how many of the added channels come before the old ones
    "shortcut_norm": True,
    "relu_after_sum": True,
    "projects": "activated",  # what a block of a wide net projects, and adds where nothing needs projecting
    "adds": "raw",
    "head_norm": True,
    "pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
}


class Net:
    """Layers on the variables of a Keras model, by their paths; what training did to the statistics is in `moved`."""

    def __init__(self, model, training, wrong):
        self.training, self.right = training, SimpleNamespace(**RIGHT | wrong)
        values = zip(model.weights, copies(model.weights), strict=True)
        self.weights = {v.path: torch.tensor(value).requires_grad_(v.trainable) for v, value in values}
        self.moved, self.nearest_to_kink = {}, torch.inf

    def conv(self, x, name, stride=1):
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        size = kernel.shape[-1]
        if self.right.far_side:  # TensorFlow's "same"
            total = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[2:]]
            x = functional.pad(x, [pad for t in total[::-1] for pad in (t // 2, t - t // 2)])
        return functional.conv2d(x, kernel, stride=stride, padding=0 if self.right.far_side else size // 2)

    def norm(self, x, name):
        scale, offset, mean, variance = (
            self.weights[f"{name}/{what}"] for what in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if self.training:
            old, keep = (mean, variance), self.right.momentum
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            seen = mean, x.var((0, 2, 3), unbiased=self.right.unbiased)
            for what, before, now in zip(("mean", "variance"), old, seen, strict=True):
                self.moved[f"{name}/moving_{what}"] = (keep * before + (1 - keep) * now).detach().numpy()
        channels = (1, -1, 1, 1)
        normed = (x - mean.reshape(channels)) / (variance.reshape(channels) + self.right.epsilon) ** 0.5
        return normed * scale.reshape(channels) + offset.reshape(channels)

    def relu(self, x):
        self.nearest_to_kink = min(self.nearest_to_kink, x.detach().abs().min().item())
        return functional.relu(x)

    def head(self, x):
        return x.mean((2, 3)) @ self.weights["head_logits/kernel"] + self.weights["head_logits/bias"]

    def option_a(self, x, filters, name):
        """Every second pixel, and zeros for the new channels. He et al. 2016, section 4.2."""
        first, added = self.right.first_pixel, filters - x.shape[1]
        x = functional.avg_pool2d(x, 2) if self.right.averaged else x[:, :, first::2, first::2]
        before = self.right.zeros_before(added)
        return functional.pad(x, (0, 0, 0, 0, before, added - before))

    def projection(self, x, filters, name):
        """Option B: a 1×1 convolution and BatchNorm, which halve the sides."""
        x = self.conv(x, f"{name}_shortcut_conv", 2)
        return self.norm(x, f"{name}_shortcut_norm") if self.right.shortcut_norm else x

    def basic_block(self, x, filters, stride, name, shortcut):
        first, second = (stride, 1) if self.right.strided == 1 else (1, stride)
        y = self.relu(self.norm(self.conv(x, f"{name}_conv1", first), f"{name}_norm1"))
        y = self.norm(self.conv(y, f"{name}_conv2", second), f"{name}_norm2")
        same = shortcut(x, filters, name) if stride > 1 else x
        return self.relu(same + y) if self.right.relu_after_sum else same + self.relu(y)

    def wide_block(self, x, filters, stride, name):
        """Zagoruyko & Komodakis 2016, table 1 in the pre-activation form of their program."""
        activated = self.relu(self.norm(x, f"{name}_1_norm"))
        y = self.relu(self.norm(self.conv(activated, f"{name}_conv1", stride), f"{name}_2_norm"))
        y = self.conv(y, f"{name}_conv2")
        inputs = {"raw": x, "activated": activated}
        if x.shape[1] == filters:
            return y + inputs[self.right.adds]
        return y + self.conv(inputs[self.right.projects], f"{name}_shortcut_conv", stride)


def stages(x, block, widths, blocks):
    for stage, filters in enumerate(widths, start=1):
        for i in range(blocks):
            x = block(x, filters, 2 if stage > 1 and i == 0 else 1, f"layer{stage}_{i}")
    return x


def resnet_for_cifar(net, x, blocks):
    x = net.relu(net.norm(net.conv(x, "stem_conv"), "stem_norm"))
    return net.head(stages(x, lambda *a: net.basic_block(*a, net.option_a), (16, 32, 64), blocks))


def resnet18(net, x, stem):
    x = net.conv(x, "stem_conv", 2 if stem == "imagenet" else 1)
    x = net.relu(net.norm(x, "stem_norm"))
    x = net.right.pool(x) if stem == "imagenet" else x
    return net.head(stages(x, lambda *a: net.basic_block(*a, net.projection), (64, 128, 256, 512), 2))


def wrn28(net, x, width):
    x = stages(net.conv(x, "stem_conv"), net.wide_block, (16 * width, 32 * width, 64 * width), 4)
    return net.head(net.relu(net.norm(x, "head_norm") if net.right.head_norm else x))


# name and stem: (the network in PyTorch, images, seed of the weights and of the images)
# Images are small and the seeds such that no ReLU has an input so near 0 that float32 might take its other side: where
# few terms are summed, the gradient would be another.
