"""Train the same small ECA-Nets through each decoder and compare what they learn.

    OMP_NUM_THREADS=1 python tools/compare_decoders.py

The decoder `crop` reduces a picture while it decodes, which leaves other pixels than FFCV's decoder
and OpenCV's resize do. Whether networks mind is asked here of Fashion-MNIST: enlarged four times,
tinted at random, so that there is color to decode, and stored as JPEGs. Every crop is at least
twice as large as the network's input, so that the reduced decoding has a part in each. A seed gives
both decoders the same weights, order and crops: the differences of their pairs are what counts.
Each network is validated through both decoders, separating what was learned from what is shown.
"""

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import channels_last, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import FashionMNIST

from eca_lightning import FFCVDataModule, create_backbone
from eca_lightning.data.datasets.torchvision import read_fashion_mnist
from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.decode_op import DecoderName
from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.data.ffcv.write import write_beton

STORED, SHOWN = 112, 28
SCALE = (0.35, 1.0)
"""Share of the area that a crop has: at a ratio of 3:4 the least is 57 pixels wide."""
DECODERS: tuple[DecoderName, ...] = ("crop", "ffcv")


class TintedClothes:
    """The first images of a split, enlarged, each in a random color on another."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8], count: int) -> None:
        self.images = images[:count]
        self.labels = labels[:count]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        gray = Image.fromarray(self.images[index])
        large = np.array(gray.resize((STORED, STORED), Image.Resampling.BICUBIC))
        shade = large[..., None] / 255
        colors = np.random.default_rng(index).uniform([[150], [0]], [[255], [60]], (2, 3))
        tinted = colors[0] * shade + colors[1] * (1 - shade)
        return tinted.astype(np.uint8), int(self.labels[index])


def write(folder: Path, counts: dict[str, int]) -> None:
    """Write train.beton and val.beton, as JPEGs of quality 90."""
    for split, (images, labels) in read_fashion_mnist(None, folder).items():
        write_beton(
            TintedClothes(images, labels, counts[split]),
            folder / f"{split}.beton",
            class_names=FashionMNIST.classes,
            source=f"Fashion-MNIST, {split}, enlarged and tinted",
            encoding=Encoding("jpg", quality=90),
        )


def open_data(folder: Path, decoder: DecoderName, seed: int) -> FFCVDataModule:
    """The files of a folder, read with a decoder."""
    return FFCVDataModule(
        root=folder,
        train=Path("train.beton"),
        val=Path("val.beton"),
        batch_size=64,
        num_workers=1,
        image_size=SHOWN,
        resize_size=SHOWN,
        scale=SCALE,
        seed=seed,
        decoder=decoder,
    )


def train(folder: Path, decoder: DecoderName, seed: int, epochs: int) -> nn.Module:
    """A network trained with a decoder."""
    torch.manual_seed(seed)
    network = create_backbone("resnet20", "eca", num_classes=10).to(memory_format=channels_last)
    batches = open_data(folder, decoder, seed).train_dataloader()
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, weight_decay=5e-4)
    schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(normalize(images)), labels).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, folder: Path, decoder: DecoderName) -> float:
    """Share of the validation images, shown by a decoder, that are recognized; percent."""
    right = [
        (network(normalize(images)).argmax(1) == labels).float()
        for images, labels in open_data(folder, decoder, seed=0).val_dataloader()
    ]
    return 100 * torch.cat(right).mean().item()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Bytes as numbers of about zero mean and unit variance, float32 of the same shape."""
    return ((images.float() - 100) / 70).contiguous(memory_format=channels_last)


def main() -> None:
    """Train for each seed and decoder, and print accuracies and their differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", type=int, default=8000, help="training images")
    parser.add_argument("--val", type=int, default=4000, help="validation images")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a standard error needs at least two seeds")
    crop_decode.library()  # raises where it was not built, and FFCV's would be compared with itself
    # Accuracies of each seed, by the decoder of the training and that of the validation.
    reached: dict[tuple[DecoderName, DecoderName], list[float]] = {
        pair: [] for pair in product(DECODERS, repeat=2)
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, {"train": options.train, "val": options.val})
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for trained in DECODERS:
                network = train(folder, trained, seed, options.epochs)
                for shown in DECODERS:
                    reached[trained, shown].append(accuracy(network, folder, shown))
                    print(f"seed {seed}: trained {trained}, validated {shown}:", end=" ")
                    print(f"{reached[trained, shown][-1]:.2f} %", flush=True)
    for (trained, shown), values in reached.items():
        print(f"trained {trained}, validated {shown}: mean {mean(values):.2f} %,", end=" ")
        print(f"standard deviation {stdev(values):.2f}")
    own = zip(reached["crop", "crop"], reached["ffcv", "ffcv"], strict=True)
    differences = [ours - theirs for ours, theirs in own]
    error = stdev(differences) / len(differences) ** 0.5
    print(f"crop - ffcv, each validated as trained: {mean(differences):+.2f} points,", end=" ")
    print(f"standard error {error:.2f}; {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
