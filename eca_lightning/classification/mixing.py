"""Mixup and CutMix: mix pairs of images and their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from eca_lightning.classification.losses import soft_targets


@dataclass(frozen=True)
class Mixing:
    """Mix the images of a training batch, with one method and one ratio per batch.

    Each image is mixed with the one before it in the batch. If both methods are given, each batch
    uses one of them with equal probability. Random numbers are those of torch's CPU generator.

    Args:
        mixup: Alpha of mixup, which blends two images (Zhang et al., arXiv 1710.09412): the
            fraction of the first is Beta(alpha, alpha) distributed. 0 leaves mixup out.
        cutmix: Alpha of CutMix, which pastes a box of one image into another (Yun et al., arXiv
            1905.04899), the fraction of the area distributed likewise. 0 leaves CutMix out.
        probability: Probability that a batch is mixed.

    Raises:
        ValueError: If a value is out of range, or both methods are left out.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or max(self.mixup, self.cutmix) == 0:
            raise ValueError(
                "mixing needs an alpha above 0 for mixup, cutmix or both, "
                f"got {self.mixup} and {self.cutmix}"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"mixing.probability must be from 0 to 1, got {self.probability}")

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix normalized images (N, C, H, W) and labels (N,) int64, -1 for rows without one.

        Returns:
            Images as before, and targets (N, num_classes) float32 which add up to 1 in each row; to
            less where a row without a label is mixed in.
        """
        targets = soft_targets(labels, num_classes)
        choices = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
        methods = [make(alpha=alpha, num_classes=num_classes) for make, alpha in choices if alpha]
        if torch.rand(()) >= self.probability:
            return images, targets
        return methods[int(torch.randint(len(methods), ()))](images, targets)
