"""The report of ``benchmark model``: a table, a CSV file and a chart."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eca_lightning.benchmarks.common import write_report
from eca_lightning.utils.tables import Row, Table

_COLUMNS = {
    "model": "{model}",
    "images/s": "{images_per_s:,.1f}",
    "time": "{time_ratio:.3f}",
    "interval": "{time_ratio_low:.3f}-{time_ratio_high:.3f}",
    "saved MB": "{saved_mb:.1f}",
    "ratio": "{saved_ratio:.3f}",
    "peak MB": "{peak_mb:.1f}",
    "of peak": "{utilization:.3f}",
    "kernels": "{kernels:,}",
    "launches": "{launches:,}",
}


def time_ratio(rates: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Compare two models by their images a second in the same rounds.

    Returns:
        The median of the ratios of times, and the ends of its 95% bootstrap interval.
    """
    ratios = np.array(base) / np.array(rates)
    draws = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def report(rows: Sequence[Row], title: str, output: Path) -> None:
    """Write models.csv and models.png and print a table; the first model is the reference."""
    caption = (
        f"Medians of {rows[0]['repeats']} repeats. Time: as a multiple of that of "
        f"{rows[0]['model']}, with its 95% interval; saved: activations kept for the backward pass;"
        f" peak: {rows[0]['peak_tflops']:.4g} x 10^12 operations a second"
    )
    table = Table.from_rows(rows, _COLUMNS, "{pass}, {mode}", title=title, caption=caption)
    write_report(output / "models.csv", rows, table, _draw(rows, title))


def _draw(rows: Sequence[Row], title: str) -> Figure:
    """Draw the time ratios with their intervals, one panel for each pass and mode."""
    groups = [list(group) for _, group in groupby(rows, lambda row: (row["pass"], row["mode"]))]
    size = (3.2 * len(groups) + 1.5, 1.2 + 0.42 * len(groups[0]))
    figure = Figure(size, layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        names = [row["model"] for row in group]
        ratios, low, high = (
            np.array([row[f"time_ratio{end}"] for row in group]) for end in ("", "_low", "_high")
        )
        axes.axvline(1, color="0.4", linewidth=0.8)
        axes.errorbar(ratios, names, xerr=(ratios - low, high - ratios), fmt="o", capsize=3)
        for name, value in zip(names, ratios, strict=True):
            axes.annotate(
                f"{value:.3f}", (value, name), (0, 6), textcoords="offset points", ha="center"
            )
        axes.margins(x=0.15, y=0.2)
        axes.set_title(f"{group[0]['pass']}, {group[0]['mode']}", fontsize="medium")
        axes.set_xlabel(f"time / {names[0]}")
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize="medium")
    return figure
