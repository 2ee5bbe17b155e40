"""What a network sees of an image: the crop, the output size, the flip and the augmentations.

All randomness of the input lies in this file. It is a counter-based function of (seed, epoch,
sample index), so a sample gets the same pixels whatever the number of workers, ranks or batch size,
and a resumed run needs no state of any generator. FFCV's and torchvision's own random crops draw
from generators that depend on all of these.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eca_lightning.data.transforms.augmentation import STEP_LENGTH, Augmentation

ViewName = Literal["random_resized_crop", "center_crop", "full"]

ATTEMPTS = 10
"""Boxes tried before falling back to a center box, as in torchvision's RandomResizedCrop."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), elementwise."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniforms(
    seed: int, epoch: int, samples: ArrayLike, draws: int, *stream: int
) -> NDArray[np.float64]:
    """Independent uniform numbers for each sample: SplitMix64 streams, one for each sample.

    Args:
        seed: Seed of the run, not negative.
        epoch: Number of the epoch, from 0.
        samples: Sample indices of shape ``(N,)``.
        draws: Numbers for each sample.
        *stream: What keeps these numbers apart from others of the same sample.

    Returns:
        Numbers in [0, 1) of shape ``(N, draws)``. The first k columns do not depend on ``draws``.
    """
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, samples, *stream):
        key = _mix(key + np.asarray(part).astype(np.uint64) + GOLDEN)
    counters = np.arange(1, draws + 1, dtype=np.uint64) * GOLDEN
    return (_mix(key[:, None] + counters) >> np.uint64(11)) * 2.0**-53


def random_resized_boxes(
    numbers: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """The boxes of torchvision's RandomResizedCrop (Szegedy et al., arXiv 1409.4842, section 6).

    Args:
        numbers: Uniform numbers of shape ``(N, 2 + 2 * ATTEMPTS)``.
        heights: Heights of the images in pixels, shape ``(N,)``.
        widths: Widths of the images in pixels, shape ``(N,)``.
        scale: Least and greatest share of the area.
        ratio: Least and greatest width over height.

    Returns:
        Rows of (top, left, height, width) in pixels, of shape ``(N, 4)``.
    """
    areas = (heights * widths)[:, None] * (scale[0] + numbers[:, 2::2] * (scale[1] - scale[0]))
    log_ratio = np.log(ratio)
    ratios = np.exp(log_ratio[0] + numbers[:, 3::2] * (log_ratio[1] - log_ratio[0]))
    tried_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    tried_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (
        (tried_widths > 0)
        & (tried_widths <= widths[:, None])
        & (tried_heights > 0)
        & (tried_heights <= heights[:, None])
    )
    first = np.argmax(fits, axis=1)
    rows = np.arange(len(first))
    box_heights, box_widths = tried_heights[rows, first], tried_widths[rows, first]
    tops = (numbers[:, 0] * (heights - box_heights + 1)).astype(np.int64)
    lefts = (numbers[:, 1] * (widths - box_widths + 1)).astype(np.int64)

    none_fits = ~fits[rows, first]
    if none_fits.any():
        # The largest center box whose shape is allowed.
        box_heights = np.where(
            none_fits, np.minimum(heights, np.rint(widths / ratio[0]).clip(1)), box_heights
        ).astype(np.int64)
        box_widths = np.where(
            none_fits, np.minimum(widths, np.rint(heights * ratio[1]).clip(1)), box_widths
        ).astype(np.int64)
        tops = np.where(none_fits, (heights - box_heights) // 2, tops)
        lefts = np.where(none_fits, (widths - box_widths) // 2, lefts)
    return np.stack([tops, lefts, box_heights, box_widths], axis=1)


@dataclass(frozen=True)
class View:
    """A rule that gives each sample its crop and what is done to the crop.

    Args:
        name: ``random_resized_crop``, ``center_crop`` (the center square that would be left if the
            shorter side were resized to ``resize_size`` and the middle ``height`` pixels kept) or
            ``full`` (the whole image).
        height: Height of the output in pixels.
        width: Width of the output in pixels.
        resize_size: For ``center_crop``, see there.
        scale: For ``random_resized_crop``, least and greatest share of the area.
        ratio: For ``random_resized_crop``, least and greatest width over height.
        flip: Mirror every other sample horizontally, at random.
        seed: Seed of all random choices, not negative.
        augment: What else is changed at random, in this order, after crop and flip.

    Raises:
        ValueError: A value is out of range.
    """

    name: ViewName
    height: int
    width: int
    resize_size: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    seed: int = 0
    augment: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in get_args(ViewName):
            raise ValueError(f"a view must be one of {get_args(ViewName)}, got {self.name!r}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image_size must be at least 1, got {self.height} x {self.width}")
        if self.name == "center_crop" and self.resize_size < self.height:
            raise ValueError(
                f"resize_size must be at least image_size for the view 'center_crop', "
                f"got {self.resize_size} and {self.height}"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two rising shares in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two rising numbers above 0, got {self.ratio}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    def crops(
        self, samples: ArrayLike, heights: ArrayLike, widths: ArrayLike, epoch: int
    ) -> NDArray[np.int64]:
        """The crops of some samples in one epoch.

        Args:
            samples: Sample indices of shape ``(N,)``.
            heights: Heights of the images in pixels, shape ``(N,)``.
            widths: Widths of the images in pixels, shape ``(N,)``.
            epoch: Number of the epoch, from 0.

        Returns:
            Rows of (top, left, height, width, flip), in pixels of the image and flip 0 or 1, of
            shape ``(N, 5)``. Each box lies inside its image.
        """
        heights = np.asarray(heights, np.int64)
        widths = np.asarray(widths, np.int64)
        numbers = uniforms(self.seed, epoch, samples, 3 + 2 * ATTEMPTS)
        if self.name == "random_resized_crop":
            boxes = random_resized_boxes(numbers[:, 1:], heights, widths, self.scale, self.ratio)
        elif self.name == "center_crop":
            sides = (np.minimum(heights, widths) * self.height // self.resize_size).clip(1)
            boxes = np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)
        else:
            zeros = np.zeros_like(heights)
            boxes = np.stack([zeros, zeros, heights, widths], axis=1)
        flips = (numbers[:, :1] < 0.5) & self.flip
        return np.concatenate([boxes, flips], axis=1)

    def steps(self, samples: ArrayLike, epoch: int) -> NDArray[np.float64]:
        """The augmentations of some samples in one epoch.

        Each augmentation has numbers of its own: those of crops, flips and the others stay as they
        are when it is added, moved or taken away.

        Args:
            samples: Sample indices of shape ``(N,)``.
            epoch: Number of the epoch, from 0.

        Returns:
            Rows of an operation and its parameters, in the order in which to carry them out on the
            crop, of shape ``(N, steps, STEP_LENGTH)``. The number of steps is that of the view.
        """
        steps = [np.zeros((len(np.asarray(samples)), 0, STEP_LENGTH))]
        used: Counter[int] = Counter()
        for augmentation in self.augment:
            stream = augmentation.stream
            numbers = uniforms(self.seed, epoch, samples, augmentation.draws, stream, used[stream])
            used[stream] += 1
            steps.append(augmentation.steps(numbers, self.height, self.width))
        return np.concatenate(steps, axis=1)
