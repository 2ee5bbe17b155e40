"""Parameters and operations of the detectors, by the rules of the paper's table 5.

They are those of the toolkit that the paper trained with, and other than those of its table 3:
decimal units, parameters that learn, and a counter that sees modules alone. A backbone's batch
norms learn there, though their statistics are fixed; so ``norm`` is ``batch`` here.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from eca_lightning.attention.gate import ChannelGate
from eca_lightning.backbones import BackboneConfig
from eca_lightning.tasks.detectors import DetectorConfig

_IMAGE = (1, 3, 800, 1280)
_PROPOSALS = 1000
_MASKS = 100
# These rows are another paper's (GCNet, arXiv 1904.11492, table 1), by a rule of its own. Its plain
# network has 44.4 M parameters and 279.4 GFLOPs, where table 5 has 44.18 and 275.58.
_QUOTED = {"nl1": "nl", "gc": "gc"}


@dataclass(frozen=True)
class PaperDetector:
    """A row of table 5.

    Attributes:
        config: The detector.
        parameters: The paper's parameters, in 10^6.
        gflops: The paper's operations, in 10^9.
        quoted: Whether the paper has the row from another, whose parameters are all of a network
            and not only those that learn.
    """

    config: DetectorConfig
    parameters: float
    gflops: float
    quoted: bool


@dataclass(frozen=True)
class DetectorComplexity:
    """What a detector costs.

    Attributes:
        parameters: Number of parameters that learn.
        operations: Operations of one image of 1280 x 800 pixels, 1,000 proposals and 100 masks.
    """

    parameters: int
    operations: int


def paper_detectors() -> Iterator[PaperDetector]:
    """The rows of table 5."""
    with (files("eca_lightning.analysis") / "paper" / "table5_detection.csv").open() as file:
        for row in csv.DictReader(file):
            attention = _QUOTED.get(row["attention"], row["attention"])
            quoted = row["attention"] in _QUOTED
            config = DetectorConfig(
                row["detector"],  # type: ignore[arg-type]
                BackboneConfig(row["backbone"], None if attention == "none" else attention),
                norm="batch",
                trainable_layers=5 if quoted else 3,
            )
            yield PaperDetector(config, float(row["params_M"]), float(row["gflops"]), quoted)


def detector_complexity(config: DetectorConfig) -> DetectorComplexity:
    """Count a detector without computing or allocating anything."""
    with torch.device("meta"):
        detector = config.build().eval()
    counter = _ToolkitCounter(detector)
    with torch.no_grad():
        _forward(detector)
    return DetectorComplexity(
        parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        operations=counter.operations,
    )


def detector_table() -> Table:
    """The detectors of the paper: parameters and operations, ours beside the paper's."""
    table = Table(title="detectors at 1280 x 800, one image")
    table.add_column("backbone", no_wrap=True)
    for column in (
        "parameters\n10^6",
        "paper's\nM",
        "diff.\n%",
        "operations\n10^9",
        "paper's\nGFLOPs",
        "diff.\n%",
    ):
        table.add_column(column, justify="right")
    for name, rows in groupby(paper_detectors(), key=lambda row: row.config.name):
        table.add_section()
        table.add_row(f"[bold]{name}")
        for row in rows:
            cost = detector_complexity(row.config)
            parameters, gflops = cost.parameters / 1e6, cost.operations / 1e9
            backbone = row.config.backbone
            prefix = f"{backbone.attention}_" if backbone.attention else ""
            table.add_row(
                prefix + backbone.name + (" *" if row.quoted else ""),
                f"{parameters:.2f}",
                f"{row.parameters:.2f}",
                f"{100 * (parameters / row.parameters - 1):+.2f}",
                f"{gflops:.2f}",
                f"{row.gflops:.2f}",
                f"{100 * (gflops / row.gflops - 1):+.2f}",
            )
    table.caption = (
        "Parameters are those that learn; operations follow the rules of table 5.\n"
        "* quoted from GCNet's paper: all parameters, and operations by another rule."
    )
    return table


def _forward(detector: Any) -> None:
    """Run the parts of a detector with as many proposals as the toolkit's counter gives them."""
    maps = list(detector.backbone(torch.empty(_IMAGE, device="meta")).values())
    if hasattr(detector, "head"):
        detector.head(maps)
        return
    detector.rpn.head(maps)
    heads, channels = detector.roi_heads, detector.backbone.out_channels
    boxes = torch.empty(_PROPOSALS, channels, *heads.box_roi_pool.output_size, device="meta")
    heads.box_predictor(heads.box_head(boxes))
    if heads.has_mask():
        masks = torch.empty(_MASKS, channels, *heads.mask_roi_pool.output_size, device="meta")
        heads.mask_predictor(heads.mask_head(masks))


class _ToolkitCounter:
    """The rules that give every printed digit of the rows that table 5 does not quote.

    Convolutions: multiply-adds, and one a bias. Transposed convolutions: as if each output position
    saw the whole kernel, which for the mask head's is four times too many. Linear layers:
    multiply-adds. Batch norm: 2 an element. ReLU: 1 an element. Pooling: its inputs. All else,
    functions and matrix products included: nothing. The toolkit calls the RPN's ReLU as a function
    and those of the box head as modules; torchvision has it the other way round.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.operations = 0
        for name, module in detector.named_modules():
            if not (name.startswith("rpn.") and isinstance(module, nn.ReLU)):
                module.register_forward_hook(self._count)
            if name.endswith(("box_head.fc6", "box_head.fc7")):
                module.register_forward_hook(self._count_elements)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            kernel = module.weight.numel() // module.out_channels
            self.operations += output.numel() * (kernel + (module.bias is not None))
        elif isinstance(module, nn.Linear):
            self.operations += output.numel() * module.in_features
        elif isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            self.operations += 2 * output.numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            self._count_elements(module, inputs, output)
        elif isinstance(module, nn.MaxPool2d | nn.AdaptiveAvgPool2d | ChannelGate):
            self.operations += inputs[0].numel()

    def _count_elements(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.operations += output.numel()
