"""The data module for .beton files, streamed by FFCV."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from eca_lightning.data.datamodule import ClassificationDataModule, Split
from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.ffcv.format import BetonInfo, check_beton
from eca_lightning.data.transforms.crop import Interpolation
from eca_lightning.utils.checks import require, require_at_least


class FFCVDataModule(ClassificationDataModule):
    """Batches from .beton files (``eca-lightning data write``), decoded in threads.

    ``train``, ``val`` and ``test`` are .beton files; ``predict`` is one, or any image files.

    Args:
        order: Order of training samples. ``random`` shuffles all samples. ``quasi_random``
            shuffles those of 64 pages (8 MiB each) at a time and reads each page once per epoch:
            for files larger than memory, with os_cache off. Both are exact: reproducible from the
            seed, disjoint over ranks and resumed at the next batch.
        os_cache: Map the files and let the operating system cache them; all ranks of a machine
            share one copy. Turn it off for files larger than memory.
        batches_ahead: Number of batches decoded in advance.
        decoder: ``crop`` decodes only the part of each image that the crop needs, with the
            package's own decoder; ``ffcv`` decodes whole images with FFCV's, which is also the
            fallback where ours was not built.
        interpolation: How images are resized. ``area`` averages areas, which is faster;
            ``bilinear`` is antialiased, as in Pillow and torchvision, and makes center_crop
            torchvision's Resize and CenterCrop to the pixel, which released weights were
            validated with.
        **kwargs: See :class:`~eca_lightning.data.datamodule.ClassificationDataModule`.

    Raises:
        ImportError: If FFCV is not installed; the message names what to install or use instead.
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        order: Literal["random", "quasi_random"] = "random",
        os_cache: bool = True,
        batches_ahead: int = 3,
        decoder: Literal["crop", "ffcv"] = "crop",
        interpolation: Interpolation = "area",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(
            interpolation in get_args(Interpolation),
            "data.interpolation",
            "area or bilinear",
            repr(interpolation),
        )
        require_at_least(1, batches_ahead=batches_ahead)
        known = order in ("random", "quasi_random")
        require(known, "data.order", "random or quasi_random", repr(order))
        require(decoder in ("crop", "ffcv"), "data.decoder", "crop or ffcv", repr(decoder))
        self.order = order
        self.os_cache = os_cache
        self.batches_ahead = batches_ahead
        self.decoder = decoder
        self.interpolation: Interpolation = interpolation
        # Imported here and not above, so that the package works without FFCV.
        self._ffcv_loader = import_module("eca_lightning.data.ffcv.loader")

    def predict_dataloader(self) -> Any:
        """Create the loader of a .beton with its labels, or of image files with labels -1."""
        if self._path("predict").suffix == ".beton":
            return self._loader("predict")
        return super().predict_dataloader()

    def _inspect(self, path: Path, name: str) -> BetonInfo:
        return check_beton(path, name)

    def _stored_size(self, source: BetonInfo) -> tuple[int, int]:
        return source.resolutions[0]

    def _load(self, source: BetonInfo, split: Split) -> EpochLoader:
        smallest, largest = source.resolutions
        crop = self._crop(split, lambda: smallest)
        crop = replace(crop, interpolation=self.interpolation)
        if crop.name == "full" and self._full_size(split) is None and smallest != largest:
            raise ValueError(
                f"data.{split}: the crop 'full' needs images of one size, but those of "
                f"{source.path} range from {smallest[0]} x {smallest[1]} to {largest[0]} x "
                f"{largest[1]} pixels: set data.{'train' if split == 'train' else 'eval'}_crop to "
                "center_crop or random_resized_crop"
            )
        pages = source.pages if self.order == "quasi_random" else None
        loader: EpochLoader = self._ffcv_loader.BetonLoader(
            source,
            crop,
            self._index_sampler(source.samples, split, pages),
            decoder=self.decoder,
            num_workers=self._workers(),
            os_cache=self.os_cache,
            batches_ahead=self.batches_ahead,
            device=self._device(),
        )
        return loader
