"""Image classification."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from eca_lightning.backbones import BackboneConfig
from eca_lightning.tasks.optimisation import parameter_groups, scale_learning_rate

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64; the label -1 marks rows that only pad a rank."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageClassifier(LightningModule):
    """Trains and scores a classification backbone.

    Logs ``train/loss`` and ``train/top1``, and ``loss``, ``top1`` and ``top5`` of ``val`` and
    ``test``. Every figure counts each image once, whatever the batch size or number of ranks.

    Args:
        backbone: The network, as data; see :class:`eca_lightning.backbones.BackboneConfig`.
        optimizer: Builds the optimizer from parameter groups.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        lr_interval: Whether the schedule advances per ``epoch`` or per optimizer ``step``. With
            ``step`` it is also given the run's number of steps, as ``total_steps``.
        lr_reference_batch: The images a step that the optimizer's learning rate belongs to. The
            linear rule then scales it to the run's batch size x ranks x accumulated batches.
            Default: no scaling.
        exempt_norms_and_biases: No weight decay for normalisation layers and biases.
        label_smoothing: Share of each target spread over all classes, in training only.
        mean: Mean of each image channel, on the scale from 0 to 1.
        std: Standard deviation of each image channel, on the same scale.
        compile: Run the backbone through ``torch.compile``. Checkpoints are the same either way.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(
            params, lr=0.1, momentum=0.9, weight_decay=1e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        lr_reference_batch: int | None = None,
        exempt_norms_and_biases: bool = False,
        label_smoothing: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(backbone, dict):  # as checkpoints hold it
            backbone = BackboneConfig(**backbone)
        if not len(mean) == len(std) == backbone.in_channels:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values, "
                f"but backbone.in_channels is {backbone.in_channels}: give one value per channel"
            )
        if lr_reference_batch is not None and lr_reference_batch < 1:
            raise ValueError(f"lr_reference_batch must be at least 1, got {lr_reference_batch}")
        self.save_hyperparameters(ignore=["backbone", "optimizer", "lr_scheduler"])
        self.save_hyperparameters({"backbone": asdict(backbone)})
        self.class_names: list[str] | None = None
        self.optimizer_builder = optimizer
        self.lr_scheduler_builder = lr_scheduler
        self.lr_interval = lr_interval
        self.lr_reference_batch = lr_reference_batch
        self.exempt_norms_and_biases = exempt_norms_and_biases
        self.label_smoothing = label_smoothing

        self.backbone = backbone.build().to(memory_format=torch.channels_last)
        if compile:
            self.backbone.compile()  # in place: a wrapper would leave its prefix in every key
        for name, values in (("mean", mean), ("std", std)):
            on_byte_scale = 255 * torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, on_byte_scale, persistent=False)

        classes = backbone.num_classes
        top1 = MulticlassAccuracy(classes, average="micro", ignore_index=-1)
        top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", ignore_index=-1)
        self.train_top1 = top1.clone()
        scores = MetricCollection({"loss": MeanMetric(), "top1": top1, "top5": top5})
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")

    def setup(self, stage: str) -> None:
        """Take the class names from the data, and refuse data with more classes than the model."""
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or self.class_names
        classes = self.hparams["backbone"]["num_classes"]
        if names is not None and len(names) != classes:
            raise ValueError(
                f"the data has {len(names)} classes, but backbone.num_classes is {classes}: "
                f"set model.backbone.num_classes to {len(names)}"
            )
        self.class_names = names

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to logits (N, num_classes)."""
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}, but must be uint8: the model normalises them itself"
            )
        normalised = (images - self.mean) / self.std
        return self.backbone(normalised.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean loss of a batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(
            logits, labels, ignore_index=-1, label_smoothing=self.label_smoothing
        )
        self.train_top1.update(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(self.val_scores, batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(self.test_scores, batch)

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the probabilities (N, num_classes) of a batch, float32."""
        return self(batch[0]).float().softmax(dim=1)

    def _score(self, scores: MetricCollection, batch: Batch) -> None:
        images, labels = batch
        logits = self(images).float()
        counted = labels >= 0
        losses = F.cross_entropy(logits[counted], labels[counted], reduction="none")
        scores["loss"].update(losses)
        scores["top1"].update(logits, labels)
        scores["top5"].update(logits, labels)
        self.log_dict(dict(scores.items()), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""
        optimizer = self.optimizer_builder(parameter_groups(self, self.exempt_norms_and_biases))
        if self.lr_reference_batch is not None:
            batch = self._images_a_step()
            lr = scale_learning_rate(optimizer, batch, self.lr_reference_batch)
            rank_zero_info(
                f"learning rate {lr:.4g}: scaled from {self.lr_reference_batch} images a step "
                f"to this run's {batch}"
            )
        if self.lr_scheduler_builder is None:
            return {"optimizer": optimizer}
        horizon = {}
        if self.lr_interval == "step":
            horizon["total_steps"] = int(self.trainer.estimated_stepping_batches)
        schedule = self.lr_scheduler_builder(optimizer, **horizon)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": schedule,
                "interval": self.lr_interval,
                "monitor": getattr(schedule, "monitor", None),  # ReduceLROnPlateau has one
            },
        }

    def _images_a_step(self) -> int:
        data = getattr(self.trainer, "datamodule", None)
        batch_size = getattr(data, "batch_size", None)
        if batch_size is None:
            raise ValueError(
                "lr_reference_batch needs a data module with a batch_size: "
                "give one, or leave lr_reference_batch out"
            )
        return batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the class names with the weights."""
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another architecture, and restore the class names."""
        saved = checkpoint.get("hyper_parameters", {}).get("backbone", {})
        differences = architecture_differences(saved, self.hparams["backbone"])
        if differences:
            raise ValueError(f"the checkpoint is of another architecture: {differences}")
        self.class_names = checkpoint.get("class_names")


def architecture_differences(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Say in what the backbone of a checkpoint differs from a config's; empty if in nothing."""
    differences = [
        f"{key} is {saved[key]!r} in the checkpoint and {given[key]!r} here"
        for key in given
        if key in saved and saved[key] != given[key]
    ]
    return "; ".join(differences)
