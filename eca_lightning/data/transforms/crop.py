"""Crop, flip and augmentations of each sample, as a pure function of seed, epoch and sample index.

All randomness of the input pixels comes from here. It is counter-based, so that a sample gets the
same pixels for any number of workers and ranks and any batch size, and a resumed run restores no
generator state. FFCV's and torchvision's random crops draw from generators that depend on all of
these.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eca_lightning.data.transforms.augmentation import STEP_LENGTH, Augmentation
from eca_lightning.utils.checks import require

CropName = Literal["random_resized_crop", "center_crop", "full"]
Filter = Literal["bilinear", "bicubic"]
Interpolation = Literal["area", "bilinear"]

ATTEMPTS = 10
"""Boxes tried before falling back to a center box, as in torchvision's RandomResizedCrop."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) elementwise."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniforms(
    seed: int, epoch: int, samples: ArrayLike, draws: int, *stream: int
) -> NDArray[np.float64]:
    """Draw independent uniform numbers for each sample from its own SplitMix64 stream.

    Args:
        seed: Seed of the run, at least 0.
        epoch: Number of the epoch, from 0.
        samples: Sample indices of shape ``(N,)``.
        draws: Numbers for each sample.
        *stream: Distinguishes these numbers from others of the same sample.

    Returns:
        Numbers in [0, 1) of shape ``(N, draws)``. The first k columns do not depend on ``draws``.
    """
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, samples, *stream):
        key = _mix(key + np.asarray(part).astype(np.uint64) + GOLDEN)
    counters = np.arange(1, draws + 1, dtype=np.uint64) * GOLDEN
    return (_mix(key[:, None] + counters) >> np.uint64(11)) * 2.0**-53


def random_flips(seed: int, epoch: int, samples: ArrayLike) -> NDArray[np.bool_]:
    """Draw which samples of an epoch are flipped, each with probability 0.5, of shape ``(N,)``."""
    return uniforms(seed, epoch, samples, 1)[:, 0] < 0.5


