"""What ``benchmark scaling`` measured, as a table, a CSV file and a chart."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eca_lightning.benchmarks.common import Row, results_table, shown, spread, write_rows
from eca_lightning.utils.atomic import atomic_write


class Turn(NamedTuple):
    """What a run did after its warm-up.

    Attributes:
        images_per_s: Images a second on all devices together.
        data_wait: Share of the time without a batch, on the device that waits most.
    """

    images_per_s: float
    data_wait: float


@dataclass
class Result:
    """The turns on a number of devices.

    Attributes:
        devices: How many.
        turns: What was measured, round by round.
        failure: Why it was given up; empty if it was not.
    """

    devices: int
    turns: list[Turn] = field(default_factory=list)
    failure: str = ""

    @property
    def rates(self) -> list[float]:
        """Images a second in each turn; none of one that failed."""
        return [] if self.failure else [turn.images_per_s for turn in self.turns]

    @property
    def waits(self) -> list[float]:
        """Data wait in each turn; none of one that failed."""
        return [] if self.failure else [turn.data_wait for turn in self.turns]


def efficiency(result: Result, base: Result) -> list[float]:
    """The speed of a device beside that of a device of another result, round by round."""
    grown = result.devices / base.devices
    return [ours / (theirs * grown) for ours, theirs in zip(result.rates, base.rates, strict=True)]


def report(results: list[Result], title: str, output: Path) -> None:
    """Write scaling.csv and scaling.png and print a table.

    Args:
        results: The results, of few devices first; the first that did not fail is what the others
            are compared with.
        title: What was done.
        output: Folder for the files.
    """
    base = next((result for result in results if result.rates), None)
    rows = [_row(result, base) for result in results]
    write_rows(rows, output / "scaling.csv")
    console = Console()
    console.print(_table(rows, title))
    for result in results:
        if result.failure:
            console.print(escape(f"{result.devices} devices failed: {result.failure}"), style="red")
    if base:
        _draw(results, base, title, output / "scaling.png")
    console.print(f"Written to {escape(str(output))}")


def _row(result: Result, base: Result | None) -> Row:
    """A line of the CSV file; what a result that failed lacks is left empty."""
    efficiencies = efficiency(result, base) if base and result.rates else []
    per_device = [rate / result.devices for rate in result.rates]
    return {
        "devices": result.devices,
        "turns": len(result.rates),
        "failure": result.failure,
        **spread("images_per_s", result.rates, 1),
        "images_per_s_per_device": f"{median(per_device):.1f}" if per_device else "",
        **spread("efficiency", efficiencies, 4),
        **spread("data_wait", result.waits, 4),
    }


def _table(rows: list[Row], title: str) -> Table:
    caption = (
        "Medians, and from least to greatest. Efficiency: speed of a device, beside one of the "
        "smallest run in the same round. Data wait: share of the time without a batch"
    )
    table = results_table(title, caption)
    columns = ("devices", "images/s", "min-max", "a device", "efficiency", "min-max", "data wait")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        low, high = row["images_per_s_min"], row["images_per_s_max"]
        least, greatest = row["efficiency_min"], row["efficiency_max"]
        table.add_row(
            str(row["devices"]),
            shown(row["images_per_s"]) or "failed",
            low and f"{shown(low)}-{shown(high)}",
            shown(row["images_per_s_per_device"]),
            shown(row["efficiency"], ".2f"),
            least and f"{shown(least, '.2f')}-{shown(greatest, '.2f')}",
            shown(row["data_wait"], ".1%"),
        )
    return table


def _draw(results: list[Result], base: Result, title: str, path: Path) -> None:
    """Speed beside the ideal line, and below it efficiency and data wait."""
    done = [result for result in results if result.rates]
    devices = [result.devices for result in done]
    figure = Figure(figsize=(7, 6), layout="constrained")
    speed, shares = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    ideal = [median(base.rates) * count / base.devices for count in devices]
    speed.plot(devices, ideal, "--", color="0.6", label="ideal")
    speed.errorbar(*_whiskers(devices, [r.rates for r in done]), fmt="o-", capsize=3, label="run")
    speed.set_ylabel("images/s")
    speed.set_ylim(bottom=0)
    speed.legend(loc="upper left")
    efficiencies = [efficiency(result, base) for result in done]
    for label, values in (("efficiency", efficiencies), ("data wait", [r.waits for r in done])):
        shares.errorbar(*_whiskers(devices, values), fmt="o-", capsize=3, label=label)
    shares.set_ylim(0, max(1.1, *(max(values) for values in efficiencies)))
    shares.set_xticks(devices, [str(count) for count in devices])
    shares.set_xlabel("devices (median, and from least to greatest)")
    shares.legend(loc="center right")
    figure.suptitle(title, fontsize="medium")
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)


def _whiskers(
    devices: list[int], values: list[list[float]]
) -> tuple[list[int], list[float], list[list[float]]]:
    """Positions, medians and the distances of the least and the greatest from them."""
    medians = [median(some) for some in values]
    below = [m - min(some) for m, some in zip(medians, values, strict=True)]
    above = [max(some) - m for m, some in zip(medians, values, strict=True)]
    return devices, medians, [below, above]
