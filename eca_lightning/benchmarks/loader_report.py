"""What ``benchmark loader`` measured, as a table, a CSV file and a bar chart."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eca_lightning.benchmarks.common import Row, results_table, shown, spread, write_rows
from eca_lightning.benchmarks.loader_candidates import OURS, ContenderName, Workload
from eca_lightning.benchmarks.loader_process import Turn
from eca_lightning.utils.atomic import atomic_write


@dataclass
class Result:
    """The turns of a loader.

    Attributes:
        contender: The loader.
        work: What it did in a turn.
        turns: What was measured, from the turn that compiles and warms up on.
        failure: Why it was given up; empty if it was not.
    """

    contender: ContenderName
    work: Workload
    turns: list[Turn] = field(default_factory=list)
    failure: str = ""

    @property
    def images(self) -> int:
        """Images of a turn."""
        return self.work.batches * self.work.batch_size

    @property
    def counted(self) -> list[Turn]:
        """The turns that count: none of a loader that failed."""
        return [] if self.failure else self.turns[1:]

    @property
    def rates(self) -> list[float]:
        """Images a second in each turn that counts."""
        return [self.images / turn.seconds for turn in self.counted]

    @property
    def cpu_ms(self) -> float:
        """CPU time an image, in milliseconds, median of the turns that count."""
        return median(1000 * turn.cpu_seconds / self.images for turn in self.counted)


def report(results: list[Result], title: str, output: Path) -> None:
    """Write loaders.csv and loaders.png and print a table.

    Args:
        results: The loaders' results, those with the same number of workers from one comparison.
        title: What was done.
        output: Folder for the files.
    """
    rows = [_row(result, results) for result in results]
    write_rows(rows, output / "loaders.csv")
    console = Console()
    console.print(_table(rows, title))
    for row in rows:
        if row["failure"]:
            failed = f"{row['contender']}, {row['workers']} workers, failed: {row['failure']}"
            console.print(escape(failed), style="red")
    _draw(results, title, output / "loaders.png")
    console.print(f"Written to {escape(str(output))}")


def _row(result: Result, results: list[Result]) -> Row:
    """A line of the CSV file; what a loader that failed lacks is left empty."""
    row: Row = {
        "contender": result.contender,
        "workers": result.work.num_workers,
        "image_size": result.work.image_size,
        "batch_size": result.work.batch_size,
        "images": result.images,
        "turns": len(result.counted),
        "failure": result.failure,
    }
    rates = result.rates
    row |= spread("images_per_s", rates, 1)
    (ours,) = [
        other.rates
        for other in results
        if other.contender == OURS and other.work.num_workers == result.work.num_workers
    ] or [[]]
    # Round by round: what slows the machine down for a while slows both.
    row |= spread("ours_faster", [a / b for a, b in zip(ours, rates, strict=False)], 3)
    # A turn shorter than a tick of the system's clock, 10 ms, may count as none.
    cpu_ms = result.cpu_ms if rates else 0.0
    row["images_per_s_per_core"] = f"{1000 / cpu_ms:.1f}" if cpu_ms else ""
    row["cpu_ms_per_image"] = f"{cpu_ms:.3f}" if cpu_ms else ""
    row["first_batch_s"] = f"{result.turns[0].first_batch:.2f}" if result.turns else ""
    return row


def _table(rows: list[Row], title: str) -> Table:
    caption = (
        f"{rows[0]['images']:,} images a turn, {max(row['turns'] for row in rows)} turns, "
        f"{len(os.sched_getaffinity(0))} cores. Medians; 'ours faster' compares the turns of a "
        "round; per core: images a second of CPU time; first batch in seconds"
    )
    table = results_table(title, caption)
    table.add_column("loader", no_wrap=True)
    for column in (
        "workers",
        "images/s",
        "min-max",
        "ours\nfaster",
        "per\ncore",
        "CPU ms\n/image",
        "first\nbatch",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        low, high = row["images_per_s_min"], row["images_per_s_max"]
        table.add_row(
            row["contender"],
            str(row["workers"]),
            shown(row["images_per_s"]) or "failed",
            low and f"{shown(low)}-{shown(high)}",
            shown(row["ours_faster"], ".2f"),
            shown(row["images_per_s_per_core"]),
            shown(row["cpu_ms_per_image"], ".2f"),
            row["first_batch_s"],
            end_section=number + 1 < len(rows) and rows[number + 1]["workers"] != row["workers"],
        )
    return table


def _draw(results: list[Result], title: str, path: Path) -> None:
    """Bars of the medians, one color for each number of workers, with whiskers from min to max."""
    names = list(dict.fromkeys(result.contender for result in results))
    workers = list(dict.fromkeys(result.work.num_workers for result in results))
    figure = Figure(figsize=(8, 1.5 + 0.7 * len(names)))
    axes = figure.subplots()
    thickness = 0.8 / len(workers)
    for group, count in enumerate(workers):
        shown = [r for r in results if r.work.num_workers == count and r.rates]
        medians = [median(result.rates) for result in shown]
        bars = axes.barh(
            [names.index(r.contender) + group * thickness for r in shown],
            medians,
            thickness,
            xerr=[
                [m - min(r.rates) for m, r in zip(medians, shown, strict=True)],
                [max(r.rates) - m for m, r in zip(medians, shown, strict=True)],
            ],
            label=f"{count} worker" + "s" * (count > 1),
        )
        axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.set_yticks([i + 0.4 - thickness / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images/s (median, and from least to greatest)")
    axes.set_title(title, fontsize="medium")
    axes.legend(loc="lower right")
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150, bbox_inches="tight")
