"""ResNets, wide ResNets and DenseNets in PyTorch, from the papers; in float64, so that all rounding is not theirs."""

from types import SimpleNamespace

import torch
from torch.nn import functional

from tests.sharpness_steps import copies

RIGHT = {
    "momentum": 0.9,
    "epsilon": 1e-5,
    "unbiased": False,  # the moving variance is the biased one, as the models' docstrings say
    "far_side": False,  # where a strided convolution pads more
    "strided": 1,  # which convolution of a block has the stride
    "strided_of_three": 2,  # and of a bottleneck: torchvision's, "v1.5"
    "first_pixel": 0,
    "averaged": False,
    "zeros_before": lambda added: 0,  # option A: how many of the added channels come before the old ones
    "shortcut_norm": True,
    "relu_after_sum": True,
    "projects": "activated",  # what a block of a wide net projects, and adds where nothing needs projecting
    "adds": "raw",
    "head_norm": True,
    "pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "norm_first": True,  # in front of the convolutions of a DenseNet
    "first": "old",  # what the channels of a dense layer begin with
    "transition_activated": True,
    "transition_pool": lambda x: functional.avg_pool2d(x, 2),
    "head_activated": True,  # ReLU after the last BatchNorm of a DenseNet
    "hidden_activated": True,
    "activation": functional.relu,
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
        if self.right.activation is functional.relu:
            self.nearest_to_kink = min(self.nearest_to_kink, x.detach().abs().min().item())
        return self.right.activation(x)

    def dense(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def head(self, x):
        """Without dropout."""
        x = x.mean((2, 3))
        if "head_hidden/kernel" in self.weights:
            x = self.dense(x, "head_hidden")
            x = self.relu(x) if self.right.hidden_activated else x
        return self.dense(x, "head_logits")

    def stem(self, x, of="imagenet"):
        x = self.relu(self.norm(self.conv(x, "stem_conv", 2 if of == "imagenet" else 1), "stem_norm"))
        return self.right.pool(x) if of == "imagenet" else x

    def option_a(self, x, filters, stride, name):
        """Every second pixel, and zeros for the new channels. He et al. 2016, section 4.2."""
        first, added = self.right.first_pixel, filters - x.shape[1]
        x = functional.avg_pool2d(x, 2) if self.right.averaged else x[:, :, first::2, first::2]
        before = self.right.zeros_before(added)
        return functional.pad(x, (0, 0, 0, 0, before, added - before))

    def projection(self, x, filters, stride, name):
        """Option B: a 1×1 convolution and BatchNorm."""
        x = self.conv(x, f"{name}_shortcut_conv", stride)
        return self.norm(x, f"{name}_shortcut_norm") if self.right.shortcut_norm else x

    def basic_block(self, x, filters, stride, name, shortcut):
        first, second = (stride, 1) if self.right.strided == 1 else (1, stride)
        y = self.relu(self.norm(self.conv(x, f"{name}_conv1", first), f"{name}_norm1"))
        y = self.norm(self.conv(y, f"{name}_conv2", second), f"{name}_norm2")
        return self.joined(shortcut(x, filters, stride, name) if stride > 1 else x, y)

    def joined(self, same, y):
        return self.relu(same + y) if self.right.relu_after_sum else same + self.relu(y)

    def bottleneck(self, x, filters, stride, name):
        """He et al. 2016, figure 5, right."""
        y = x
        for i in (1, 2, 3):
            y = self.conv(y, f"{name}_conv{i}", stride if i == self.right.strided_of_three else 1)
            y = self.norm(y, f"{name}_norm{i}")
            y = self.relu(y) if i < 3 else y
        return self.joined(x if x.shape[1] == 4 * filters else self.projection(x, 4 * filters, stride, name), y)

    def wide_block(self, x, filters, stride, name):
        """Zagoruyko & Komodakis 2016, table 1 in the pre-activation form of their program."""
        activated = self.relu(self.norm(x, f"{name}_1_norm"))
        y = self.relu(self.norm(self.conv(activated, f"{name}_conv1", stride), f"{name}_2_norm"))
        y = self.conv(y, f"{name}_conv2")
        inputs = {"raw": x, "activated": activated}
        if x.shape[1] == filters:
            return y + inputs[self.right.adds]
        return y + self.conv(inputs[self.right.projects], f"{name}_shortcut_conv", stride)

    def activated(self, x, norm):
        return self.relu(self.norm(x, norm)) if self.right.norm_first else self.norm(self.relu(x), norm)

    def dense_layer(self, x, name):
        """Huang et al. 2017, section 3: DenseNet-B's H."""
        new = x
        for i in (1, 2):
            new = self.conv(self.activated(new, f"{name}_norm{i}"), f"{name}_conv{i}")
        return torch.cat([x, new] if self.right.first == "old" else [new, x], 1)

    def transition(self, x, name):
        x = self.activated(x, f"{name}_norm") if self.right.transition_activated else x
        return self.right.transition_pool(self.conv(x, f"{name}_conv"))


def stages(x, block, widths, blocks):
    for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for i in range(count):
            x = block(x, filters, 2 if stage > 1 and i == 0 else 1, f"layer{stage}_{i}")
    return x


def resnet_for_cifar(net, x, blocks):
    x = net.stem(x, "cifar")
    return net.head(stages(x, lambda *a: net.basic_block(*a, net.option_a), (16, 32, 64), [blocks] * 3))


def resnet(net, x, blocks, bottlenecks=False, stem="imagenet"):
    """`blocks` in each of the four stages, basic ones or bottlenecks."""
    block = net.bottleneck if bottlenecks else lambda *a: net.basic_block(*a, net.projection)
    return net.head(stages(net.stem(x, stem), block, (64, 128, 256, 512), blocks))


def densenet(net, x, blocks):
    """Huang et al. 2017, table 1, with `blocks` layers in each of the four dense blocks."""
    x = net.stem(x)
    for stage, count in enumerate(blocks, start=1):
        for i in range(count):
            x = net.dense_layer(x, f"layer{stage}_{i}")
        x = net.transition(x, f"layer{stage}_transition") if stage < 4 else x
    x = net.norm(x, "layer4_norm") if net.right.head_norm else x
    return net.head(net.relu(x) if net.right.head_activated else x)


def wrn28(net, x, width):
    x = stages(net.conv(x, "stem_conv"), net.wide_block, (16 * width, 32 * width, 64 * width), [4] * 3)
    return net.head(net.relu(net.norm(x, "layer3_norm") if net.right.head_norm else x))
