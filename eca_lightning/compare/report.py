"""The report of a grid: a Markdown table and charts."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from eca_lightning.compare.statistics import Row, Variant, difference, variants_of
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.reports import save_figure
from eca_lightning.utils.tables import Table

_EXPLANATION = (
    "Top-1 in %, mean and standard deviation over the seeds; differences in percentage points, of "
    "the last epoch and paired by seed, with confidence intervals of paired t-tests that hold "
    "together, for all variants against a reference, in 95% of cases (Bonferroni), in bold where "
    "they exclude 0. Multiply-adds of one image; images a second in training, the median."
)


def report(rows: Sequence[Row], references: Sequence[str], title: str, output: Path) -> None:
    """Write report.md and the charts, and print the table.

    Variants are listed in the order of the rows of cells.csv, and compared with the references.
    """
    variants = variants_of(rows)
    compared = [variant for variant in variants if variant.name in references]
    charts: dict[str, Figure] = {"accuracy": draw_accuracy(variants, _caption(rows, title))}
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
            *(_against(variant, reference, len(variants) - 1) for reference in compared),
        ]
        for variant in variants
    ]
    return f"{_setup(rows)} {_EXPLANATION}\n\n{Table(header, {'': lines}).markdown()}"


def _against(variant: Variant, reference: Variant, comparisons: int) -> str:
    found = difference(variant, reference, comparisons)
    if variant.name == reference.name or found is None:
        return ""
    if found.seeds == 1:
        return f"{found.mean:+.2f}"
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.is_significant else text


def _caption(rows: Sequence[Row], title: str) -> str:
    epochs, devices = ({row[column] for row in rows} for column in ("epochs", "device"))
    seeds = len({row["seed"] for row in rows})
    parts = (f"{seeds} seeds", f"epochs: {', '.join(sorted(epochs))}", ", ".join(sorted(devices)))
    return f"{title}: {'; '.join(parts)}"


def _setup(rows: Sequence[Row]) -> str:
    """Describe the setup of the runs, with all values where they differ."""
    values = {column: ", ".join(dict.fromkeys(row[column] for row in rows)) for column in rows[0]}
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    return (
        "{count} runs of {backbone} (epochs: {epochs}; pixels: {image_size}), {minutes:,.0f} "
        "minutes in all on {device}; eca-lightning {eca_lightning}, lightning {lightning}, torch "
        "{torch}."
    ).format(count=len(rows), minutes=minutes, **values)


def draw_accuracy(variants: Sequence[Variant], title: str) -> Figure:
    """Draw each variant's accuracy in a row of its own, with its seeds and what it costs.

    Variants of one family, such as SE and its ablations, share a color.
    """
    figure = Figure((8.5, 1.4 + 0.3 * len(variants)), layout="constrained")
    axes = figure.add_subplot()
    families = dict.fromkeys(variant.attention.partition("_")[0] for variant in variants)
    palette = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    colors = dict(zip(families, cycle(palette), strict=False)) | {"none": "0.3"}
    least = min(variant.parameters for variant in variants)
    for place, variant in enumerate(variants):
        color = colors[variant.attention.partition("_")[0]]
        scores = list(variant.last.values())
        axes.plot(scores, [place] * len(scores), "o", color=color, alpha=0.35, markersize=4)
        style: dict[str, Any] = {"fmt": "D", "color": color, "markersize": 6, "capsize": 3}
        axes.errorbar(variant.mean, place, xerr=variant.deviation, **style)
        cost = f"{variant.mean:.2f} %   +{variant.parameters - least:,} parameters"
        axes.text(1.02, place, cost, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(variants)), [variant.name for variant in variants])
    axes.invert_yaxis()
    axes.set_xlabel("top-1 of the last epoch, %: mean, standard deviation, and each seed")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    return figure


def draw_differences(variants: Sequence[Variant], references: Sequence[Variant]) -> Figure:
    """Draw the difference of each variant from each reference with its interval."""
    width = 2.2 + 3.4 * len(references)
    figure = Figure((width, 1.2 + 0.3 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(references), sharey=True, squeeze=False)[0]
    for axes, reference in zip(panels, references, strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        for place, variant in enumerate(variants):
            found = difference(variant, reference, len(variants) - 1)
            if found is not None and variant.name != reference.name:
                half = found.high - found.mean if found.seeds > 1 else 0
                color = "tab:green" if found.mean > 0 else "tab:red"
                color = color if found.is_significant else "0.55"
                axes.errorbar(found.mean, place, xerr=half, fmt="o", color=color, capsize=3)
        axes.set_title(f"against {reference.name}", fontsize=10)
        axes.set_xlabel("percentage points of top-1, joint 95% intervals")
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
