"""What is done to an image before a classifier sees it, in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eca_lightning.data.folder.image import open_rgb, to_rgb
from eca_lightning.data.folder.loader import resized_crop
from eca_lightning.data.transforms.crop import Crop, CropName
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

    Raises:
        ValueError: If a value is out of range.
    """

    eval_crop: CropName = "center_crop"
    image_size: tuple[int, int] = (224, 224)
    resize_size: float = 256

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
        if not isinstance(saved, Mapping) or saved.keys() != known:
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
        used = saved["interpolation"]
        require(used == INTERPOLATION, "preprocessing.interpolation", INTERPOLATION, repr(used))
        return cls(crop, (size[0], size[1]), resize)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the names of the data modules' options."""
        return {
            "eval_crop": self.eval_crop,
            "image_size": list(self.image_size),
            "resize_size": self.resize_size,
            "interpolation": INTERPOLATION,
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
        return Preprocessing(crop, size, resize_size)

    def crop(self) -> Crop:
        """Return the crop of evaluation images."""
        return Crop(self.eval_crop, *self.image_size, resize_size=self.resize_size)

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """Map an image, or a file, to uint8 pixels of shape ``(3, height, width)``, upright.

        Raises:
            ValueError: If the file cannot be decoded.
        """
        image = to_rgb(image) if isinstance(image, Image.Image) else open_rgb(Path(image))
        (box,) = self.crop().boxes([0], [image.height], [image.width], 0)
        pixels = np.array(resized_crop(image, box, *self.image_size))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def __str__(self) -> str:
        height, width = self.image_size
        if self.eval_crop == "full":
            return f"the whole image, scaled to {width} x {height} pixels"
        after = f" after the shorter side is {self.resize_size:g}" * (
            self.eval_crop != "random_resized_crop"
        )
        return f"{self.eval_crop} of {width} x {height} pixels{after}"
