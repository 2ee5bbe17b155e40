"""Object detection and instance segmentation."""

from dataclasses import asdict
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from eca_lightning.detection.backbone_weights import load_backbone
from eca_lightning.detection.heads import finite_heads, keep_boxes_in_float32
from eca_lightning.detection.metrics import METRICS, DetectionScores
from eca_lightning.detection.networks import DetectorConfig
from eca_lightning.training.task import VisionTask
from eca_lightning.utils.checks import require_uint8

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Images (3, H, W) uint8, of different sizes, and the targets of each."""

Detections = dict[str, Tensor]
"""Of one image: ``boxes`` (n, 4) XYXY in pixels, ``scores`` (n,), the highest first, ``labels``
(n,) int64 from 0 and, by Mask R-CNN, ``masks`` (n, H, W) uint8 of 0 and 1."""


class ObjectDetector(VisionTask, pipeline_tag="object-detection"):
    """Train and evaluate a detector.

    Logs ``train/loss`` and its parts, ``train/loss_*``, and COCO's twelve metrics of ``val`` and
    ``test``: ``val/box_AP``, ``val/box_AP50`` and so on, with ``mask_`` for those of masks; see
    :class:`eca_lightning.detection.metrics.DetectionScores`. They are equal to the last digit
    on any number of ranks. In mixed precision boxes and losses are float32.

    Args:
        detector: The network; see `DetectorConfig`.
        backbone_weights: Weights of a classifier from which a new run starts the backbone: a
            file that ``import`` reads, the folder of a run, torchvision:NAME, timm:NAME or
            hf-hub:OWNER/NAME. A resumed run, and one without training, do not read it. Default:
            from scratch.
        optimizer: Builds the optimizer from groups of the parameters that are trained.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        class_metrics: Log the average precision of each class as well, ``val/box_AP/NAME``.
        training: Further options of `VisionTask`.
    """

    network_option = "detector"
    network_config = DetectorConfig
    not_weights = (
        *("trainable_layers", "min_size", "max_size", "options"),
        *("backbone.num_classes", "backbone.fused", "backbone.stochastic_depth"),
    )
    # A run that starts from a checkpoint must not load the backbone's weights again.
    unsaved_options = ("backbone_weights",)
    missing_network = (
        "no detector: to start from a classifier's weights, give them as model.backbone_weights"
    )
    data_attributes = ("class_names", "category_ids")
    main_metric = "box_AP"
    charts: ClassVar = {
        "Run": {
            "training loss": ["train/loss"],
            "average precision": ["val/(box|mask)_AP$"],
            "average precision at IoU 0.5": ["val/(box|mask)_AP50$"],
        }
    }

    def __init__(
        self,
        detector: DetectorConfig,
        backbone_weights: str | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(
            params, lr=0.01, momentum=0.9, weight_decay=1e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        class_metrics: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, **training)
        if isinstance(detector, dict):  # as checkpoints hold it
            detector = DetectorConfig(**detector)
        self.save_hyperparameters({"detector": asdict(detector)})
        self.backbone_config = detector.backbone
        self.category_ids: list[int] | None = None
        self.backbone_weights = backbone_weights

        self.detector: Any = detector.build()  # of torchvision, which has no types
        keep_boxes_in_float32(self.detector)
        self.first_label = self.detector.first_label
        self.scores = DetectionScores(self.detector.has_masks, class_metrics)

    def logged_metrics(self) -> list[str]:
        """Return the names of the metrics that a run of training and validation logs."""
        parts = ["classification", "bbox_regression", "classifier", "box_reg"]
        parts += ["objectness", "rpn_box_reg", "mask"]
        scores = [f"val/{kind}_{name}" for kind in self.scores.kinds for name in METRICS]
        return ["train/loss", *(f"train/loss_{part}" for part in parts), *scores]

    def setup(self, stage: str) -> None:
        """Take the classes from the data, and raise a ValueError if it reads no masks and must."""
        super().setup(stage)
        reads_masks = getattr(getattr(self.trainer, "datamodule", None), "masks", True)
        if stage != "predict" and self.detector.has_masks and not reads_masks:
            raise ValueError("Mask R-CNN learns masks and is scored by them: set --data.masks true")

    def on_fit_start(self) -> None:
        """Load the backbone's weights, unless the run resumes from a checkpoint."""
        super().on_fit_start()
        if self.backbone_weights is not None and self.trainer.ckpt_path is None:
            rank_zero_info(load_backbone(self.detector, self.backbone_weights))
            self.backbone_weights = None  # a second fit continues the first

    def forward(self, images: list[Tensor]) -> list[Detections]:
        """Find the objects on uint8 images (3, H, W) of any sizes; in evaluation mode only.

        Each image goes through the network alone, as usual for COCO's metrics: a batch is padded to
        one size, and detections near the padding would depend on the other images.
        """
        found = []
        for image in _as_floats(images):
            with finite_heads(self.detector) as finite:
                found += self.detector([image])
            self.count_not_finite(~torch.stack(finite).all())
        for detections in found:
            detections["labels"] = detections["labels"] - self.first_label
            if "masks" in detections:
                detections["masks"] = (detections["masks"][:, 0] > 0.5).byte()
        return found

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the sum of the losses of a batch."""
        images, targets = batch
        targets = [target | {"labels": target["labels"] + self.first_label} for target in targets]
        losses = self.detector(_as_floats(images), targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss)
        for name, part in losses.items():
            self.log(f"train/loss_{name.removeprefix('loss_')}", part)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, list[Detections]]:
        """Score a batch; callbacks get the detections on each image as ``detections``."""
        return {"detections": self._score(batch, batch_index)}

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")
        super().on_validation_epoch_end()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")
        super().on_test_epoch_end()

    def predict_step(self, batch: Batch, batch_index: int) -> list[Detections]:
        """Return the detections on each image of a batch."""
        return self(batch[0])

    def _score(self, batch: Batch, batch_index: int) -> list[Detections]:
        if batch_index == 0:  # the last validation may have been interrupted
            self.scores.reset()
        images, targets = batch
        self.scored_at = self.global_step
        found = self(images)
        self.scores.update(found, targets)
        return found

    def _log_scores(self, prefix: str) -> None:
        for name, score in self.scores.compute(self.class_names).items():
            on_bar = name in ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
            # Equal on all ranks already, and the maximum of equal numbers is exact, unlike a mean.
            self.log(f"{prefix}/{name}", score, on_bar, sync_dist=True, reduce_fx="max")


def _as_floats(images: list[Tensor]) -> list[Tensor]:
    for image in images:
        require_uint8(image)
    return [image / 255 for image in images]
