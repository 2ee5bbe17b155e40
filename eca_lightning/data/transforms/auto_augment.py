"""Augmentation by policies: operations drawn from a fixed set, with magnitudes in even steps.

Both are torchvision's, which published recipes use: what is moved is moved to the nearest pixel and
leaves black behind, and the ranges are torchvision's where the papers' differ.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from eca_lightning.data.transforms.augmentation import Augmentation, PixelOp, steps_of_one_parameter


@dataclass(frozen=True)
class TrivialAugment(Augmentation):
    """One operation of fourteen with one magnitude, both drawn uniformly.

    The wide space of TrivialAugment (Müller and Hutter, arXiv 2103.10158, table 1) in torchvision's
    version, ``TrivialAugmentWide``.

    Args:
        num_magnitude_bins: Magnitudes of an operation, at least 2.

    Raises:
        ValueError: A value is out of range.
    """

    stream = 2
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        self._require(self.num_magnitude_bins >= 2, "num_magnitude_bins", "at least 2")

    @property
    def draws(self) -> int:
        """The operation, the magnitude and its sign."""
        return 3

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        bins = self.num_magnitude_bins
        table = _magnitudes(bins, 0.99, 32.0, 32.0, 135.0, 0.99, 6)
        chosen = (numbers[:, 1:2] * bins).astype(np.int64)
        return _policy_steps(table, numbers[:, :1], chosen, numbers[:, 2:])


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """Some operations of fourteen, drawn uniformly, all with the same magnitude.

    Cubuk et al., arXiv 1909.13719, in torchvision's version.

    Args:
        num_ops: Operations, carried out one after the other.
        magnitude: Their magnitude, from 0 to num_magnitude_bins - 1.
        num_magnitude_bins: Magnitudes of an operation, at least 2.

    Raises:
        ValueError: A value is out of range.
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
        """The operations and the signs of their magnitudes."""
        return 2 * self.num_ops

    def steps(self, numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
        """See :meth:`Augmentation.steps`."""
        reach = 150 / 331  # the 150 of 331 pixels of AutoAugment, arXiv 1805.09501, table 6
        table = _magnitudes(
            self.num_magnitude_bins, 0.3, reach * width, reach * height, 30.0, 0.9, 4
        )
        return _policy_steps(table, numbers[:, ::2], np.int64(self.magnitude), numbers[:, 1::2])


@cache
def _magnitudes(
    bins: int,
    shear: float,
    translate_x: float,
    translate_y: float,
    degrees: float,
    change: float,
    bits: int,
) -> NDArray[np.float64]:
    """The magnitudes of the policies' operations, of shape ``(14, bins)``.

    Args:
        bins: Magnitudes of each operation, rising evenly from none to the greatest.
        shear: The greatest shear.
        translate_x: The greatest translation to a side in pixels.
        translate_y: The greatest translation up or down in pixels.
        degrees: The greatest angle.
        change: How far factors go from 1.
        bits: How many of eight bits posterising takes away.
    """
    greatest = [0, shear, shear, translate_x, translate_y, degrees, *[change] * 4]
    # In float32, as torchvision has them: translations are cut to whole pixels and thresholds
    # compared with whole levels, so that another rounding would be another magnitude.
    rows = [torch.linspace(0.0, end, bins) for end in greatest]
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
    """Steps of operations drawn from a table of magnitudes.

    Args:
        table: See :func:`_magnitudes`.
        choices: Uniform numbers that choose the operations, of shape ``(N, steps)``.
        levels: Columns of the table, of the same shape or one for all.
        signs: Uniform numbers that choose the signs, of the same shape.
    """
    codes = (choices * len(table)).astype(np.int64)
    values = table[codes, levels]
    signed = (codes >= PixelOp.SHEAR_X) & (codes <= PixelOp.SHARPNESS)
    values = np.where(signed & (signs < 0.5), -values, values)
    is_factor = (codes >= PixelOp.BRIGHTNESS) & (codes <= PixelOp.SHARPNESS)
    return steps_of_one_parameter(codes.astype(float), values + is_factor)
