"""What ``benchmark model`` measured, as a table, a CSV file and a chart."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eca_lightning.benchmarks.common import Row, results_table, write_rows
from eca_lightning.utils.atomic import atomic_write

Interval = tuple[float, float, float]
"""A median and its 95% interval."""


@dataclass
class Result:
    """The turns of a network in a pass and a mode.

    Attributes:
        contender: The network's name.
        pass_: ``train`` or ``inference``.
        mode: ``eager`` or ``compiled``.
        parameters: Number of its parameters.
        rates: Images a second in each turn.
        saved_bytes: What a training step keeps for its backward pass.
        peak_bytes: What the device allocated besides what it held, at most.
        utilization: Share of the device's peak in each turn.
    """

    contender: str
    pass_: str
    mode: str
    parameters: int
    rates: list[float]
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    utilization: list[float] | None = None


def ratio(result: Result, base: Result) -> Interval:
    """How many times as long a network takes as another in the same round.

    Args:
        result: The network.
        base: What it is compared with; its turns are those of the same rounds.

    Returns:
        The median and its 95% bootstrap interval.
    """
    ratios = np.array(base.rates) / np.array(result.rates)
    draws = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def write_csv(results: list[Result], path: Path) -> None:
    """Write a line for each result; in each pass and mode they are compared with the first."""
    write_rows(_rows(results), path)


def report(results: list[Result], title: str, output: Path) -> None:
    """Write models.csv and models.png and print a table.

    Args:
        results: All results; in each pass and mode the first is what the others are compared with.
        title: What was done.
        output: Folder for the files.
    """
    write_csv(results, output / "models.csv")
    console = Console()
    console.print(_table(_rows(results), title, results[0].contender))
    _draw(results, _bases(results), title, output / "models.png")
    console.print(f"Written to {escape(str(output))}")


def _bases(results: list[Result]) -> dict[tuple[str, str], Result]:
    """The first result of each pass and mode."""
    return {(r.pass_, r.mode): r for r in reversed(results)}


def _rows(results: list[Result]) -> list[Row]:
    bases = _bases(results)
    return [_row(result, bases[result.pass_, result.mode]) for result in results]


def _row(result: Result, base: Result) -> Row:
    """A line of the CSV file; what was not measured is left empty."""
    time, low, high = ratio(result, base)
    saved = result.saved_bytes
    return {
        "contender": result.contender,
        "pass": result.pass_,
        "mode": result.mode,
        "parameters": result.parameters,
        "turns": len(result.rates),
        "images_per_s": f"{np.median(result.rates):.2f}",
        "time_ratio": f"{time:.4f}",
        "time_ratio_low": f"{low:.4f}",
        "time_ratio_high": f"{high:.4f}",
        "saved_mb": "" if saved is None else f"{saved / 1e6:.1f}",
        "saved_ratio": f"{saved / base.saved_bytes:.4f}" if saved and base.saved_bytes else "",
        "peak_mb": "" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.1f}",
        "utilization": f"{np.median(result.utilization):.3f}" if result.utilization else "",
    }


def _table(rows: list[Row], title: str, base: str) -> Table:
    caption = (
        f"{rows[0]['turns']} turns. Medians; time: how many times as long as {base}, "
        "with its 95% interval; saved: activations kept for the backward pass"
    )
    table = results_table(title, caption)
    table.add_column("network", no_wrap=True)
    shown = ["images/s", "time", "interval", "saved MB", "x"]
    optional = [("peak_mb", "peak MB"), ("utilization", "of peak")]
    extra = [(key, name) for key, name in optional if any(row[key] for row in rows)]
    for column in (*shown, *(name for _, name in extra)):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for row in rows:
        if (row["pass"], row["mode"]) != last:
            last = (row["pass"], row["mode"])
            table.add_section()
            table.add_row(f"[bold]{row['pass']}, {row['mode']}")
        table.add_row(
            row["contender"],
            f"{float(row['images_per_s']):,.1f}",
            f"{float(row['time_ratio']):.3f}",
            f"{float(row['time_ratio_low']):.3f}-{float(row['time_ratio_high']):.3f}",
            row["saved_mb"],
            row["saved_ratio"] and f"{float(row['saved_ratio']):.3f}",
            *(row[key] for key, _ in extra),
        )
    return table


def _draw(
    results: list[Result], bases: dict[tuple[str, str], Result], title: str, path: Path
) -> None:
    """A panel for each pass and mode: the time ratios with their intervals."""
    figure = Figure(
        figsize=(3.2 * len(bases) + 1.5, 1.2 + 0.42 * len(results) / len(bases)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    for axes, ((pass_, mode), base) in zip(panels, reversed(bases.items()), strict=True):
        shown = [r for r in results if (r.pass_, r.mode) == (pass_, mode)]
        intervals = np.array([ratio(r, base) for r in shown])
        medians = intervals[:, 0]
        errors = np.abs(intervals[:, 1:].T - medians)
        names = [r.contender for r in shown]
        axes.axvline(1, color="0.4", linewidth=0.8)
        axes.errorbar(medians, names, xerr=errors, fmt="o", capsize=3)
        for name, value in zip(names, medians, strict=True):
            axes.annotate(
                f"{value:.3f}", (value, name), (0, 6), textcoords="offset points", ha="center"
            )
        axes.margins(x=0.15, y=0.2)
        axes.set_title(f"{pass_}, {mode}", fontsize="medium")
        axes.set_xlabel(f"time / {base.contender}")
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize="medium")
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)
