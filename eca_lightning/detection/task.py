"""Object detection and instance segmentation."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from eca_lightning.detection.float32_boxes import keep_boxes_in_float32
from eca_lightning.detection.metrics import DetectionScores
from eca_lightning.detection.networks import FIRST_LABEL, DetectorConfig, load_backbone
from eca_lightning.training.hub import HubTask
from eca_lightning.training.optim import build_optimizer
from eca_lightning.training.seeding import seed_from_place
from eca_lightning.training.task import architecture_differences

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Images (3, H, W) uint8, whose sizes differ, and what is on each of them."""

Detections = dict[str, Tensor]
"""Of an image ``boxes`` (n, 4) XYXY in its pixels, ``scores`` (n,), the highest first, ``labels``
(n,) int64 from 0 and, by Mask R-CNN, ``masks`` (n, H, W) uint8 of 0 and 1."""

_SAME_WEIGHTS = ("trainable_layers", "min_size", "max_size", "options")
"""Options of a detector with which a checkpoint of other values can be loaded."""


class ObjectDetector(HubTask, LightningModule, pipeline_tag="object-detection"):
    """Trains and scores a detector.

    Logs ``train/loss`` and its parts, ``train/loss_*``, and COCO's twelve figures of ``val`` and
    ``test``: ``val/box_AP``, ``val/box_AP50`` and so on, with ``mask_`` for those of masks; see
    :class:`eca_lightning.detection.metrics.DetectionScores`. They are equal to the last digit
    on any number of ranks.

    All that is random in a training step follows from the run's seed, the epoch, the batch and the
    rank, so that a resumed run draws what an uninterrupted one would have. In mixed precision
    boxes and losses are float32.

    Args:
        detector: The network, as data; see `DetectorConfig`.
        backbone_weights: Weights of a classifier from which a new run starts the backbone: a
            checkpoint of ours, or a state dict of ours or torchvision's. A resumed run and one
            that only scores do not read it. Default: from scratch.
        optimizer: Builds the optimizer from parameter groups, which have what learns.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        lr_interval: Whether the schedule advances per ``epoch`` or per optimizer ``step``. With
            ``step`` it is also given ``total_steps`` and ``steps_per_epoch``, of the optimizer.
        lr_base_batch_size: The images a step that the optimizer's learning rate belongs to. The
            linear rule then scales it to the run's batch size x ranks x accumulated batches.
            Default: no scaling.
        no_decay_norm_bias: No weight decay for normalization layers and biases.
        class_metrics: Log the average precision of each class as well, ``val/box_AP/NAME``.
    """

    def __init__(
        self,
        detector: DetectorConfig,
        backbone_weights: Path | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(
            params, lr=0.01, momentum=0.9, weight_decay=1e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        lr_base_batch_size: int | None = None,
        no_decay_norm_bias: bool = False,
        class_metrics: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(detector, dict):  # as checkpoints hold it
            detector = DetectorConfig(**detector)
        if lr_base_batch_size is not None and lr_base_batch_size < 1:
            raise ValueError(f"lr_base_batch_size must be at least 1, got {lr_base_batch_size}")
        # Lightning prefers a checkpoint's to a command's: what only scoring needs is not saved, nor
        # what a run that starts from the checkpoint must not do again.
        unsaved = ["detector", "backbone_weights", "optimizer", "lr_scheduler", "class_metrics"]
        self.save_hyperparameters(ignore=unsaved)
        self.save_hyperparameters({"detector": asdict(detector)})
        self.class_names: list[str] | None = None
        self.category_ids: list[int] | None = None
        self.backbone_weights = backbone_weights
        # Functions, which copies of the module share: what the CLI makes here cannot be copied.
        self.optimizer_builder = lambda groups: optimizer(groups)
        self.lr_scheduler_builder = lr_scheduler and (lambda *args, **kw: lr_scheduler(*args, **kw))
        self.lr_interval = lr_interval
        self.lr_base_batch_size = lr_base_batch_size
        self.no_decay_norm_bias = no_decay_norm_bias

        self.detector: Any = detector.build()  # of torchvision, which has no types
        keep_boxes_in_float32(self.detector)
        self.first_label = FIRST_LABEL[detector.name]
        self.scores = DetectionScores(detector.name == "mask_rcnn", class_metrics)

    def setup(self, stage: str) -> None:
        """Take the classes from the data, and refuse data with more classes than the model."""
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or self.class_names
        classes = self.hparams["detector"]["num_classes"]
        if names is not None and len(names) != classes:
            raise ValueError(
                f"the data has {len(names)} classes, but detector.num_classes is {classes}: "
                f"set model.detector.num_classes to {len(names)}"
            )
        self.class_names = names
        self.category_ids = getattr(data, "category_ids", None) or self.category_ids

    def on_fit_start(self) -> None:
        """Load the backbone's weights, unless the run goes on from a checkpoint."""
        if self.backbone_weights is not None and self.trainer.ckpt_path is None:
            rank_zero_info(load_backbone(self.detector, self.backbone_weights))
            self.backbone_weights = None  # a second fit goes on from the first

    def forward(self, images: list[Tensor]) -> list[Detections]:
        """Find the objects on uint8 images (3, H, W) of any sizes; in evaluation mode only.

        Each image goes through the network by itself, as COCO's figures are taken: in a batch all
        are padded to one size, and what is found near the padding would depend on the others.
        """
        found = [self.detector([image])[0] for image in _as_floats(images)]
        for detections in found:
            detections["labels"] = detections["labels"] - self.first_label
            if "masks" in detections:
                detections["masks"] = (detections["masks"][:, 0] > 0.5).byte()
        return found

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed torch's generators, whose state no checkpoint holds, from the place in the run."""
        seed_from_place(self, batch_index)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the sum of the losses of a batch."""
        images, targets = batch
        targets = [target | {"labels": target["labels"] + self.first_label} for target in targets]
        losses = self.detector(_as_floats(images), targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        for name, part in losses.items():
            self.log(f"train/loss_{name.removeprefix('loss_')}", part)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget what a validation that was interrupted has left."""
        self.scores.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, list[Detections]]:
        """Score a batch; callbacks are given what was found on each image as ``detections``."""
        return {"detections": self._score(batch)}

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Forget what a test that was interrupted has left."""
        self.scores.reset()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def predict_step(self, batch: Batch, batch_index: int) -> list[Detections]:
        """Return what was found on each image of a batch."""
        return self(batch[0])

    def _score(self, batch: Batch) -> list[Detections]:
        images, targets = batch
        self.scored_at = self.global_step
        found = self(images)
        self.scores.update(found, targets)
        return found

    def _log_scores(self, prefix: str) -> None:
        for name, score in self.scores.compute(self.class_names).items():
            # Equal on all ranks already, and still after Lightning has asked them: a mean may not.
            options: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max"}
            on_bar = name in ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
            self.log(f"{prefix}/{name}", score, prog_bar=on_bar, **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""
        return build_optimizer(
            self,
            self.optimizer_builder,
            self.lr_scheduler_builder,
            self.lr_interval,
            self.lr_base_batch_size,
            self.no_decay_norm_bias,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the classes and the scores with the weights."""
        checkpoint["class_names"] = self.class_names
        checkpoint["category_ids"] = self.category_ids
        checkpoint["scores"] = self.known_scores

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another architecture, and restore the classes and the scores."""
        saved = checkpoint.get("hyper_parameters", {}).get("detector")
        differences = detector_differences(saved, self.hparams["detector"])
        if differences:
            raise ValueError(f"the checkpoint is of another architecture: {differences}")
        self.class_names = checkpoint.get("class_names")
        self.category_ids = checkpoint.get("category_ids")
        self.loaded_scores = checkpoint.get("scores", {})


def detector_differences(saved: dict[str, Any] | None, given: dict[str, Any]) -> str:
    """Say in what the detector of a checkpoint differs from a config's; empty if in nothing.

    How images are scaled, what learns and the ``options`` of torchvision's class are no part of
    the architecture, nor are a classifier's classes.

    Args:
        saved: ``hyper_parameters["detector"]`` of the checkpoint; None where it has none.
        given: A :class:`DetectorConfig` as dictionary.
    """
    if saved is None:
        return (
            "it holds no detector: to start from a classifier's weights, "
            "give them as model.backbone_weights"
        )
    parts = [(saved, given, {*_SAME_WEIGHTS, "backbone"})]
    parts.append((saved.get("backbone", {}), given["backbone"], {"num_classes"}))
    found = [
        architecture_differences({k: v for k, v in old.items() if k not in left_out}, new)
        for old, new, left_out in parts
    ]
    return "; ".join(filter(None, found))


def _as_floats(images: list[Tensor]) -> list[Tensor]:
    for image in images:
        if image.dtype != torch.uint8:
            raise TypeError(
                f"images are {image.dtype}, but must be uint8: the model normalizes them itself"
            )
    return [image / 255 for image in images]
