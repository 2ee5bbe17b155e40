"""A mean that does not depend on the order of its values."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ExactMean(Metric):
    """The mean of all values, whatever their order, batches and ranks.

    torchmetrics' MeanMetric adds up in float32, or in bfloat16 where the precision is
    ``bf16-true``, and leaves NaN out. Here all values are kept, four bytes each, and added up on
    the CPU by `math.fsum`, whose sum is exact before it is rounded to float64.
    """

    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        """Add values of shape ``(N,)``; N may be 0."""
        self.values.append(values)

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; NaN without values."""
        values = dim_zero_cat(self.values).tolist()
        mean = math.fsum(values) / len(values) if values else math.nan
        return torch.tensor(mean, dtype=torch.float32, device=self.device)
