"""What is done to an image before a classifier sees it, in evaluation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eca_lightning.data.folder.image import open_rgb, to_rgb
from eca_lightning.data.folder.loader import cropped
from eca_lightning.data.transforms.crop import Crop, CropName, Filter
from eca_lightning.utils.checks import require

_MAX_SIZE = 10_000
INTERPOLATION = "bilinear"
"""The filter of image files, with antialiasing as Pillow's. A .beton's is area."""


@dataclass(frozen=True)
class Preprocessing:
    """Map an image to the uint8 pixels that a classifier takes, as evaluation does.

    The classifier normalizes them itself. `asdict` gives the form in which checkpoints, exported
    files and the Hub's config keep it, with the names of the data modules' options.

    Args:
        eval_crop: See :class:`~eca_lightning.data.transforms.crop.Crop`; ``full`` scales the whole
            image to ``image_size``.
        image_size: Height and width of the result in pixels.
        resize_size: For ``center_crop``: pixels to which the shorter side would be resized first.
        resize_first: For ``center_crop``: resize all of the image by this filter, then crop, as
            torchvision and timm evaluate their weights. Default: resize the crop alone, bilinearly.

    Raises:
        ValueError: If a value is out of range.
    """

    eval_crop: CropName = "center_crop"
    image_size: tuple[int, int] = (224, 224)
    resize_size: float = 256
    resize_first: Filter | None = None

    def __post_init__(self) -> None:
        self.crop()

    @classmethod
    def from_dict(cls, saved: Any) -> "Preprocessing | None":
        """Check and return what a file holds, see `to_dict`; None if it holds nothing.

        Raises:
            ValueError: If it is none of this class.
        """
        if saved is None:
            return None
        known = {"eval_crop", "image_size", "resize_size", "interpolation"}
        if not isinstance(saved, Mapping) or saved.keys() - {"resize_first"} != known:
            raise ValueError(
                f"preprocessing must have {', '.join(sorted(known))}, got {saved!s:.99}"
            )
        size, resize = saved["image_size"], saved["resize_size"]
        fits = isinstance(size, list | tuple) and len(size) == 2
        fits = fits and all(type(side) is int and 1 <= side <= _MAX_SIZE for side in size)
        require(fits, "preprocessing.image_size", f"two numbers from 1 to {_MAX_SIZE}", size)
        fits = type(resize) in (int, float) and 1 <= resize <= 100 * _MAX_SIZE
        require(fits, "preprocessing.resize_size", "a length in pixels", resize)
        crop, names = saved["eval_crop"], get_args(CropName)
        require(crop in names, "preprocessing.eval_crop", f"one of {', '.join(names)}", crop)
        used, first = saved["interpolation"], saved.get("resize_first", False)
        require(type(first) is bool, "preprocessing.resize_first", "true or false", repr(first))
        filters = get_args(Filter) if first else (INTERPOLATION,)
        require(used in filters, "preprocessing.interpolation", " or ".join(filters), repr(used))
        return cls(crop, (size[0], size[1]), resize, used if first else None)

    @classmethod
    def of_library(cls, settings: Mapping[str, Any]) -> "Preprocessing | None":
        """Return the evaluation that timm's config of some weights names; None if it names none.

        Raises:
            ValueError: If a value is out of range.
        """
        size: Any = settings.get("input_size")
        fraction, used = settings.get("crop_pct"), settings.get("interpolation")
        is_size = isinstance(size, list | tuple) and len(size) == 3
        is_fraction = isinstance(fraction, int | float) and 0.01 <= fraction <= 1
        is_known = used in get_args(Filter) and settings.get("crop_mode", "center") == "center"
        if not (is_size and is_fraction and is_known):
            return None
        height, width = size[1:]
        saved = {"eval_crop": "center_crop", "image_size": [height, width], "resize_first": True}
        saved["resize_size"] = math.floor(min(height, width) / fraction + 1e-9)
        return cls.from_dict(saved | {"interpolation": used})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the names of the data modules' options."""
        return {
            "eval_crop": self.eval_crop,
            "image_size": list(self.image_size),
            "resize_size": self.resize_size,
            "interpolation": self.resize_first or INTERPOLATION,
            **({"resize_first": True} if self.resize_first else {}),
        }

    def given(
        self, eval_crop: CropName | None, image_size: int | None, resize_size: float | None
    ) -> "Preprocessing":
        """Return this with options in place of what they replace; None keeps it.

        Without ``resize_size`` another ``image_size`` keeps the fraction that is cropped.
        """
        size = self.image_size if image_size is None else (image_size, image_size)
        crop = eval_crop or self.eval_crop
        if crop != "full" and image_size is None:
            size = (min(size), min(size))
        if resize_size is None:
            resize_size = self.resize_size * min(size) / min(self.image_size)
        return Preprocessing(crop, size, resize_size, self.resize_first)

    def crop(self) -> Crop:
        """Return the crop of evaluation images."""
        return Crop(
            self.eval_crop,
            *self.image_size,
            resize_size=self.resize_size,
            resize_first=self.resize_first,
        )

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """Map an image, or a file, to uint8 pixels of shape ``(3, height, width)``, upright.

        Raises:
            ValueError: If the file cannot be decoded.
        """
        image = to_rgb(image) if isinstance(image, Image.Image) else open_rgb(Path(image))
        pixels = np.array(cropped(image, self.crop(), 0, 0))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def __str__(self) -> str:
        height, width = self.image_size
        if self.eval_crop == "full":
            return f"the whole image, scaled to {width} x {height} pixels"
        after = f" after the shorter side is {self.resize_size:g}" * (
            self.eval_crop != "random_resized_crop"
        )
        by = f", {self.resize_first}" if self.resize_first else ""
        return f"{self.eval_crop} of {width} x {height} pixels{after}{by}"
