"""Checkpoints as the original project writes them, and its networks' arithmetic as functions.

Written from the paper (section 3, Eq. 9) and from what the project names its weights; no module of
the package is used.
"""

import torch
from torch.nn import functional as F

RESNETS = {  # blocks of each stage, and channels that leave a block per channel within
    "eca_resnet18": ((2, 2, 2, 2), 1),
    "eca_resnet34": ((3, 4, 6, 3), 1),
    "eca_resnet50": ((3, 4, 6, 3), 4),
}
MOBILENET_ROWS = (  # expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Weights(dict):
    """A state dict of random weights that keep activations near one."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def convolution(self, key, out_channels, in_channels, kernel):
        fan_in = in_channels * kernel**2
        self[f"{key}.weight"] = (
            self.random(out_channels, in_channels, kernel, kernel) * fan_in**-0.5
        )

    def norm(self, key, channels):
        self[f"{key}.weight"] = 1 + 0.2 * self.random(channels)
        self[f"{key}.bias"] = 0.2 * self.random(channels)
        self[f"{key}.running_mean"] = 0.2 * self.random(channels)
        self[f"{key}.running_var"] = 1 + 0.2 * self.random(channels).abs()
        self[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def eca(self, key, kernel):
        self[f"{key}.conv.weight"] = self.random(1, 1, kernel)

    def linear(self, key, classes, channels):
        self[f"{key}.weight"] = self.random(classes, channels) * channels**-0.5
        self[f"{key}.bias"] = self.random(classes)


def resnet_weights(arch, kernels, classes=1000):
    """The state dict of an ECA-ResNet, ``kernels`` being the sizes of the four stages."""
    blocks, expansion = RESNETS[arch]
    weights = Weights()
    weights.convolution("conv1", 64, 3, 7)
    weights.norm("bn1", 64)
    channels = 64
    for stage, (count, kernel) in enumerate(zip(blocks, kernels, strict=True)):
        inner = 64 * 2**stage
        outer = inner * expansion
        sizes = [1, 3, 1] if expansion == 4 else [3, 3]
        for index in range(count):
            key = f"layer{stage + 1}.{index}"
            widths = [channels, *[inner] * (len(sizes) - 1), outer]
            for number, size in enumerate(sizes):
                weights.convolution(
                    f"{key}.conv{number + 1}", *widths[number : number + 2][::-1], size
                )
                weights.norm(f"{key}.bn{number + 1}", widths[number + 1])
            weights.eca(f"{key}.eca", kernel)
            if channels != outer:
                weights.convolution(f"{key}.downsample.0", outer, channels, 1)
                weights.norm(f"{key}.downsample.1", outer)
            channels = outer
    weights.linear("fc", classes, channels)
    return dict(weights)


def mobilenet_weights(kernels, classes=1000):
    """The state dict of the ECA-MobileNetV2, ``kernels`` being the sizes of the seven rows."""
    weights = Weights()
    weights.convolution("features.0.0", 32, 3, 3)
    weights.norm("features.0.1", 32)
    channels, number = 32, 1
    for (expansion, width, count, _), kernel in zip(MOBILENET_ROWS, kernels, strict=True):
        for _ in range(count):
            key, hidden, place = f"features.{number}.conv", channels * expansion, 0
            if expansion > 1:
                weights.convolution(f"{key}.0.0", hidden, channels, 1)
                weights.norm(f"{key}.0.1", hidden)
                place = 1
            weights.convolution(f"{key}.{place}.0", hidden, 1, 3)
            weights.norm(f"{key}.{place}.1", hidden)
            weights.convolution(f"{key}.{place + 1}", width, hidden, 1)
            weights.norm(f"{key}.{place + 2}", width)
            weights.eca(f"{key}.{place + 3}", kernel)
            channels, number = width, number + 1
    weights.convolution("features.18.0", 1280, channels, 1)
    weights.norm("features.18.1", 1280)
    weights.linear("classifier.1", classes, 1280)
    return dict(weights)


def save(path, arch, state):
    """Write a file as its script did: in DataParallel, beside the optimizer, in the old form."""
    momenta = {0: {"momentum_buffer": torch.zeros(3)}}
    checkpoint = {
        "epoch": 98,
        "arch": arch,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "best_prec1": torch.tensor(77.48),
        "optimizer": {"state": momenta, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    return path


def _norm(weights, key, x):
    return F.batch_norm(
        x,
        weights[f"{key}.running_mean"],
        weights[f"{key}.running_var"],
        weights[f"{key}.weight"],
        weights[f"{key}.bias"],
    )


def _eca(weights, key, x):
    """Eq. 9: each channel is weighed by the sigmoid of a 1D convolution of the channels' means."""
    kernel = weights[f"{key}.conv.weight"]
    means = x.mean(dim=(2, 3)).unsqueeze(1)
    gate = F.conv1d(means, kernel, padding=(kernel.shape[2] - 1) // 2).sigmoid()
    return x * gate.transpose(1, 2).unsqueeze(3)


def resnet_logits(weights, x):
    """Logits (N, classes) of normalized images (N, 3, H, W), H and W multiples of 32."""
    x = F.conv2d(x, weights["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(_norm(weights, "bn1", x).relu(), 3, stride=2, padding=1)
    for stage in range(1, 5):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in weights:
            x = _residual_block(
                weights, f"layer{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1
            )
            index += 1
    return F.linear(x.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"])


def _residual_block(weights, key, x, stride):
    last = 3 if f"{key}.conv3.weight" in weights else 2
    y = x
    for number in range(1, last + 1):
        kernel = weights[f"{key}.conv{number}.weight"]
        at_this = stride if number == last - 1 else 1  # on the 3x3 of a bottleneck
        y = F.conv2d(y, kernel, stride=at_this, padding=kernel.shape[2] // 2)
        y = _norm(weights, f"{key}.bn{number}", y)
        y = y.relu() if number < last else _eca(weights, f"{key}.eca", y)
    if f"{key}.downsample.0.weight" in weights:
        x = F.conv2d(x, weights[f"{key}.downsample.0.weight"], stride=stride)
        x = _norm(weights, f"{key}.downsample.1", x)
    return (x + y).relu()


def mobilenet_logits(weights, x):
    """Logits (N, classes) of normalized images (N, 3, H, W), H and W multiples of 32."""
    x = F.conv2d(x, weights["features.0.0.weight"], stride=2, padding=1)
    x = F.relu6(_norm(weights, "features.0.1", x))
    number = 1
    for expansion, _, count, stride in MOBILENET_ROWS:
        for index in range(count):
            key, y, place = f"features.{number}.conv", x, 0
            if expansion > 1:
                y = F.relu6(_norm(weights, f"{key}.0.1", F.conv2d(y, weights[f"{key}.0.0.weight"])))
                place = 1
            kernel = weights[f"{key}.{place}.0.weight"]
            at_this = stride if index == 0 else 1
            y = F.conv2d(y, kernel, stride=at_this, padding=1, groups=kernel.shape[0])
            y = F.relu6(_norm(weights, f"{key}.{place}.1", y))
            y = F.conv2d(y, weights[f"{key}.{place + 1}.weight"])
            y = _eca(weights, f"{key}.{place + 3}", _norm(weights, f"{key}.{place + 2}", y))
            x = x + y if x.shape == y.shape else y
            number += 1
    x = F.conv2d(x, weights["features.18.0.weight"])
    x = F.relu6(_norm(weights, "features.18.1", x)).mean(dim=(2, 3))
    return F.linear(x, weights["classifier.1.weight"], weights["classifier.1.bias"])
