"""Statistics, reports and checks that all benchmarks use."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from eca_lightning.utils.checks import require
from eca_lightning.utils.reports import save_figure
from eca_lightning.utils.tables import Row, Table, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def summarize(name: str, values: Sequence[float], digits: int) -> Row:
    """Return median, minimum and maximum as three entries of a row; None without values."""
    figures = [round(f(values), digits) if values else None for f in (median, min, max)]
    return dict(zip((name, f"{name}_min", f"{name}_max"), figures, strict=True))


def error_bars(values: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Return the medians, and their distances from minimum and maximum, for matplotlib."""
    medians = [median(repeats) for repeats in values]
    below = [m - min(repeats) for m, repeats in zip(medians, values, strict=True)]
    above = [max(repeats) - m for m, repeats in zip(medians, values, strict=True)]
    return medians, [below, above]


def write_report(
    path: Path,
    rows: Sequence[Row],
    table: Table,
    figure: "Figure | None",
    failures: Mapping[str, str] | None = None,
) -> None:
    """Write rows as CSV, print a table and what failed, and save a chart beside the CSV file."""
    write_table(path, dict.fromkeys(rows[0], str), rows)
    console = Console()
    console.print(table)
    for name, reason in (failures or {}).items():
        console.print(escape(f"{name} failed: {reason}"), style="red")
    if figure:
        save_figure(figure, path.with_suffix(".png"))
    console.print(f"Written to {escape(str(path.parent))}")


def require_positive(**options: float) -> None:
    """Raise a ValueError that names the first option that is not positive."""
    for name, value in options.items():
        require(value > 0, name, "positive", value)


def describe_exit(exit_code: int | None) -> str:
    """Describe the exit code of a process, which is negative after a signal."""
    if exit_code is None:
        return "does not answer"
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
