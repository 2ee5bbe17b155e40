"""Scores that do not depend on the order of the samples, and counting which no host waits for."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ExactMean(Metric):
    """The mean of all values that count, whatever their order, batches and ranks.

    torchmetrics' MeanMetric adds up in float32, or in bfloat16 where the precision is
    ``bf16-true``, and leaves NaN out. Here all values are kept, four bytes each, and added up on
    the CPU by `math.fsum`, whose sum is exact before it is rounded to float64.
    """

    values: list[Tensor]
    counted: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("counted", [], dist_reduce_fx="cat")

    def update(self, values: Tensor, counted: Tensor) -> None:
        """Add values of shape ``(N,)``, and whether each counts; N may be 0."""
        self.values.append(values)
        self.counted.append(counted)  # selecting them here would wait for the GPU

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; NaN without values."""
        values, counted = dim_zero_cat(self.values), dim_zero_cat(self.counted)
        kept = values[counted.bool()].tolist()
        mean = math.fsum(kept) / len(kept) if kept else math.nan
        return torch.tensor(mean, dtype=torch.float32, device=self.device)


class TopKAccuracy(Metric):
    """The fraction of labels among the ``k`` most probable classes, see `ranks`; -1 does not count.

    It is the same for any order, batches and ranks. torchmetrics' MulticlassAccuracy selects the
    rows that count, for which the host waits for the GPU at every step.
    """

    correct: Tensor
    total: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits, (N, num_classes), and labels, (N,) int64."""
        counted = labels >= 0
        hits = ranks(logits, labels) < min(self.k, logits.shape[1])
        self.correct = self.correct + (hits & counted).sum()
        self.total = self.total + counted.sum()  # in place, inference mode could not

    def compute(self) -> Tensor:
        """Return the fraction, a float32 scalar; NaN without labels."""
        return self.correct / self.total


class ClassCounts(Metric):
    """Count the images, the right predictions and the predictions of each class.

    They are the same for any order, batches and ranks. Labels of -1 do not count, nor predictions
    that are NaN or infinite.
    """

    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(3, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits, (N, num_classes), and labels, (N,) int64."""
        labeled = labels >= 0
        predicted = labeled & logits.isfinite().all(dim=1)
        right = labeled & (ranks(logits, labels) == 0)
        classes = torch.stack([labels.clamp(min=0), labels.clamp(min=0), logits.argmax(dim=1)])
        # Not torch.bincount, which waits for the GPU to know how many classes there are.
        batch = torch.zeros_like(self.counts)
        batch = batch.scatter_add(1, classes, torch.stack([labeled, right, predicted]).long())
        self.counts = self.counts + batch

    def compute(self) -> Tensor:
        """Return the counts, (3, num_classes) int64."""
        return self.counts


def recalls(counts: Tensor) -> Tensor:
    """Return the fraction of each class's images that is right, (num_classes,) float32.

    It is NaN without images. The counts are those of `ClassCounts`.
    """
    images, right, _ = counts
    return right / images


def macro_accuracy(counts: Tensor) -> Tensor:
    """Return the mean recall of the classes that have images: scikit-learn's balanced accuracy."""
    return recalls(counts).double().nanmean().float()


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes precede that of each label, (N,) int64; 0 is the most probable.

    Of equal logits, the lower class precedes. All classes precede the label where a logit is NaN or
    infinite, so that such a prediction is never right. Rows with the label -1 have any rank.
    """
    labels = labels.clamp(min=0)[:, None]
    own = logits.gather(1, labels)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels
    preceding = ((logits > own) | (logits == own) & lower).sum(dim=1)
    return preceding.masked_fill(~logits.isfinite().all(dim=1), logits.shape[1])
