"""What is trained, and how: text beside the curves."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from torch import Tensor

from eca_lightning.backbones import BackboneConfig
from eca_lightning.training.callbacks.summaries import summary_writer
from eca_lightning.utils.tables import Table

_CURVES = {
    "Run": {
        "loss": ["train/loss", "val/loss"],
        "top-1 accuracy": ["train/top1", "val/top1"],
        "learning rate": ["lr-[^/]+(/pg1)?$"],
        "images a second": ["train/images_per_s"],
        "share of the time waiting for data": ["train/data_wait"],
        "gradient norm": ["train/gradient_norm"],
        "top-5 accuracy": ["val/top5"],
        "calibration error": ["val/calibration_error"],
    },
    "Attention gates, a line a layer": {
        "mean": ["gates_mean/"],
        "spread": ["gates_spread/"],
        "saturation": ["gates_saturation/"],
    },
}
"""Charts of TensorBoard's first page; each has the curves whose names begin with its patterns."""


class RunDescription(Callback):
    """Describes a run on TensorBoard.

    As text, the resolved config (``run/config``) and what the backbone costs beside the same one
    without attention (``run/complexity``). As layout, the Custom Scalars page: what one looks at
    first, training and validation in one chart.
    """

    def __init__(self) -> None:
        self._costs_written = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config and the layout."""
        self._costs_written = False
        writer = summary_writer(trainer)
        if writer is None or not trainer.is_global_zero:
            return
        writer.add_custom_scalars(
            {
                page: {title: ["Multiline", tags] for title, tags in charts.items()}
                for page, charts in _CURVES.items()
            }
        )
        text = yaml.safe_dump(run_config(trainer, pl_module), sort_keys=False)
        writer.add_text("run/config", f"```yaml\n{text}```", trainer.global_step)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        """Write the costs, once the first batch shows the size of its images."""
        if self._costs_written:
            return
        self._costs_written = True
        writer = summary_writer(trainer)
        if writer and trainer.is_global_zero and "backbone" in pl_module.hparams:
            backbone = BackboneConfig(**pl_module.hparams["backbone"])
            table = cost_table(backbone, tuple(batch[0].shape[2:]))
            writer.add_text("run/complexity", table, trainer.global_step)


def run_config(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """The resolved config of a run from the command line; the model's options of any other."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SaveConfigCallback):
            return yaml.safe_load(callback.parser.dump(callback.config, skip_none=False))
    return {"model": json.loads(json.dumps(dict(pl_module.hparams), default=str))}


def cost_table(backbone: BackboneConfig, image_size: tuple[int, ...]) -> str:
    """Parameters and multiply-adds of a backbone beside those of its plain network, as a table.

    Args:
        backbone: The network.
        image_size: Height and width of an image, in pixels.
    """
    full = replace(backbone, fused=False)  # which is a matter of kernels, not of operations
    plain = replace(full, attention=None, attention_options={})
    rows, costs = [], []
    for config in (plain, full):
        with torch.device("meta"):  # nothing is computed, and no random number drawn
            network = config.build().eval()
            image = torch.empty(1, config.in_channels, *image_size)
        macs = measure_flops(network, partial(network, image)) // 2
        parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        costs.append((parameters, macs))
        name = f"{config.name} with {config.attention}" if config.attention else config.name
        rows.append([name, f"{parameters:,}", f"{macs:,}"])
    (parameters, macs), (all_parameters, all_macs) = costs
    rows.append(["difference", f"{all_parameters - parameters:+,}", f"{all_macs - macs:+,}"])
    height, width = image_size
    title = f"One image of {height} x {width} pixels:\n\n"
    return title + Table(["network", "parameters", "multiply-adds"], {"": rows}).markdown()
