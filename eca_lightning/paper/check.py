"""Parameters and operations of published networks, compared with the printed figures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from eca_lightning.attention.eca import EfficientChannelAttention
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import Complexity, complexity
from eca_lightning.backbones.network import outline
from eca_lightning.detection.complexity import detector_complexity
from eca_lightning.detection.networks import DetectorConfig
from eca_lightning.paper.tables import PaperModel, Printed


@dataclass(frozen=True)
class AuditRow:
    """Counts of a network, and the paper's figures for it.

    Attributes:
        cost: Our counts; of attention alone where the printed ones are.
        kernels: ECA's kernel sizes, one for each stage; empty for detectors and other attention.
    """

    paper: PaperModel
    cost: Complexity
    kernels: tuple[int, ...]

    @property
    def operations(self) -> int:
        """The count to compare with the printed operations."""
        return self.cost.macs if self.paper.counts_macs else self.cost.paper_flops

    def record(self) -> dict[str, Any]:
        """Return the row of a CSV file.

        M is 10^6 and G 10^9, Mi is 2^20 and Gi 2^30; differences are in percent of the printed
        figure. ``operations`` follow the counter of the paper's table; ``paper_counts`` names the
        count that the printed operations are compared with.
        """
        printed = self.paper
        return {
            "table": printed.table,
            "model": printed.name,
            "kernels": " ".join(map(str, self.kernels)),
            "parameters": self.cost.parameters,
            "parameters_M": round(self.cost.parameters / 10**6, 6),
            "parameters_Mi": round(self.cost.parameters / 2**20, 6),
            **_compared("parameters", printed.parameters, self.cost.parameters),
            "multiply_adds": self.cost.macs,
            "multiply_adds_G": round(self.cost.macs / 10**9, 6),
            "operations": self.cost.paper_flops,
            "operations_G": round(self.cost.paper_flops / 10**9, 6),
            "operations_Gi": round(self.cost.paper_flops / 2**30, 6),
            "paper_counts": "multiply_adds" if printed.counts_macs else "operations",
            **_compared("operations", printed.operations, self.operations),
            "top1": printed.top1,
            "note": printed.note,
        }


def _compared(name: str, printed: Printed | None, count: int) -> dict[str, Any]:
    return {
        f"{name}_paper": printed.text if printed else "",
        f"{name}_paper_unit": printed.unit if printed else "",
        f"{name}_agree": printed.agrees(count) if printed else "",
        f"{name}_difference": round(printed.difference(count), 3) if printed else "",
    }


def audit(models: Iterable[PaperModel]) -> Iterator[AuditRow]:
    """Count parameters and operations of networks on the meta device."""
    counted: dict[str, Complexity] = {}  # many networks are in several tables

    def cost(config: Any, *image_size: int) -> Complexity:
        key = str((config, image_size))
        if key not in counted:
            count: Any = detector_complexity if isinstance(config, DetectorConfig) else complexity
            counted[key] = count(config, *image_size)
        return counted[key]

    for model in models:
        size = () if model.image_size is None else (model.image_size,)
        total = cost(model.config, *size)
        if model.only_attention:
            total = total - cost(BackboneConfig(model.config.name))
        yield AuditRow(model, total, _kernel_sizes(model.config))


def _kernel_sizes(config: BackboneConfig | DetectorConfig) -> tuple[int, ...]:
    if isinstance(config, DetectorConfig) or config.attention != "eca":
        return ()
    with torch.device("meta"):
        network = config.build()
    stages = outline(config.name).stages
    sizes = {
        stages[name.removesuffix(".attention")]: module.kernel_size
        for name, module in network.named_modules()
        if isinstance(module, EfficientChannelAttention)
    }
    return tuple(sizes.values())
