"""What the cells of a grid say about its variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from scipy.stats import t as student_t  # type: ignore[import-untyped]

Row = dict[str, str]
"""A line of cells.csv."""


@dataclass(frozen=True)
class Variant:
    """A variant with all its seeds.

    Attributes:
        name: Its name.
        kernel: Size or rule of ECA's kernels; empty for other attention.
        attention: Name of its attention.
        parameters: Number of its parameters.
        multiply_adds: Of one image.
        images_per_s: In training, median over the seeds; None where it was not measured.
        last: Top-1 of the last validation by seed, in percent.
        best: Top-1 of the best validation by seed, in percent.
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
    """By how much a variant is better than a reference, in points of percent.

    Attributes:
        mean: Mean over the seeds that both have.
        half: Half the width of its 95 % confidence interval; infinite for a single seed.
        seeds: Number of seeds.
    """

    mean: float
    half: float
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half


def variants_of(rows: Sequence[Row]) -> list[Variant]:
    """Put the cells of each variant together, in the order in which variants appear."""
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


def difference(variant: Variant, reference: Variant) -> Difference | None:
    """Compare the last validations of two variants, seed by seed.

    A seed gives both the same images in the same order and the same first weights outside
    attention, so that its own luck drops out of the difference. The interval is Student's.

    Returns:
        None if they have no seed in common.
    """
    shared = sorted(variant.last.keys() & reference.last.keys())
    if not shared:
        return None
    differences = [variant.last[seed] - reference.last[seed] for seed in shared]
    return Difference(mean(differences), _half_interval(differences), len(shared))


def _half_interval(values: Sequence[float]) -> float:
    if len(values) < 2:
        return float("inf")
    error = stdev(values) / len(values) ** 0.5
    return float(student_t.ppf(0.975, len(values) - 1)) * error
