"""The cells of a grid as a Markdown table and charts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eca_lightning.compare.statistics import Difference, Row, Variant, difference, variants_of
from eca_lightning.utils.atomic import atomic_write

_EXPLANATION = (
    "Top-1 in %, mean and standard deviation over the seeds; differences in points, of the last "
    "epoch and seed by seed, with their 95% confidence interval (Student's t), in bold where it "
    "leaves 0 out, which without any effect one in twenty does. Multiply-adds of one image; images "
    "a second in training, the median."
)


def report(rows: Sequence[Row], references: Sequence[str], title: str, output: Path) -> None:
    """Write report.md and the charts, and print the table.

    Args:
        rows: Lines of cells.csv, the variants in the order in which they are to be listed.
        references: Names of variants with which all are compared.
        title: What was compared.
        output: Folder for the files.
    """
    variants = variants_of(rows)
    compared = [variant for variant in variants if variant.name in references]
    charts: dict[str, Figure] = {"accuracy.png": draw_accuracy(variants)}
    if compared and len(variants) > 1:
        charts["differences.png"] = draw_differences(variants, compared)
    if len(sized := [v for v in variants if v.attention == "eca" and v.kernel.isdigit()]) > 1:
        charts["kernels.png"] = draw_kernels(sized, variants)
    text = table(rows, references)
    images = "\n".join(f"![{name.removesuffix('.png')}]({name})" for name in charts)
    for name, figure in charts.items():
        with atomic_write(output / name) as part:
            figure.savefig(part, dpi=150)
    with atomic_write(output / "report.md") as part:
        part.write_text(f"# {title}\n\n{text}\n\n{images}\n")
    print(f"\n{text}\n\nWritten to {output}")


def table(rows: Sequence[Row], references: Sequence[str]) -> str:
    """The table of a report with what it rests on, in Markdown.

    Args:
        rows: As for :func:`report`.
        references: As for :func:`report`.
    """
    variants = variants_of(rows)
    compared = [variant for variant in variants if variant.name in references]
    header = ["variant", "parameters", "multiply-adds", "images/s", "last epoch", "best", "seeds"]
    header += [f"against {reference.name}" for reference in compared]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for variant in variants:
        best = list(variant.best.values())
        speed = "" if variant.images_per_s is None else f"{variant.images_per_s:,.0f}"
        lines.append(
            [
                variant.name,
                f"{variant.parameters:,}",
                f"{variant.multiply_adds:,}",
                speed,
                f"{variant.mean:.2f}" + (f" ± {variant.deviation:.2f}" if len(best) > 1 else ""),
                f"{np.mean(best):.2f}",
                str(len(best)),
                *(_against(variant, reference) for reference in compared),
            ]
        )
    grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_basis(rows)} {_EXPLANATION}\n\n{grid}"


def _against(variant: Variant, reference: Variant) -> str:
    found = difference(variant, reference)
    if variant.name == reference.name or found is None:
        return ""
    if found.seeds == 1:
        return f"{found.mean:+.2f}"
    low, high = found.mean - found.half, found.mean + found.half
    text = f"{found.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if found.is_clear else text


def _basis(rows: Sequence[Row]) -> str:
    """What the runs have in common, and all values of what they have not."""

    def values(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows))

    minutes = sum(float(row["seconds"]) for row in rows) / 60
    return (
        f"{len(rows)} runs of {values('backbone')} (epochs: {values('epochs')}; pixels: "
        f"{values('image_size')}), {minutes:,.0f} minutes in all on {values('device')}; "
        f"eca-lightning {values('eca_lightning')}, lightning {values('lightning')}, "
        f"torch {values('torch')}."
    )


def draw_accuracy(variants: Sequence[Variant]) -> Figure:
    """Accuracy against parameters, the area of a circle being its multiply-adds (figure 1)."""
    figure = Figure((8.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    largest = max(variant.multiply_adds for variant in variants)
    ranked = sorted(variants, key=lambda variant: -variant.mean)
    for variant, color in zip(ranked, _colors(len(ranked)), strict=True):
        axes.errorbar(
            variant.parameters,
            variant.mean,
            variant.deviation,
            color=color,
            linewidth=1,
            capsize=3,
        )
        axes.scatter(
            variant.parameters,
            variant.mean,
            420 * variant.multiply_adds / largest,
            color=color,
            alpha=0.75,
            edgecolors="white",
            label=f"{variant.mean:.2f}  {variant.name}",
        )
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
    """A panel for each reference: by how much each variant is better, with its interval."""
    width = 2.2 + 3.4 * len(references)
    figure = Figure((width, 1.2 + 0.3 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(references), sharey=True, squeeze=False)[0]
    places = {variant.name: place for place, variant in enumerate(variants)}
    for axes, reference in zip(panels, references, strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        for variant in variants:
            found = difference(variant, reference)
            if found is not None and variant.name != reference.name:
                _draw_interval(axes, found, places[variant.name])
        axes.set_title(f"against {reference.name}", fontsize=10)
        axes.set_xlabel("points of top-1, 95% interval")
        axes.grid(axis="x", alpha=0.25)
        axes.margins(y=0.06)
    panels[0].set_yticks(list(places.values()), list(places))
    panels[0].invert_yaxis()
    return figure


def _draw_interval(axes: Axes, found: Difference, place: int) -> None:
    color = ("tab:green" if found.mean > 0 else "tab:red") if found.is_clear else "0.55"
    half = found.half if found.seeds > 1 else 0
    axes.errorbar(found.mean, place, xerr=half, fmt="o", color=color, capsize=3)


def draw_kernels(sized: Sequence[Variant], variants: Sequence[Variant]) -> Figure:
    """Accuracy against the size of ECA's kernel, beside the adaptive sizes (figure 4).

    Args:
        sized: Variants with one size of kernel for all layers.
        variants: All of them: ECA with the rule of Eq. 12 and the plain network are drawn as lines.
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
    for label, (color, is_it) in lines.items():
        for variant in filter(is_it, variants):
            low, high = variant.mean - variant.deviation, variant.mean + variant.deviation
            axes.axhspan(low, high, color=color, alpha=0.08, linewidth=0)
            axes.axhline(
                variant.mean, color=color, linestyle="--", label=f"{label}: {variant.mean:.2f}"
            )
    axes.errorbar(
        sizes,
        [variant.mean for variant in sized],
        [variant.deviation for variant in sized],
        color="tab:blue",
        marker="o",
        capsize=4,
        linewidth=2,
        label="one size for all layers",
    )
    axes.set_xticks(sizes)
    axes.set_xlabel("kernel size k")
    axes.set_ylabel("top-1 of the last epoch, %")
    axes.set_title("mean and standard deviation over the seeds", fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=9)
    return figure


def _colors(count: int) -> np.ndarray:
    """As many colors that can be told apart, from good to bad."""
    return matplotlib.colormaps["turbo"](np.linspace(0.06, 0.94, count))[::-1]
