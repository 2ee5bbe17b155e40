"""Classification losses, on labels and on mixtures of labels."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "binary_cross_entropy"]


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    name: LossName = "cross_entropy",
    label_smoothing: float = 0.0,
    bce_target_threshold: float | None = None,
) -> Tensor:
    """Compute the mean loss of a batch, a scalar in float32 or float64.

    A row without a label has weight 0, a mixture the weight of its labeled fraction, all others 1.

    Args:
        logits: Logits (N, K).
        targets: Labels (N,) int64, -1 for none; or class probabilities (N, K) of floating point,
            which add up to 1 in each row, to less where a part has no label.
        name: ``cross_entropy``, or ``binary_cross_entropy``: each class is a binary target, and the
            loss is the mean over classes as well (Wightman et al., arXiv 2110.00476).
        label_smoothing: Fraction of each target spread evenly over all classes.
        bce_target_threshold: For ``binary_cross_entropy``, after smoothing: targets above it become
            1 and all others 0, so that each class of a mixture is fully present.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    classes = logits.shape[1]
    if targets.ndim == 1 and name == "cross_entropy":
        return F.cross_entropy(logits, targets, ignore_index=-1, label_smoothing=label_smoothing)
    if targets.ndim == 1:
        targets = soft_targets(targets, classes)
    targets = targets.to(logits.dtype)
    weights = targets.sum(dim=1, keepdim=True)
    smooth = targets * (1 - label_smoothing) + weights * (label_smoothing / classes)
    if name == "cross_entropy":  # linear in the targets, which carry the weights already
        return F.cross_entropy(logits, smooth, reduction="sum") / weights.sum()
    if bce_target_threshold is not None:
        smooth = (smooth > bce_target_threshold).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, smooth, weights, reduction="sum")
    return losses / (weights.sum() * classes)


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Map labels (N,) int64 to one-hot targets (N, K) float32; -1 becomes a row of zeros."""
    labeled = labels >= 0
    return F.one_hot(labels.where(labeled, 0), num_classes) * labeled[:, None].float()