def random_resized_crops(
    numbers: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Draw the boxes of torchvision's RandomResizedCrop (Szegedy et al., arXiv 1409.4842, sec. 6).

    Args:
        numbers: Uniform numbers of shape ``(N, 2 + 2 * ATTEMPTS)``.
        heights: Heights of the images in pixels, shape ``(N,)``.
        widths: Their widths.
        scale: Minimum and maximum fraction of the area.
        ratio: Minimum and maximum aspect ratio, width over height.

    Returns:
        Rows of (top, left, height, width) in pixels, of shape ``(N, 4)``.
    """
    areas = (heights * widths)[:, None] * (scale[0] + numbers[:, 2::2] * (scale[1] - scale[0]))
    log_ratio = np.log(ratio)
    ratios = np.exp(log_ratio[0] + numbers[:, 3::2] * (log_ratio[1] - log_ratio[0]))
    tried_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    tried_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (tried_widths > 0) & (tried_widths <= widths[:, None])
    fits &= (tried_heights > 0) & (tried_heights <= heights[:, None])
    rows, first = np.arange(len(fits)), np.argmax(fits, axis=1)
    found = fits[rows, first]
    sides, offsets = [], []
    for tried, lengths, largest, number in (
        (tried_heights, heights, np.rint(widths / ratio[0]), numbers[:, 0]),
        (tried_widths, widths, np.rint(heights * ratio[1]), numbers[:, 1]),
    ):
        # Where none fits, the largest center box of an allowed aspect ratio.
        center = np.minimum(lengths, largest.clip(1))
        side = np.where(found, tried[rows, first], center).astype(np.int64)
        offset = np.where(found, number * (lengths - side + 1), (lengths - side) // 2)
        sides.append(side)
        offsets.append(offset.astype(np.int64))
    return np.stack([*offsets, *sides], axis=1)


def resized_center_crops(
    heights: NDArray[np.int64], widths: NDArray[np.int64], resize_size: int, size: int
) -> NDArray[np.float64]:
    """Compute what torchvision's ``Resize(resize_size)`` and ``CenterCrop(size)`` leave.

    Returns:
        Rows of (top, left, height, width) in pixels of the image, of shape ``(N, 4)``.
    """
    shorter = np.minimum(heights, widths)
    offsets, sides = [], []
    for lengths in (heights, widths):
        resized = resize_size * lengths // shorter
        scale = lengths / resized
        offsets.append(np.rint((resized - size) / 2) * scale)
        sides.append(size * scale)
    return np.stack([*offsets, *sides], axis=1)


@dataclass(frozen=True)
class Crop:
    """Map each sample of an epoch to its crop, its flip and the augmentations of the crop.

    Args:
        name: ``random_resized_crop``, ``center_crop`` (the center square that would be left if the
            shorter side were resized to ``resize_size`` and the middle ``height`` pixels kept) or
            ``full`` (the whole image).
        height, width: Size of the output in pixels.
        resize_size: See ``center_crop``.
        scale, ratio: See `random_resized_crops`.
        flip: Flip each sample horizontally with probability 0.5.
        seed: Seed of all random choices, at least 0.
        augment: Augmentations after crop and flip, in this order.
        interpolation: How .beton files are resized. With ``bilinear``, ``center_crop`` is
            torchvision's Resize and CenterCrop to the pixel: its boxes have fractions.
        resize_first: For ``center_crop`` of image files: resize all of the image by this filter,
            then crop, as torchvision and timm evaluate. Default: resize the crop alone.

    Raises:
        ValueError: If a value is out of range.
    """

    name: CropName
    height: int
    width: int
    resize_size: float = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    seed: int = 0
    augment: tuple[Augmentation, ...] = ()
    interpolation: Interpolation = "area"
    resize_first: Filter | None = None

    def __post_init__(self) -> None:
        names = get_args(CropName)
        require(self.name in names, "crop", f"one of {', '.join(names)}", repr(self.name))
        known = self.interpolation in get_args(Interpolation)
        require(known, "interpolation", "area or bilinear", repr(self.interpolation))
        size = min(self.height, self.width)
        require(size >= 1, "image_size", "at least 1", size)
        if self.name == "center_crop":
            allowed = f"at least image_size, {self.height}, for the crop 'center_crop'"
            require(self.resize_size >= self.height, "resize_size", allowed, self.resize_size)
        increasing = 0 < self.scale[0] <= self.scale[1] <= 1
        require(increasing, "scale", "two increasing fractions in (0, 1]", self.scale)
        increasing = 0 < self.ratio[0] <= self.ratio[1]
        require(increasing, "ratio", "two increasing numbers above 0", self.ratio)
        require(self.seed >= 0, "seed", "at least 0", self.seed)

    def resized(self, size: int) -> "Crop":
        """Return this crop with square outputs of another size.

        Raises:
            ValueError: If the crop is ``full``, whose images keep the size they are stored in, or
                the size is out of range.
        """
        if self.name == "full":
            raise ValueError(
                "the crop 'full' keeps images at the size they are stored in: set data.train_crop "
                "to random_resized_crop to train at another size"
            )
        return replace(self, height=size, width=size)

    def boxes(
        self, samples: ArrayLike, heights: ArrayLike, widths: ArrayLike, epoch: int
    ) -> NDArray[Any]:
        """Compute the crop boxes and flips of some samples in one epoch.

        Args:
            samples: Sample indices of shape ``(N,)``.
            heights: Heights of their images in pixels, shape ``(N,)``.
            widths: Their widths.
            epoch: Number of the epoch, from 0.

        Returns:
            Rows of (top, left, height, width, flip), in pixels of the image and flip 0 or 1, of
            shape ``(N, 5)``: whole numbers, but of a bilinear center crop, float64. Each box lies
            inside its image.
        """
        heights, widths = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
        numbers = uniforms(self.seed, epoch, samples, 3 + 2 * ATTEMPTS)
        boxes: NDArray[Any]
        if self.name == "random_resized_crop":
            boxes = random_resized_crops(numbers[:, 1:], heights, widths, self.scale, self.ratio)
        elif self.name == "center_crop" and self.interpolation == "bilinear":
            boxes = resized_center_crops(heights, widths, int(self.resize_size), self.height)
        elif self.name == "center_crop":
            sides = np.minimum(heights, widths) * self.height / self.resize_size
            sides = np.floor(sides + 1e-6).astype(np.int64).clip(1)  # of 256 / 0.875 as well
            boxes = np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)
        else:
            zeros = np.zeros_like(heights)
            boxes = np.stack([zeros, zeros, heights, widths], axis=1)
        flips = random_flips(self.seed, epoch, samples)[:, None] & self.flip
        return np.concatenate([boxes, flips], axis=1)

    def steps(self, samples: ArrayLike, epoch: int) -> NDArray[np.float64]:
        """Compute the augmentations of some samples in one epoch, see `Augmentation.steps`.

        Each augmentation has its own random stream: crops, flips and the other augmentations stay
        the same when one is added, moved or removed.
        """
        steps = [np.zeros((len(np.asarray(samples)), 0, STEP_LENGTH))]
        used: Counter[int] = Counter()
        for augmentation in self.augment:
            stream = augmentation.stream
            numbers = uniforms(self.seed, epoch, samples, augmentation.draws, stream, used[stream])
            used[stream] += 1
            steps.append(augmentation.steps(numbers, self.height, self.width))
        return np.concatenate(steps, axis=1)
