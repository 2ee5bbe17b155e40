"""Augmentations of training images after crop and flip.

An augmentation has no random generator: it maps uniform numbers, which come from `crop.Crop.steps`,
to steps. `ffcv.numba_ops` applies them to the pixels of a .beton, `torchvision_ops` to those of
image files. The distributions are those of torchvision's transforms v2 of the same names, whose
generators depend on the workers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eca_lightning.utils.checks import require

STEP_LENGTH = 8
"""Numbers per step: a :class:`PixelOp` and up to seven parameters, 0 where unused."""

ATTEMPTS = 10
"""Rectangles tried before a sample is left unchanged, as in torchvision's RandomErasing."""


class PixelOp(IntEnum):
    """The operation of a step, with its parameters.

    `numba_ops` has these numbers in compiled code that is cached: add new ones, change none. The
    first fourteen are in the order of torchvision's policies.
    """

    IDENTITY = 0
    SHEAR_X = 1  # pixels to the left per pixel downwards
    SHEAR_Y = 2  # pixels upwards per pixel to the right
    TRANSLATE_X = 3  # pixels to the right
    TRANSLATE_Y = 4  # pixels downwards
    ROTATE = 5  # degrees counterclockwise
    BRIGHTNESS = 6  # factor
    SATURATION = 7  # factor
    CONTRAST = 8  # factor
    SHARPNESS = 9  # factor
    POSTERIZE = 10  # bits kept
    SOLARIZE = 11  # minimum level that is inverted
    AUTO_CONTRAST = 12
    EQUALIZE = 13
    HUE = 14  # fraction of the circle
    ERASE = 15  # top, left, height, width, red, green, blue


class Augmentation(ABC):
    """A random transform of an image as a pure function of uniform numbers.

    Attributes:
        stream: Number of the class, which gives it its own random numbers.
    """

    stream: ClassVar[int]

    @property
    @abstractmethod
    def draws(self) -> int:
        """Uniform numbers per sample."""

    @abstractmethod
    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """Map uniform numbers to the steps of some samples.

        Args:
            numbers: Uniform numbers in [0, 1) of shape ``(N, draws)``.
            height: Height of the images in pixels.
            width: Their width.

        Returns:
            Steps in the order in which to apply them, of shape ``(N, steps, STEP_LENGTH)``. Their
            number depends neither on the uniform numbers nor on the size.
        """

    def _require(self, holds: bool, name: str, range_: str) -> None:
        require(holds, f"data.augment: {type(self).__name__}.{name}", range_, getattr(self, name))


def one_parameter_steps(
    codes: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Build steps from operations and their single parameters, both of shape ``(N, steps)``."""
    steps = np.zeros((*codes.shape, STEP_LENGTH))
    steps[..., 0], steps[..., 1] = codes, values
    return steps


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue by random amounts in random order.

    Args:
        brightness: The factor is drawn from 1 - brightness (at least 0) to 1 + brightness; 0 to
            omit it.
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: The hue is shifted by -hue to hue of the circle, at most 0.5; 0 to omit it.

    Raises:
        ValueError: If a value is out of range.
    """

    stream = 1
    draws = 8  # four for the order and four for the amounts
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "hue"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        self._require(self.hue <= 0.5, "hue", "at most 0.5")

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        centers = np.array([1.0, 1.0, 1.0, 0.0])
        lows = np.where(centers > 0, (centers - strengths).clip(0), -strengths)
        values = lows + numbers[:, 4:] * (centers + strengths - lows)
        operations = [PixelOp.BRIGHTNESS, PixelOp.CONTRAST, PixelOp.SATURATION, PixelOp.HUE]
        codes = np.array(operations, float)
        used = np.flatnonzero(strengths)
        order = used[np.argsort(numbers[:, used], axis=1)]
        return one_parameter_steps(codes[order], np.take_along_axis(values, order, axis=1))


@dataclass(frozen=True)
class RandomErasing(Augmentation):
    """Fill a random rectangle with one color (Zhong et al., arXiv 1708.04896, algorithm 1).

    Args:
        probability: Probability that a sample is erased.
        scale: Minimum and maximum fraction of the area.
        ratio: Minimum and maximum aspect ratio, height over width.
        fill: Red, green and blue from 0 to 255; by default ImageNet's mean, which becomes 0 by
            normalization.

    Raises:
        ValueError: If a value is out of range.
    """

    stream = 4
    draws = 3 + 2 * ATTEMPTS  # whether, where, and the area and aspect ratio of each attempt
    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        self._require(0 <= self.probability <= 1, "probability", "from 0 to 1")
        (low, high), (flat, tall) = self.scale, self.ratio
        self._require(0 < low <= high <= 1, "scale", "two increasing fractions in (0, 1]")
        self._require(0 < flat <= tall, "ratio", "two increasing numbers above 0")
        self._require(all(0 <= level <= 255 for level in self.fill), "fill", "from 0 to 255 each")

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        low, high = self.scale
        areas = height * width * (low + numbers[:, 3::2] * (high - low))
        low, high = np.log(self.ratio)
        ratios = np.exp(low + numbers[:, 4::2] * (high - low))
        heights, widths = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (heights < height) & (widths < width)
        tried = np.arange(len(numbers)), np.argmax(fits, axis=1)
        heights, widths = heights[tried], widths[tried]
        tops = np.floor(numbers[:, 1] * (height - heights + 1))
        lefts = np.floor(numbers[:, 2] * (width - widths + 1))
        steps = np.empty((len(numbers), 1, STEP_LENGTH))
        steps[:, 0, 0], steps[:, 0, 5:] = PixelOp.ERASE, self.fill
        steps[:, 0, 1:5] = np.stack([tops, lefts, heights, widths], axis=1)
        steps[~fits[tried] | (numbers[:, 0] >= self.probability)] = 0
        return steps
