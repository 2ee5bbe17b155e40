"""Classification losses, on labels and on mixtures of labels."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eca_lightning.utils.checks import require

LossName = Literal["cross_entropy", "binary_cross_entropy"]

ClassWeights = Literal["balanced"] | list[float]
"""One weight for each class, or those by which all classes weigh the same in an epoch."""


class FocalLoss(nn.Module):
    """Cross-entropy that counts less the more probable the right class is already.

    Lin et al., arXiv 1708.02002, equation 4, on softmax probabilities: ``-(1 - p)^gamma log p``.

    Args:
        gamma: Exponent; 0 is cross-entropy.

    Raises:
        ValueError: If ``gamma`` is negative.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        require(0 <= gamma < float("inf"), "FocalLoss: gamma", "at least 0", gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map logits (N, K) and targets, (N,) int64 or (N, K), to the loss of each row (N,)."""
        if targets.ndim == 1:
            targets = soft_targets(targets, logits.shape[1])
        logs = logits.log_softmax(dim=1)
        # The power of 0 has no finite derivative for a gamma below 1.
        others = (1 - logs.exp()).clamp(min=torch.finfo(logs.dtype).tiny)
        return -(targets * others**self.gamma * logs).sum(dim=1)

    def extra_repr(self) -> str:
        """Show the exponent."""
        return f"gamma={self.gamma}"


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    loss: LossName | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    label_smoothing: float = 0.0,
    bce_target_threshold: float | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Compute the mean loss of a batch, a scalar in float32 or float64.

    A row without a label has weight 0, a mixture the weight of its labeled fraction, all others 1;
    each times the weight of its class, of a mixture the mean of its classes. The mean is divided by
    the sum of the weights.

    Args:
        logits: Logits (N, K).
        targets: Labels (N,) int64, -1 for none; or class probabilities (N, K) of floating point,
            which add up to 1 in each row, to less where a part has no label.
        loss: ``cross_entropy``; or ``binary_cross_entropy``: each class is a binary target, and the
            loss is the mean over classes as well (Wightman et al., arXiv 2110.00476); or a function
            of logits and targets that returns the loss of each row (N,), or their mean.
        label_smoothing: Fraction of each target spread evenly over all classes.
        bce_target_threshold: For ``binary_cross_entropy``, after smoothing: targets above it become
            1 and all others 0, so that each class of a mixture is fully present.
        class_weights: Weight of each class (K,). Default: 1.

    Raises:
        ValueError: If a function returns a mean, and classes have weights.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    classes = logits.shape[1]
    labels_alone = targets.ndim == 1
    if labels_alone and loss == "cross_entropy" and class_weights is None:
        return F.cross_entropy(logits, targets, ignore_index=-1, label_smoothing=label_smoothing)
    soft = (soft_targets(targets, classes) if labels_alone else targets).to(logits.dtype)
    mass = soft.sum(dim=1)
    smooth = soft * (1 - label_smoothing) + mass[:, None] * (label_smoothing / classes)
    # The loss of each row, times its labeled fraction.
    if not isinstance(loss, str):
        rows = loss(logits, targets)
    elif loss == "cross_entropy":  # linear in the targets
        rows = F.cross_entropy(logits, smooth, reduction="none")
    else:
        if bce_target_threshold is not None:
            smooth = (smooth > bce_target_threshold).to(logits.dtype)
        rows = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=1)
        rows = rows * mass
    if class_weights is None:
        return rows if rows.ndim == 0 else rows.sum() / mass.sum()
    if rows.ndim == 0:
        raise ValueError(
            f"model.class_weights: {type(loss).__name__} returns the mean of a batch: have it "
            "return the loss of each row, as losses of torch do with reduction: none"
        )
    weights = soft @ class_weights.to(soft.dtype)
    of_class = weights / mass.clamp(min=torch.finfo(mass.dtype).tiny)
    return (rows * of_class).sum() / weights.sum()


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Return the weights by which all classes weigh the same, (K,) float32, of mean 1 over images.

    They are scikit-learn's ``compute_class_weight("balanced")``; 0 for a class without images.

    Args:
        counts: Training images of each class.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    present = images > 0
    weights = images.sum() / (present.sum() * images.clamp(min=1))
    return weights.where(present, 0).float()


def weights_of(given: ClassWeights | None, data: Any, num_classes: int) -> Tensor | None:
    """Return the weights of the classes (K,) that an option gives; None for none.

    Args:
        given: The option.
        data: The data module, whose ``class_counts`` are balanced.
        num_classes: Number of classes of the model.

    Raises:
        ValueError: If there is not one for each class, or none is known for the data.
    """
    if given == "balanced":
        if getattr(data, "balanced_sampling", False):
            raise ValueError(
                "model.class_weights balanced and data.balanced_sampling correct twice for the "
                "same: leave one of them out"
            )
        if not hasattr(data, "class_counts"):
            raise ValueError(
                "model.class_weights balanced needs a data module with class_counts, the training "
                "images of each class: give a list of weights in its place"
            )
        given = balanced_weights(data.class_counts).tolist()
        given += [0.0] * (num_classes - len(given))
    if given is None:
        return None
    numbers = len(given) == num_classes and all(0 <= w < float("inf") for w in given)
    allowed = f"{num_classes} numbers of at least 0, one for each class"
    require(numbers and max(given) > 0, "model.class_weights", allowed, given)
    return torch.tensor(given)


def prepare_loss(loss: Any, options: dict[str, Any]) -> Any:
    """Check a loss of one's own, and keep its buffers out of checkpoints.

    Args:
        loss: Name of a loss, or a module.
        options: Options of named losses, which a module would not heed.

    Raises:
        ValueError: If an option would do nothing, or the loss has weights to be trained.
    """
    if isinstance(loss, str):
        return loss
    name = type(loss).__name__
    for option, value in options.items():
        require(not value, f"model.{option}", f"left out with model.loss {name}", value)
    if list(loss.parameters()):
        raise ValueError(f"model.loss: {name} has parameters to be trained, which a loss must not")
    for module in loss.modules():
        module._non_persistent_buffers_set.update(module._buffers)
    return loss


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Map labels (N,) int64 to one-hot targets (N, K) float32; -1 becomes a row of zeros."""
    labeled = labels >= 0
    return F.one_hot(labels.where(labeled, 0), num_classes) * labeled[:, None].float()
