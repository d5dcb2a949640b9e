"""ResNets, DenseNets and VGG-16 in plain PyTorch, whose parameters have torchvision's names; files' layouts; a step."""

import re
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

BLOCKS = {
    # name: (kind, blocks of each stage)
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "densenet121": ("dense", (6, 12, 24, 16)),
    "densenet169": ("dense", (6, 12, 32, 32)),
    "vgg16": ("plain", (2, 2, 3, 3, 3)),
    "vgg16_bn": ("normed", (2, 2, 3, 3, 3)),
}


def network(name, classes=10, image=(32, 32), hidden=4096, activation=nn.ReLU, state=None):
    """A network in float64 with the tensors of `state`; without, one on the device `meta`, which has no numbers.

    `image` is (rows, columns) and `hidden` the width of the two hidden layers, both of VGG only; no dropout.
    """
    kind, blocks = BLOCKS[name]
    with torch.device("meta"):
        if "vgg" in name:
            net = VGG(kind, blocks, classes, activation, image, hidden)
        else:
            net = (DenseNet if kind == "dense" else ResNet)(kind, blocks, classes, activation)
    if state is not None:
        net.load_state_dict({key: tensor.double() for key, tensor in state.items()}, assign=True)
    return net


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


class ResNet(nn.Module):
    def __init__(self, kind, blocks, classes, activation):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, stride=2), nn.BatchNorm2d(64)
        self.activation, self.pool = activation(), nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, count in enumerate(blocks):
            stage, width = nn.Sequential(), 64 * 2**i
            for place in range(count):
                stride = 2 if i > 0 and place == 0 else 1
                stage.append(Residual(channels, width, stride, kind == "bottleneck", activation))
                channels = stage[-1].outputs
            self.add_module(f"layer{i + 1}", stage)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.pool(self.activation(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Residual(nn.Module):
    """He et al. 2016, figure 5; a bottleneck's stride is that of its 3×3 convolution."""

    def __init__(self, inputs, width, stride, bottleneck, activation):
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        of_two = (inputs, width, 3, stride), (width, width, 3)
        of_three = (inputs, width, 1), (width, width, 3, stride), (width, self.outputs, 1)
        for i, shape in enumerate(of_three if bottleneck else of_two, start=1):
            self.add_module(f"conv{i}", conv(*shape))
            self.add_module(f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.depth, self.activation, self.downsample = i, activation(), nn.Identity()
        if stride > 1 or inputs != self.outputs:
            self.downsample = nn.Sequential(conv(inputs, self.outputs, 1, stride), nn.BatchNorm2d(self.outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.activation(y) if i < self.depth else y
        return self.activation(self.downsample(x) + y)


class DenseNet(nn.Module):
    """Huang et al. 2017, table 1: growth 32, bottlenecks of 128, transitions that halve the channels."""

    def __init__(self, kind, blocks, classes, activation):
        super().__init__()
        parts, channels = {"conv0": conv(3, 64, 7, stride=2), "norm0": nn.BatchNorm2d(64)}, 64
        parts |= {"relu0": activation(), "pool0": nn.MaxPool2d(3, 2, 1)}
        for i, count in enumerate(blocks, start=1):
            layers = {f"denselayer{j + 1}": DenseLayer(channels + 32 * j, activation) for j in range(count)}
            parts[f"denseblock{i}"], channels = named(**layers), channels + 32 * count
            if i < len(blocks):
                halving, pool = conv(channels, channels // 2, 1), nn.AvgPool2d(2)
                norm, channels = nn.BatchNorm2d(channels), channels // 2
                parts[f"transition{i}"] = named(norm=norm, relu=activation(), conv=halving, pool=pool)
        self.features = named(**parts, norm5=nn.BatchNorm2d(channels))
        self.activation, self.classifier = activation(), nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.activation(self.features(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, inputs, activation):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 128, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), conv(128, 32, 3)
        self.activation = activation()

    def forward(self, x):
        new = self.conv1(self.activation(self.norm1(x)))
        return torch.cat([x, self.conv2(self.activation(self.norm2(new)))], 1)


class VGG(nn.Module):
    """Simonyan & Zisserman 2015, table 1, column D; the maps are flattened as they are, channels first."""

    def __init__(self, kind, blocks, classes, activation, image, hidden):
        super().__init__()
        layers, channels = [], 3
        for count, width in zip(blocks, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                norm = [nn.BatchNorm2d(width)] if kind == "normed" else []
                layers += [nn.Conv2d(channels, width, 3, padding=1), *norm, activation()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = channels * (image[0] // 32) * (image[1] // 32)
        one, two = ([nn.Linear(inputs, hidden), activation(), nn.Dropout(0)] for inputs in (flat, hidden))
        self.classifier = nn.Sequential(*one, *two, nn.Linear(hidden, classes))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def drawn_state(net, images, seed=0):
    """Numbers in float32 for a network on `meta`, statistics of BatchNorm among them; all of size 1 on these images."""
    drawn, net = torch.Generator().manual_seed(seed), net.to_empty(device="cpu").eval()
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(7)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.5, generator=drawn)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5, generator=drawn)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(_fit)
    with torch.no_grad():
        net(torch.tensor(images).permute(0, 3, 1, 2))
    return net.state_dict()


def _fit(layer, inputs):
    layer.weight.data /= inputs[0].square().mean().sqrt()


def step(net, images, labels, rate):
    """Trains a network by one step of w − rate·∂loss/∂w; moving variances are then the biased ones, as in Keras.

    Returns by how much the largest value in a window of max-pooling exceeds the next, at least.
    """
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    before, counts, margins = [norm.running_var.clone() for norm in norms], {}, []
    for layer in net.modules():
        if layer in norms:
            layer.register_forward_pre_hook(lambda norm, x: counts.update({norm: x[0][:, 0].numel()}))
        elif isinstance(layer, nn.MaxPool2d):
            layer.register_forward_pre_hook(lambda pool, x: margins.append(_margin(pool, x[0].detach())))
    functional.cross_entropy(net.train()(images), labels).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= rate * parameter.grad
        for norm, old in zip(norms, before, strict=True):  # new − 0.9·old is 0.1·Σ(x − mean)²/(n − 1)
            norm.running_var -= (norm.running_var - 0.9 * old) / counts[norm]
    return min(margins)


def _margin(pool, x):
    size, stride = pool.kernel_size, pool.stride
    windows = functional.pad(x, [pool.padding] * 4, value=-torch.inf).unfold(2, size, stride).unfold(3, size, stride)
    return -windows.flatten(4).topk(2).values.diff().max().item()


def in_timm_layout(state, image):
    """A VGG's tensors under timm's names: its first two dense layers are convolutions of the last maps."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    state = {re.sub(r"^classifier\.\d", lambda found: names[found[0]], key): value for key, value in state.items()}
    sizes = {"pre_logits.fc1.weight": (image[0] // 32, image[1] // 32), "pre_logits.fc2.weight": (1, 1)}
    return state | {key: state[key].reshape(len(state[key]), -1, *size) for key, size in sizes.items()}


def with_old_names(state):
    """A DenseNet's tensors under the names of torchvision's published files."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, as akamaster/pytorch_resnet_cifar10 names and pads it: zeros on both sides."""

    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        for stage, width in enumerate((16, 32, 64), start=1):
            inputs = [width // 2 if stage > 1 else 16, *[width] * (blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*(CifarBlock(before, width) for before in inputs)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class CifarBlock(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.grows = inputs != width
        self.conv1, self.bn1 = conv(inputs, width, 3, 2 if self.grows else 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            quarter = y.shape[1] // 4
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(x + y)


class WideResNet(nn.Module):
    """Zagoruyko & Komodakis 2016, by the names of xternalz/WideResNet-pytorch."""

    def __init__(self, width, blocks=4, classes=10):
        super().__init__()
        self.conv1, inputs = conv(3, 16, 3), 16
        for stage in (1, 2, 3):
            outputs, stride = 16 * width * 2 ** (stage - 1), 1 if stage == 1 else 2
            first, rest = WideBlock(inputs, outputs, stride), [WideBlock(outputs, outputs) for _ in range(blocks - 1)]
            self.add_module(f"block{stage}", named(layer=nn.Sequential(first, *rest)))
            inputs = outputs
        self.bn1, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        activated = functional.relu(self.bn1(x))
        same = x if self.convShortcut is None else self.convShortcut(activated)
        return same + self.conv2(functional.relu(self.bn2(self.conv1(activated))))
