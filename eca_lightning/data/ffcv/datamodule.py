"""The data module for .beton files, streamed by FFCV."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from eca_lightning.data.datamodule import ClassificationDataModule
from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.ffcv.format import BetonInfo, check_beton
from eca_lightning.data.transforms.crop import CropName
from eca_lightning.utils.checks import require_at_least


class FFCVDataModule(ClassificationDataModule):
    """Batches from .beton files (``eca-lightning data write``), decoded in threads.

    ``train``, ``val`` and ``test`` are .beton files; ``predict`` is one, or any image files.

    Args:
        order: Order of training samples. ``random`` mixes all of them. ``quasi_random`` mixes
            those of 64 pages (8 MiB each) at a time, which reads each page once an epoch: for
            files larger than memory, with os_cache off. Both are exact: reproducible from the
            seed, disjoint over ranks and resumed at the next batch.
        os_cache: Map the files and let the operating system cache them; all ranks of a machine
            share one copy. Turn it off for files larger than memory.
        batches_ahead: Batches that are decoded in advance.
        decoder: ``crop`` decodes of each image no more than its crop, and resizes it, with the
            package's own decoder; ``ffcv`` does so with FFCV's and OpenCV's, which is what happens
            where ours was not built.
        **kwargs: See :class:`~eca_lightning.data.datamodule.ClassificationDataModule`.

    Raises:
        ImportError: FFCV is not installed; the message says what to install, or use instead.
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        order: Literal["random", "quasi_random"] = "random",
        os_cache: bool = True,
        batches_ahead: int = 3,
        decoder: Literal["crop", "ffcv"] = "crop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, batches_ahead=batches_ahead)
        if order not in ("random", "quasi_random"):
            raise ValueError(f"data.order must be random or quasi_random, got {order!r}")
        if decoder not in ("crop", "ffcv"):
            raise ValueError(f"data.decoder must be crop or ffcv, got {decoder!r}")
        self.order = order
        self.os_cache = os_cache
        self.batches_ahead = batches_ahead
        self.decoder = decoder
        # FFCV is imported when it is needed and not before, but a missing one is noticed here.
        self._streaming = import_module("eca_lightning.data.ffcv.loader")

    def predict_dataloader(self) -> Any:
        """Batches of a .beton with its labels, or of image files with labels -1."""
        if self._path("predict").suffix == ".beton":
            return self._loader("predict", self.eval_crop)
        return super().predict_dataloader()

    def _look_at(self, path: Path, name: str) -> BetonInfo:
        return check_beton(path, name)

    def _load(self, source: BetonInfo, name: str, crop: CropName, train: bool) -> EpochLoader:
        least, greatest = source.resolutions
        if crop == "full" and least != greatest:
            raise ValueError(
                f"{name}: the crop 'full' needs images of one size, but those of {source.path} "
                f"range from {least[0]} x {least[1]} to {greatest[0]} x {greatest[1]} pixels; "
                "use 'center_crop' or 'random_resized_crop'"
            )
        pages = source.pages if train and self.order == "quasi_random" else None
        loader: EpochLoader = self._streaming.BetonLoader(
            source,
            self._crop(crop, train, least),
            self._index_sampler(source.samples, train, pages),
            decoder=self.decoder,
            num_workers=self._workers(),
            os_cache=self.os_cache,
            batches_ahead=self.batches_ahead,
            device=self._device(),
        )
        return loader
