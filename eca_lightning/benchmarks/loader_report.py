"""The report of ``benchmark loader``: a table, a CSV file and a bar chart."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from eca_lightning.benchmarks.common import error_bars, summarize, write_report
from eca_lightning.benchmarks.loader_candidates import OURS, LoaderName, Workload
from eca_lightning.benchmarks.loader_process import Timing
from eca_lightning.utils.tables import Row, Table

_COLUMNS = {
    "loader": "{loader}",
    "images/s": "{images_per_s:,.0f}",
    "min-max": "{images_per_s_min:,.0f}-{images_per_s_max:,.0f}",
    "ours\nfaster": "{ours_faster:.2f}",
    "per\ncore": "{images_per_s_per_core:,.0f}",
    "CPU ms\n/image": "{cpu_ms_per_image:.2f}",
    "KB\n/image": "{kb_per_image:,.0f}",
    "first\nbatch": "{first_batch_s:.2f}",
}


@dataclass
class Result:
    """Timings of a loader, of which the first, which compiles, does not count; or its failure."""

    loader: LoaderName
    work: Workload
    timings: list[Timing] = field(default_factory=list)
    failure: str = ""

    @property
    def label(self) -> str:
        """The loader, and how the .beton that it reads stores its images."""
        return f"{self.loader} {self.work.mode}" if self.work.mode else self.loader

    @property
    def rates(self) -> list[float]:
        """Images a second in each repeat that counts."""
        return [self.work.images / timing.seconds for timing in self.timings[1:]]


def report(results: Sequence[Result], title: str, output: Path) -> None:
    """Write loaders.csv and loaders.png and print a table with a section per number of workers."""
    rows = [_row(result, results) for result in results]
    caption = (
        f"{rows[0]['images']:,} images a repeat, {max(row['repeats'] for row in rows)} repeats, "
        f"{len(os.sched_getaffinity(0))} cores. Medians; 'ours faster': the first of ours, ratio "
        "within a round; per core: images a second of CPU time; first batch: seconds"
    )
    table = Table.from_rows(rows, _COLUMNS, "workers: {workers}", title=title, caption=caption)
    failures = {
        f"{result.label}, {result.work.num_workers} workers,": result.failure
        for result in results
        if result.failure
    }
    write_report(output / "loaders.csv", rows, table, _draw(results, title), failures)


def _row(result: Result, results: Sequence[Result]) -> Row:
    work, rates = result.work, result.rates
    same = [r for r in results if r.loader == OURS and r.work.num_workers == work.num_workers]
    ours = same[0].rates if same else []
    # Compared within a round: what slows the machine down for a while slows both.
    ratios = [a / b for a, b in zip(ours, rates, strict=False)]
    # A repeat shorter than a tick of the system's clock, 10 ms, may count as no CPU time.
    cpu_ms = median(1000 * t.cpu_seconds / work.images for t in result.timings[1:]) if rates else 0
    return {
        "loader": result.label,
        "workers": work.num_workers,
        "image_size": work.image_size,
        "batch_size": work.batch_size,
        "images": work.images,
        "repeats": len(rates),
        "failure": result.failure,
        **summarize("images_per_s", rates, 1),
        **summarize("ours_faster", ratios, 3),
        "images_per_s_per_core": round(1000 / cpu_ms, 1) if cpu_ms else None,
        "cpu_ms_per_image": round(cpu_ms, 3) if cpu_ms else None,
        "kb_per_image": round(work.bytes_per_image / 1000, 1),
        "first_batch_s": round(result.timings[0].first_batch, 2) if result.timings else None,
    }


def _draw(results: Sequence[Result], title: str) -> Figure:
    """Draw bars from 0 to the medians, one color for each number of workers, and bytes."""
    names = list(dict.fromkeys(result.label for result in results))
    workers = list(dict.fromkeys(result.work.num_workers for result in results))
    figure = Figure((12, 1.5 + 0.7 * len(names)), layout="constrained")
    axes, by_bytes = figure.subplots(1, 2, width_ratios=(2, 1))
    thickness = 0.8 / len(workers)
    for group, count in enumerate(workers):
        shown = [r for r in results if r.work.num_workers == count and r.rates]
        medians, errors = error_bars([result.rates for result in shown])
        places = [names.index(result.label) + group * thickness for result in shown]
        bars = axes.barh(places, medians, thickness, xerr=errors, label=f"workers: {count}")
        axes.bar_label(bars, fmt="%.0f", padding=4)
        sizes = [result.work.bytes_per_image / 1000 for result in shown]
        by_bytes.scatter(sizes, medians)
        if count == workers[-1]:  # the names of all would cover each other
            for result, *place in zip(shown, sizes, medians, strict=True):
                by_bytes.annotate(f" {result.label}", place, fontsize="x-small", va="center")
    by_bytes.set(xlabel="KB an image", ylabel="images/s", ylim=(0, None))
    by_bytes.set_xlim(0, 1.8 * by_bytes.get_xlim()[1])
    axes.set_yticks([i + 0.4 - thickness / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images/s (median, minimum and maximum)")
    figure.suptitle(title, fontsize="medium")
    axes.legend(loc="lower right")
    return figure
