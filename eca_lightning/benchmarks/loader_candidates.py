"""The loaders that ``benchmark loader`` compares: this package's and those of other libraries.

Each yields batches of the same images, uint8 (N, 3, S, S), after a random resized crop and a random
flip or after a center crop, without any other augmentation or normalization.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from eca_lightning.data.ffcv.sidecar import WriteMode
from eca_lightning.data.sampler import DistributedBatchSampler

BenchmarkView = Literal["random_resized_crop", "center_crop"]

LoaderName = Literal["eca-lightning", "ffcv", "torchvision-io", "torchvision-pil", "timm"]

OURS: LoaderName = "eca-lightning"

Batches = Callable[[int], Iterable[Any]]
"""Maps the number of a repeat to its batches, which begin with images (N, 3, S, S)."""


@dataclass(frozen=True)
class Workload:
    """The work of a loader in each repeat.

    Attributes:
        beton: The images as a .beton, for FFCV.
        folder: The images as a folder of class folders, for the others.
        files: The files of this folder to read, and their labels.
        batches: Number of batches of a repeat.
        num_workers: Threads or processes that decode.
        view: The crop of each image; only random_resized_crop is flipped.
        mode: How the .beton of a folder stores its images; None for files and a .beton as it is.
        bytes_per_image: Mean size of the stored images that are read.
    """

    beton: Path | None
    folder: Path | None
    files: list[tuple[str, int]]
    batches: int
    batch_size: int
    image_size: int
    num_workers: int
    view: BenchmarkView = "random_resized_crop"
    mode: WriteMode | None = None
    bytes_per_image: float = 0.0

    @property
    def images(self) -> int:
        """Images of a repeat."""
        return self.batches * self.batch_size

    @property
    def resize_size(self) -> int:
        """Shorter side before a center crop: 256 for 224 pixels, and in proportion."""
        return round(self.image_size * 256 / 224)

    @property
    def is_random(self) -> bool:
        """Whether crops and flips are random."""
        return self.view == "random_resized_crop"


def _ours(work: Workload) -> Batches:
    from eca_lightning.data.ffcv.datamodule import FFCVDataModule

    loader: Any = FFCVDataModule(
        train=work.beton,
        batch_size=work.batch_size,
        num_workers=work.num_workers,
        image_size=work.image_size,
        resize_size=work.resize_size,
        train_crop=work.view,
        flip=work.is_random,
        seed=0,
    ).train_dataloader()

    def batches(number: int) -> Iterable[Any]:
        # The images of every repeat are the last of epoch 0; only their crops change.
        done = len(loader) - work.batches
        loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batches_done": done})
        loader.crop = replace(loader.crop, seed=number)
        return loader

    return batches


def _ffcv(work: Workload) -> Batches:
    from ffcv.fields.decoders import (
        CenterCropRGBImageDecoder,
        IntDecoder,
        RandomResizedCropRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    from eca_lightning.data.ffcv.format import check_beton

    if work.beton is None:
        raise ValueError("FFCV reads a .beton, and none was given")
    size = (work.image_size, work.image_size)
    samples = check_beton(work.beton).samples
    order = DistributedBatchSampler(samples, work.batch_size, train=True, shuffle=True)
    view = (
        [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
        if work.is_random
        else [CenterCropRGBImageDecoder(size, work.image_size / work.resize_size)]
    )
    loader = Loader(
        str(work.beton),
        batch_size=work.batch_size,
        num_workers=work.num_workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=order.indices(epoch=0)[-work.images :],
        drop_last=True,
        pipelines={
            "image": [*view, ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    return lambda _: loader


def _torchvision(work: Workload, in_pil: bool) -> Batches:
    options = {} if in_pil else {"loader": partial(decode_image, mode=ImageReadMode.RGB)}
    steps = (
        [v2.RandomResizedCrop(work.image_size), v2.RandomHorizontalFlip()]
        if work.is_random
        else [v2.Resize(work.resize_size), v2.CenterCrop(work.image_size)]
    )
    transform = v2.Compose([*steps, v2.PILToTensor()] if in_pil else steps)
    loader: DataLoader[Any] = DataLoader(
        _dataset(work, transform=transform, **options),
        batch_size=work.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=work.num_workers,
        persistent_workers=True,
    )
    return lambda _: loader


def _timm(work: Workload) -> Batches:
    prefetching = import_module("timm.data").create_loader(
        _dataset(work),
        input_size=work.image_size,
        batch_size=work.batch_size,
        is_training=work.is_random,
        color_jitter=0.0,
        crop_pct=work.image_size / work.resize_size,
        num_workers=work.num_workers,
        device=torch.device("cpu"),
    )
    # The inner loader yields uint8; the outer one only normalizes.
    return lambda _: prefetching.loader


def _dataset(work: Workload, **options: Any) -> Any:
    """Create torchvision's ImageFolder with the files of a workload."""
    dataset = ImageFolder(str(work.folder), **options)
    dataset.samples = work.files
    return dataset


class Candidate(NamedTuple):
    """A loader: the data that it reads, the module that it needs, and what builds it."""

    reads: Literal["beton", "folder"]
    needs: str
    build: Callable[[Workload], Batches]


LOADERS: dict[LoaderName, Candidate] = {
    OURS: Candidate("beton", "ffcv", _ours),
    "ffcv": Candidate("beton", "ffcv", _ffcv),
    "torchvision-io": Candidate("folder", "torchvision", partial(_torchvision, in_pil=False)),
    "torchvision-pil": Candidate("folder", "torchvision", partial(_torchvision, in_pil=True)),
    "timm": Candidate("folder", "timm", _timm),
}
