"""The report of a grid: a Markdown table and charts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eca_lightning.compare.statistics import Row, Variant, difference, variants_of
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.reports import save_figure
from eca_lightning.utils.tables import Table

_EXPLANATION = (
    "Top-1 in %, mean and standard deviation over the seeds; differences in percentage points, of "
    "the last epoch and paired by seed, with the 95% confidence interval of the paired t-test, in "
    "bold where it excludes 0, as it does without any effect in one case of twenty. Multiply-adds "
    "of one image; images a second in training, the median."
)


def report(rows: Sequence[Row], references: Sequence[str], title: str, output: Path) -> None:
    """Write report.md and the charts, and print the table.

    Variants are listed in the order of the rows of cells.csv, and compared with the references.
    """
    variants = variants_of(rows)
    compared = [variant for variant in variants if variant.name in references]
    charts: dict[str, Figure] = {"accuracy": draw_accuracy(variants)}
    if compared and len(variants) > 1:
        charts["differences"] = draw_differences(variants, compared)
    if len(sized := [v for v in variants if v.attention == "eca" and v.kernel.isdigit()]) > 1:
        charts["kernels"] = draw_kernels(sized, variants)
    text = table(rows, references)
    images = "\n".join(f"![{name}]({name}.png)" for name in charts)
    for name, figure in charts.items():
        save_figure(figure, output / f"{name}.png")
    with atomic_write(output / "report.md") as part:
        part.write_text(f"# {title}\n\n{text}\n\n{images}\n")
    print(f"\n{text}\n\nWritten to {output}")


def table(rows: Sequence[Row], references: Sequence[str]) -> str:
    """Format the table of a report in Markdown, after the setup of the runs."""
    variants = variants_of(rows)
    compared = [variant for variant in variants if variant.name in references]
    header = ["variant", "parameters", "multiply-adds", "images/s", "last epoch", "best", "seeds"]
    header += [f"against {reference.name}" for reference in compared]
    lines = [
        [
            variant.name,
            f"{variant.parameters:,}",
            f"{variant.multiply_adds:,}",
            "" if variant.images_per_s is None else f"{variant.images_per_s:,.0f}",
            f"{variant.mean:.2f}" + f" ± {variant.deviation:.2f}" * (len(variant.last) > 1),
            f"{np.mean(list(variant.best.values())):.2f}",
            str(len(variant.last)),
            *(_against(variant, reference) for reference in compared),
        ]
        for variant in variants
    ]
    return f"{_setup(rows)} {_EXPLANATION}\n\n{Table(header, {'': lines}).markdown()}"


def _against(variant: Variant, reference: Variant) -> str:
    found = difference(variant, reference)
    if variant.name == reference.name or found is None:
        return ""
    if found.seeds == 1:
        return f"{found.mean:+.2f}"
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.is_significant else text


def _setup(rows: Sequence[Row]) -> str:
    """Describe the setup of the runs, with all values where they differ."""
    values = {column: ", ".join(dict.fromkeys(row[column] for row in rows)) for column in rows[0]}
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    return (
        "{count} runs of {backbone} (epochs: {epochs}; pixels: {image_size}), {minutes:,.0f} "
        "minutes in all on {device}; eca-lightning {eca_lightning}, lightning {lightning}, torch "
        "{torch}."
    ).format(count=len(rows), minutes=minutes, **values)


def draw_accuracy(variants: Sequence[Variant]) -> Figure:
    """Draw accuracy against parameters; the area of a circle is its multiply-adds (figure 1)."""
    figure = Figure((8.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    largest = max(variant.multiply_adds for variant in variants)
    ranked = sorted(variants, key=lambda variant: -variant.mean)
    colors = matplotlib.colormaps["turbo"](np.linspace(0.94, 0.06, len(ranked)))
    for variant, color in zip(ranked, colors, strict=True):
        point = (variant.parameters, variant.mean)
        axes.errorbar(*point, variant.deviation, color=color, linewidth=1, capsize=3)
        area, label = 420 * variant.multiply_adds / largest, f"{variant.mean:.2f}  {variant.name}"
        axes.scatter(*point, area, color=color, alpha=0.75, edgecolors="white", label=label)
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("top-1 of the last epoch, % (mean and standard deviation)")
    axes.set_title(f"area of a circle: multiply-adds, {largest / 1e6:,.1f} M at most", fontsize=10)
    axes.grid(alpha=0.25)
    axes.margins(0.08)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([60])  # type: ignore[union-attr]
    return figure


def draw_differences(variants: Sequence[Variant], references: Sequence[Variant]) -> Figure:
    """Draw the difference of each variant from each reference with its interval."""
    width = 2.2 + 3.4 * len(references)
    figure = Figure((width, 1.2 + 0.3 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(references), sharey=True, squeeze=False)[0]
    for axes, reference in zip(panels, references, strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        for place, variant in enumerate(variants):
            found = difference(variant, reference)
            if found is not None and variant.name != reference.name:
                half = found.high - found.mean if found.seeds > 1 else 0
                color = "tab:green" if found.mean > 0 else "tab:red"
                color = color if found.is_significant else "0.55"
                axes.errorbar(found.mean, place, xerr=half, fmt="o", color=color, capsize=3)
        axes.set_title(f"against {reference.name}", fontsize=10)
        axes.set_xlabel("percentage points of top-1, 95% interval")
        axes.grid(axis="x", alpha=0.25)
        axes.margins(y=0.06)
    panels[0].set_yticks(range(len(variants)), [variant.name for variant in variants])
    panels[0].invert_yaxis()
    return figure


def draw_kernels(sized: Sequence[Variant], variants: Sequence[Variant]) -> Figure:
    """Draw accuracy against ECA's kernel size, one for all layers (figure 4).

    Of all variants, ECA with the rule of Eq. 12 and no attention are drawn as lines.
    """
    sized = sorted(sized, key=lambda variant: int(variant.kernel))
    figure = Figure((6.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    sizes = [int(variant.kernel) for variant in sized]
    for seed in sorted(set.intersection(*(set(variant.last) for variant in sized))):
        values = [variant.last[seed] for variant in sized]
        axes.plot(sizes, values, color="0.8", linewidth=0.8, marker=".", markersize=3, zorder=1)
    axes.plot([], [], color="0.8", marker=".", label="one seed")
    lines: dict[str, tuple[str, Callable[[Variant], bool]]] = {
        "adaptive, Eq. 12": ("tab:red", lambda v: (v.attention, v.kernel) == ("eca", "equation")),
        "without attention": ("0.35", lambda v: v.attention == "none"),
    }
    for label, (color, matches) in lines.items():
        for variant in filter(matches, variants):
            low, high = variant.mean - variant.deviation, variant.mean + variant.deviation
            axes.axhspan(low, high, color=color, alpha=0.08, linewidth=0)
            text = f"{label}: {variant.mean:.2f}"
            axes.axhline(variant.mean, color=color, linestyle="--", label=text)
    means, deviations = [v.mean for v in sized], [v.deviation for v in sized]
    style: dict[str, Any] = {"color": "tab:blue", "marker": "o", "capsize": 4, "linewidth": 2}
    axes.errorbar(sizes, means, deviations, **style, label="one size for all layers")
    axes.set_xticks(sizes)
    axes.set_xlabel("kernel size k")
    axes.set_ylabel("top-1 of the last epoch, %")
    axes.set_title("mean and standard deviation over the seeds", fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=9)
    return figure
