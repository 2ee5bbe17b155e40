"""Describe a run: its config, the cost of its network, and the charts to look at."""

import json
from dataclasses import replace
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity
from eca_lightning.training.callbacks.summaries import summary_writer
from eca_lightning.training.task import VisionTask
from eca_lightning.utils.tables import Table

_CHARTS = {
    "learning rate": ["train/lr"],
    "images per second": ["train/images_per_s"],
    "fraction of the time waiting for data": ["train/data_wait"],
    "gradient norm": ["train/gradient_norm"],
}
"""Charts of every run, after those of its task."""


class NetworkSummary(ModelSummary):
    """Log the size of the network in one line, once the first batch shows that of its images."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out Lightning's table, which counts no operations without an example."""
        self._written = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any
    ) -> None:
        """Log the line."""
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        text = f"network: {sum(size for size, _ in sizes):,} parameters"
        if frozen := sum(size for size, trained in sizes if not trained):
            text += f", of which {frozen:,} are frozen"
        if isinstance(pl_module, VisionTask) and (size := pl_module.image_size(batch)):
            macs = complexity(pl_module.backbone_config, size).macs
            text += f"; {macs:,} multiply-adds for an image of {size[0]} x {size[1]} pixels"
        rank_zero_info(text)


class RunDescription(Callback):
    """Describe a run on TensorBoard.

    As text, the resolved config (``run/config``) and the cost of the backbone with and without its
    attention (``run/complexity``). As layout, the Custom Scalars page: the most important metrics.
    """

    def __init__(self) -> None:
        self._costs_written = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config and the layout."""
        self._costs_written = False
        writer = summary_writer(trainer) if trainer.is_global_zero else None
        if writer is None:
            return
        pages = pl_module.charts if isinstance(pl_module, VisionTask) else {}
        layout = {
            page: {title: ["Multiline", tags] for title, tags in charts.items()}
            for page, charts in (pages | {"Run": pages.get("Run", {}) | _CHARTS}).items()
        }
        writer.add_custom_scalars(layout)
        text = yaml.safe_dump(run_config(trainer, pl_module), sort_keys=False)
        writer.add_text("run/config", f"```yaml\n{text}```")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any
    ) -> None:
        """Write the cost, once the first batch shows the size of its images."""
        if self._costs_written:
            return
        self._costs_written = True
        writer = summary_writer(trainer)
        if writer is None or not trainer.is_global_zero or not isinstance(pl_module, VisionTask):
            return
        if size := pl_module.image_size(batch):
            table = cost_table(pl_module.backbone_config, size)
            writer.add_text("run/complexity", table)


def run_config(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return the resolved config of a run from the command line; of others the model's options."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SaveConfigCallback):
            return yaml.safe_load(callback.parser.dump(callback.config, skip_unset=False))
    return {"model": json.loads(json.dumps(dict(pl_module.hparams), default=str))}


def cost_table(backbone: BackboneConfig, image_size: tuple[int, int]) -> str:
    """Format the cost of a backbone with and without attention, on (height, width), as a table."""
    full = replace(backbone, fused=False)  # fusing changes the kernels, not the operations
    plain = replace(full, attention=None, attention_options={})
    before, after = complexity(plain, image_size), complexity(full, image_size)
    added = after - before
    name = f"{full.name} with {full.attention}" if full.attention else full.name
    rows = [
        [plain.name, f"{before.parameters:,}", f"{before.macs:,}"],
        [name, f"{after.parameters:,}", f"{after.macs:,}"],
        ["difference", f"{added.parameters:+,}", f"{added.macs:+,}"],
    ]
    table = Table(["network", "parameters", "multiply-adds"], {"": rows}).markdown()
    return f"One image of {image_size[0]} x {image_size[1]} pixels:\n\n{table}"
