"""The models of the paper, and ``eca-lightning models``, which lists them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.table import Table

from eca_lightning.analysis.complexity import complexity
from eca_lightning.analysis.detector_complexity import detector_table
from eca_lightning.backbones import BackboneConfig

_OPTIONS: dict[str, dict[str, Any]] = {
    # Table 2 fixes k = 3 for ECA and ECA-NS, so that sharing the weights is the only difference.
    "eca_k3_resnet50": {"kernel": 3},
    "eca_ns_resnet50": {"kernel": 3},
    # Table 3's 3.40 M need reduction 8; 16, as in the ResNets, gives 3.37 M.
    "se_mobilenet_v2": {"reduction": 8},
}


@dataclass(frozen=True)
class PaperModel:
    """A row of table 3 or table 2.

    Attributes:
        name: Method and backbone, such as eca_resnet50; the stem of the file in configs/models.
        backbone: The network.
        parameters: The paper's parameters, in its own M; None where it prints none.
        flops: The paper's operations as printed, such as 3.86G; empty where it prints none.
        top1: The paper's ImageNet top-1 accuracy, in per cent.
    """

    name: str
    backbone: BackboneConfig
    parameters: float | None
    flops: str
    top1: float


def zoo() -> Iterator[PaperModel]:
    """The rows of table 3 and, on ResNet-50, the variants of table 2 that it does not have."""
    for row in _rows("table3_imagenet.csv"):
        plain = row["method"] == "resnet" or row["method"] == row["backbone"]
        name = row["backbone"] if plain else f"{row['method']}_{row['backbone']}"
        attention = None if plain else row["method"].replace("gsop1", "gsop")
        backbone = BackboneConfig(row["backbone"], attention, _OPTIONS.get(name, {}))
        yield PaperModel(name, backbone, float(row["params_M"]), row["flops"], float(row["top1"]))
    for row in _rows("table2_attention_variants.csv"):
        if row["method"] in ("vanilla", "se"):
            continue
        name = f"{row['method']}_resnet50"
        attention = row["method"].removesuffix("_k3")
        backbone = BackboneConfig("resnet50", attention, _OPTIONS.get(name, {}))
        yield PaperModel(name, backbone, None, "", float(row["top1"]))


def models(image_size: int = 224) -> None:
    """List the models of the paper: parameters and operations, ours beside the paper's.

    For classification the paper's M is 2^20 parameters, except for a2, gc, gsop1 and aa, which it
    quotes from their own papers in millions. Its FLOPs are in units of 2^30 (2^20 for MobileNetV2),
    or of 10^9 where quoted. For detectors, the second table, its units are decimal.

    Args:
        image_size: Height and width of the images to be classified, in pixels; the paper's figures
            are for 224.
    """
    table = Table(title=f"configs/models at {image_size} x {image_size}, one image")
    table.add_column("model")
    for column in (
        "parameters\n10^6",
        "parameters\n2^20",
        "paper's\nM",
        "multiply-adds\n10^9",
        "operations\npaper's rule, 2^30",
        "paper's\nFLOPs",
        "paper's\ntop-1",
    ):
        table.add_column(column, justify="right")
    for model in zoo():
        cost = complexity(model.backbone, image_size)
        table.add_row(
            model.name,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.parameters / 2**20:.2f}",
            "" if model.parameters is None else f"{model.parameters:.2f}",
            f"{cost.macs / 1e9:.3f}",
            f"{cost.paper_flops / 2**30:.3f}",
            model.flops,
            f"{model.top1:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(detector_table())


def _rows(table: str) -> Iterator[dict[str, str]]:
    with (files("eca_lightning.analysis") / "paper" / table).open() as file:
        yield from csv.DictReader(file)
