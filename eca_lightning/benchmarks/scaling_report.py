"""The report of ``benchmark scaling``: a table, a CSV file and a chart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from eca_lightning.benchmarks.common import error_bars, summarize, write_report
from eca_lightning.utils.tables import Row, Table

_COLUMNS = {
    "devices": "{devices}",
    "images/s": "{images_per_s:,.0f}",
    "min-max": "{images_per_s_min:,.0f}-{images_per_s_max:,.0f}",
    "per\ndevice": "{images_per_s_per_device:,.0f}",
    "efficiency": "{efficiency:.2f}",
    "efficiency\nmin-max": "{efficiency_min:.2f}-{efficiency_max:.2f}",
    "data\nwait": "{data_wait:.1%}",
}
_CAPTION = (
    "Medians. Efficiency: images a second of a device, relative to the smallest run of the same "
    "round. Data wait: fraction of the time without a batch, on the device that waits most"
)


@dataclass
class Result:
    """Images a second of all devices and data wait in each repeat; none if a repeat failed."""

    devices: int
    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    failure: str = ""


def efficiency(result: Result, base: Result) -> list[float]:
    """Compare the images a second of a device with those of another result, round by round."""
    factor = result.devices / base.devices
    return [a / (b * factor) for a, b in zip(result.rates, base.rates, strict=True)]


def report(results: Sequence[Result], title: str, output: Path) -> None:
    """Write scaling.csv and scaling.png and print a table.

    The reference is the result with the fewest devices that did not fail.
    """
    done = [result for result in results if result.rates]
    rows = [_row(result, done) for result in results]
    table = Table.from_rows(rows, _COLUMNS, title=title, caption=_CAPTION)
    failures = {f"{r.devices} devices": r.failure for r in results if r.failure}
    figure = _draw(done, title) if done else None
    write_report(output / "scaling.csv", rows, table, figure, failures)


def _row(result: Result, done: Sequence[Result]) -> Row:
    rates = result.rates
    return {
        "devices": result.devices,
        "repeats": len(rates),
        "failure": result.failure,
        **summarize("images_per_s", rates, 1),
        "images_per_s_per_device": round(median(rates) / result.devices, 1) if rates else None,
        **summarize("efficiency", efficiency(result, done[0]) if rates else [], 4),
        **summarize("data_wait", result.waits, 4),
    }


def _draw(results: Sequence[Result], title: str) -> Figure:
    """Draw speed and ideal speed, and below them efficiency and data wait."""
    base = results[0]
    devices = [result.devices for result in results]
    figure = Figure(figsize=(7, 6), layout="constrained")
    speed, fractions = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    ideal = [median(base.rates) * count / base.devices for count in devices]
    speed.plot(devices, ideal, "--", color="0.6", label="ideal")
    speed.set_ylabel("images/s")
    efficiencies = [efficiency(result, base) for result in results]
    for axes, label, values in (
        (speed, "run", [result.rates for result in results]),
        (fractions, "efficiency", efficiencies),
        (fractions, "data wait", [result.waits for result in results]),
    ):
        axes.errorbar(devices, *error_bars(values), fmt="o-", capsize=3, label=label)
    speed.set_ylim(bottom=0)
    speed.legend(loc="upper left")
    fractions.set_ylim(0, max(1.1, *map(max, efficiencies)))
    fractions.set_xticks(devices, [str(count) for count in devices])
    fractions.set_xlabel("devices (median, minimum and maximum)")
    fractions.legend(loc="center right")
    figure.suptitle(title, fontsize="medium")
    return figure
