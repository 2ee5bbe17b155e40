"""Statistics of the variants of a grid over their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from scipy.stats import ttest_rel  # type: ignore[import-untyped]

Row = dict[str, str]
"""A row of cells.csv."""


@dataclass(frozen=True)
class Variant:
    """A variant with all its seeds.

    Attributes:
        kernel: Size or rule of ECA's kernels; empty for other attention.
        multiply_adds: Multiply-adds of one image.
        images_per_s: Images a second in training, median over the seeds; None if not measured.
        last: Top-1 accuracy of the last validation by seed, in percent.
        best: Top-1 accuracy of the best validation by seed, in percent.
    """

    name: str
    kernel: str
    attention: str
    parameters: int
    multiply_adds: int
    images_per_s: float | None
    last: dict[int, float]
    best: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean of ``last``."""
        return mean(self.last.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of ``last``; 0 for a single seed."""
        return stdev(self.last.values()) if len(self.last) > 1 else 0.0


@dataclass(frozen=True)
class Difference:
    """Difference between the accuracies of two variants, in percentage points.

    The mean over the seeds that both have, and its confidence interval, which is infinite for a
    single seed.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def variants_of(rows: Sequence[Row]) -> list[Variant]:
    """Group the cells by variant, in the order in which the variants appear."""
    names = dict.fromkeys(row["variant"] for row in rows)
    return [_variant(name, [row for row in rows if row["variant"] == name]) for name in names]


def _variant(name: str, rows: Sequence[Row]) -> Variant:
    speeds = [float(row["images_per_s"]) for row in rows if row["images_per_s"]]
    return Variant(
        name,
        rows[0]["kernel"],
        rows[0]["attention"],
        int(rows[0]["parameters"]),
        int(rows[0]["multiply_adds"]),
        median(speeds) if speeds else None,
        {int(row["seed"]): 100 * float(row["top1_last"]) for row in rows},
        {int(row["seed"]): 100 * float(row["top1_best"]) for row in rows},
    )


def difference(variant: Variant, reference: Variant, comparisons: int = 1) -> Difference | None:
    """Compare the last validations of two variants by a paired t-test over the seeds.

    A seed gives both variants the same images in the same order and the same initial weights
    outside attention, so that its effect cancels in the difference. Of several intervals all hold
    together in at least 95% of cases, by Bonferroni's correction.

    Args:
        variant: One variant.
        reference: What it is compared with.
        comparisons: How many variants are compared with the reference.

    Returns:
        None if they have no seed in common.
    """
    shared = sorted(variant.last.keys() & reference.last.keys())
    if not shared:
        return None
    ours, theirs = ([v.last[seed] for seed in shared] for v in (variant, reference))
    center = mean(a - b for a, b in zip(ours, theirs, strict=True))
    if len(shared) == 1:
        return Difference(center, float("-inf"), float("inf"), 1)
    interval = ttest_rel(ours, theirs).confidence_interval(1 - 0.05 / comparisons)
    return Difference(center, float(interval.low), float(interval.high), len(shared))
