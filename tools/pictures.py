"""Draw the pictures of the README and docs/.

    python tools/pictures.py

docs/images/eca.svg shows what ECA computes, with the parameters that this package counts, and
docs/images/data.svg the way of an image from its file to the network.
"""

from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CHANNELS, KERNEL = 8, 3
TEAL, ORANGE, GRAY = "#00897b", "#ef6c00", "#546e7a"
MAP = np.array([(0, 0), (1.2, 0), (1.6, 0.55), (0.4, 0.55)])
"""The corners of a feature map in perspective."""
TAPS = ("#4db6ac", "#00897b", "#004d40")


def added_parameters(attention: str) -> int:
    """Count what attention adds to ResNet-50."""
    plain, full = (complexity(BackboneConfig("resnet50", a), 224) for a in (None, attention))
    return full.parameters - plain.parameters


def draw_eca() -> Figure:
    """Draw the module on the left, and its weights beside those of SE on the right."""
    figure = Figure((11, 4.1), layout="constrained", facecolor="white")
    module, band, dense = figure.subplots(1, 3, width_ratios=(1.55, 0.8, 0.8))
    draw_module(module)
    draw_band(band, added_parameters("eca"))
    draw_dense(dense, added_parameters("se"))
    return figure


def draw_module(axes: Axes) -> None:
    """Draw channels, their means, the convolution over them, and the gates."""
    axes.set_title("A gate for each channel, from the channels beside it", fontsize=11)
    heights = np.arange(CHANNELS)[::-1]
    gates = np.array([0.9, 0.35, 0.7, 0.2, 0.8, 0.55, 0.25, 0.95])
    for height, gate in zip(heights, gates, strict=True):
        for left, alpha in ((0.0, 0.55), (7.0, 0.15 + 0.8 * gate)):
            corner = np.array((left, height - 0.25))
            axes.add_patch(Polygon(MAP + corner, facecolor=TEAL, alpha=alpha, edgecolor="white"))
        axes.plot(2.5, height, "o", color=GRAY, markersize=11)
        axes.plot(5.4, height, "o", color=ORANGE, alpha=gate, markersize=11)
        axes.plot(5.4, height, "o", markerfacecolor="none", color=ORANGE, markersize=11)
        for tap, offset in enumerate(range(-(KERNEL // 2), KERNEL // 2 + 1)):
            if 0 <= height - offset < CHANNELS:
                ends = (2.7, 5.2), (height - offset, height)
                axes.plot(*ends, color=TAPS[tap], linewidth=1.6)
    for start, end in ((1.75, 2.2), (5.9, 6.7)):
        arrow = FancyArrowPatch((start, 3.5), (end, 3.5), arrowstyle="-|>", mutation_scale=14)
        axes.add_patch(arrow)
    texts = {
        0.8: "feature maps\n(C, H, W)",
        2.5: "mean of\neach map",
        3.95: f"1D convolution\nover channels,\nkernel k = {KERNEL}",
        5.45: "sigmoid:\ngates",
        7.8: "scaled\nfeature maps",
    }
    for x, text in texts.items():
        axes.text(x, -0.75, text, ha="center", va="top", fontsize=9)
    axes.set(xlim=(-0.2, 8.8), ylim=(-2.1, CHANNELS - 0.2))
    axes.set_axis_off()


def draw_band(axes: Axes, added: int) -> None:
    """Draw ECA's weights as a matrix over channels: one kernel along the diagonal."""
    rows, columns = np.indices((2 * CHANNELS, 2 * CHANNELS))
    offset = columns - rows + KERNEL // 2
    matrix = np.where((offset >= 0) & (offset < KERNEL), offset + 1, 0)
    axes.imshow(matrix, cmap=ListedColormap(("#eceff1", *TAPS)))
    axes.set_title("ECA: k weights, shared by all", fontsize=11)
    _label(axes, f"+{added:,} parameters in ResNet-50")


def draw_dense(axes: Axes, added: int) -> None:
    """Draw SE's weights as a matrix over channels: a product through a bottleneck."""
    generator = np.random.default_rng(0)
    size = 2 * CHANNELS
    axes.imshow(generator.normal(size=(size, 2)) @ generator.normal(size=(2, size)), cmap="PuOr")
    axes.set_title("SE: 2C²/r weights, rank C/r", fontsize=11)
    _label(axes, f"+{added:,} parameters in ResNet-50")


def _label(axes: Axes, text: str) -> None:
    axes.set(xticks=[], yticks=[], xlabel=f"channel in\n\n{text}", ylabel="channel out")


STATIONS = (
    ("train.beton", "JPEG, packed or raw\nimages, memory-mapped", GRAY),
    ("order", "from seed and epoch:\nthe same on any machine", GRAY),
    ("decode", "C, one thread an image;\nonly the crop's part", TEAL),
    ("augment", "flips, TrivialAugment ...\nfrom seed, epoch, sample", TEAL),
    ("uint8 batch", "pinned memory, copied\non a stream of its own", TEAL),
    ("network", "normalization compiled\ninto the first layers", ORANGE),
)
"""The way of an image: what it passes, what happens there, and whose color it has."""


def draw_data() -> Figure:
    """Draw the way of an image from its file to the network."""
    figure = Figure((11, 1.7), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for place, (name, about, color) in enumerate(STATIONS):
        box = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "none"}
        text = {"ha": "center", "color": "white", "fontsize": 11, "weight": "bold"}
        axes.text(place, 1, name, text, bbox=box)
        axes.text(place, 0.55, about, ha="center", va="top", fontsize=8.5)
        if place:
            ends = (place - 0.62, 1.06), (place - 0.42, 1.06)
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12))
    for middle, label in ((0.5, "disk"), (3, "CPU: threads of one process a GPU"), (5, "GPU")):
        axes.text(middle, 1.75, label, ha="center", fontsize=9, color=GRAY)
    axes.set(xlim=(-0.6, len(STATIONS) - 0.4), ylim=(-0.2, 2))
    axes.set_axis_off()
    return figure


def main() -> None:
    """Write the pictures."""
    rcParams["svg.hashsalt"] = "eca_lightning"  # the same file each time
    IMAGES.mkdir(exist_ok=True)
    for name, figure in {"eca": draw_eca(), "data": draw_data()}.items():
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    print(f"Written: {IMAGES}")


if __name__ == "__main__":
    main()
