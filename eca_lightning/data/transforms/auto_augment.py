"""Augmentation policies: random operations from a fixed set, with evenly spaced magnitudes.

Both are torchvision's, which published recipes use: geometric operations sample the nearest pixel
and fill with black, and the ranges are torchvision's where the papers' differ.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from eca_lightning.data.transforms.augmentation import Augmentation, PixelOp, one_parameter_steps


@dataclass(frozen=True)
class TrivialAugment(Augmentation):
    """Apply one of fourteen operations with one magnitude, both drawn uniformly.

    The wide space of TrivialAugment (Müller and Hutter, arXiv 2103.10158, table 1) in torchvision's
    version, ``TrivialAugmentWide``.

    Args:
        num_magnitude_bins: Number of magnitudes per operation, at least 2.

    Raises:
        ValueError: If a value is out of range.
    """

    stream = 2
    draws = 3  # operation, magnitude and sign
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        self._require(self.num_magnitude_bins >= 2, "num_magnitude_bins", "at least 2")

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        table = _magnitudes(self.num_magnitude_bins, 0.99, 32.0, 32.0, 135.0, 0.99, 6)
        levels = (numbers[:, 1:2] * self.num_magnitude_bins).astype(np.int64)
        return _policy_steps(table, numbers[:, :1], levels, numbers[:, 2:])


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """Apply some of fourteen operations, drawn uniformly, all with the same magnitude.

    Cubuk et al., arXiv 1909.13719, in torchvision's version.

    Args:
        num_ops: Number of operations, applied in succession.
        magnitude: Their magnitude, from 0 to num_magnitude_bins - 1.
        num_magnitude_bins: Number of magnitudes per operation, at least 2.

    Raises:
        ValueError: If a value is out of range.
    """

    stream = 3
    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        self._require(self.num_ops >= 1, "num_ops", "at least 1")
        self._require(self.num_magnitude_bins >= 2, "num_magnitude_bins", "at least 2")
        highest = self.num_magnitude_bins - 1
        self._require(0 <= self.magnitude <= highest, "magnitude", f"from 0 to {highest}")

    @property
    def draws(self) -> int:
        """Operations and signs."""
        return 2 * self.num_ops

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        extent = 150 / 331  # the 150 of 331 pixels of AutoAugment, arXiv 1805.09501, table 6
        right, down = extent * width, extent * height
        table = _magnitudes(self.num_magnitude_bins, 0.3, right, down, 30.0, 0.9, 4)
        return _policy_steps(table, numbers[:, ::2], np.int64(self.magnitude), numbers[:, 1::2])


@cache
def _magnitudes(
    bins: int, shear: float, right: float, down: float, degrees: float, change: float, bits: int
) -> NDArray[np.float64]:
    """Compute the magnitudes of the policies' operations, of shape ``(14, bins)``.

    The ``bins`` of each are evenly spaced from none to the maximum: a shear, translations right and
    down in pixels, a rotation, a difference of factors from 1, posterized bits.
    """
    maxima = [0, shear, shear, right, down, degrees, *[change] * 4]
    # In float32 as in torchvision: translations are truncated to whole pixels and thresholds are
    # compared with whole levels, so that another rounding would give another magnitude.
    rows = [torch.linspace(0.0, end, bins) for end in maxima]
    rows.append((8 - torch.arange(bins) / ((bins - 1) / bits)).round())
    rows.append(torch.linspace(1.0, 0.0, bins))
    table = np.zeros((PixelOp.EQUALIZE + 1, bins))
    table[: len(rows)] = torch.stack(rows).numpy()
    translations = [PixelOp.TRANSLATE_X, PixelOp.TRANSLATE_Y]
    table[translations] = np.trunc(table[translations])
    table[PixelOp.SOLARIZE] *= 255
    return table


def _policy_steps(
    table: NDArray[np.float64],
    choices: NDArray[np.float64],
    levels: NDArray[np.int64] | np.int64,
    signs: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Build the steps of random operations of a table of magnitudes.

    Uniform numbers of shape ``(N, steps)`` select operations and signs; ``levels`` are columns of
    the table, of the same shape or one for all.
    """
    codes = (choices * len(table)).astype(np.int64)
    values = table[codes, levels]
    signed = (codes >= PixelOp.SHEAR_X) & (codes <= PixelOp.SHARPNESS)
    values = np.where(signed & (signs < 0.5), -values, values)
    is_factor = (codes >= PixelOp.BRIGHTNESS) & (codes <= PixelOp.SHARPNESS)
    return one_parameter_steps(codes.astype(float), values + is_factor)
