"""Image classification."""

import math
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
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities import dim_zero_cat

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.blocks import describe_tails
from eca_lightning.classification.losses import LossName, classification_loss
from eca_lightning.classification.mixing import Mixing
from eca_lightning.training.hub import HubTask
from eca_lightning.training.optim import build_optimizer
from eca_lightning.training.seeding import seed_from_place
from eca_lightning.training.task import architecture_differences

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64; the label -1 marks rows that fill up a batch."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ExactMean(Metric):
    """The mean of all values, in which their order, batches and ranks leave no trace.

    torchmetrics' MeanMetric adds up in float32, or in bfloat16 where the precision is
    ``bf16-true``, and leaves out what is not a number. Here all values are kept, four bytes each,
    and added up on the CPU by `math.fsum`, whose sum is exact before its one rounding to float64.
    """

    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        """Add values of shape ``(N,)``; N may be 0."""
        self.values.append(values)

    def compute(self) -> Tensor:
        """The mean, float32, without dimensions; not a number without values."""
        values = dim_zero_cat(self.values).tolist()
        mean = math.fsum(values) / len(values) if values else math.nan
        return torch.tensor(mean, dtype=torch.float32, device=self.device)


class ImageClassifier(HubTask, LightningModule, pipeline_tag="image-classification"):
    """Trains and scores a classification backbone.

    Logs ``train/loss`` and ``train/top1``, and ``loss``, ``top1`` and ``top5`` of ``val`` and
    ``test``. These count each image once, and are equal to the last digit on any number of ranks;
    their loss is the cross-entropy, whatever the training's. With ``mixing`` there is no
    ``train/top1``, as no one label is right.

    Dropout, mixing and all else that is random in a training step follow from the run's seed, the
    epoch, the batch and the rank, so that a resumed run draws what an uninterrupted one would have.

    Args:
        backbone: The network, as data; see :class:`eca_lightning.backbones.BackboneConfig`.
        optimizer: Builds the optimizer from parameter groups.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        lr_interval: Whether the schedule advances per ``epoch`` or per optimizer ``step``. With
            ``step`` it is also given ``total_steps`` and ``steps_per_epoch``, of the optimizer.
        lr_base_batch_size: The images a step that the optimizer's learning rate belongs to. The
            linear rule then scales it to the run's batch size x ranks x accumulated batches.
            Default: no scaling.
        no_decay_norm_bias: No weight decay for normalization layers and biases.
        loss: What training minimizes; see `classification_loss`.
        label_smoothing: Share of each target spread over all classes, in training only.
        bce_target_threshold: For ``binary_cross_entropy``: training targets above it become 1 and
            all others 0, so that each class of a mixture is a full yes. Default: as they are.
        mixing: Train on mixtures of images; see `Mixing`.
        flip_tta: Score and predict by the mean logits of each image and its mirror image.
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
        lr_base_batch_size: int | None = None,
        no_decay_norm_bias: bool = False,
        loss: LossName = "cross_entropy",
        label_smoothing: float = 0.0,
        bce_target_threshold: float | None = None,
        mixing: Mixing | None = None,
        flip_tta: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(backbone, dict):  # as checkpoints hold it
            backbone = BackboneConfig(**backbone)
        if isinstance(mixing, dict):
            mixing = Mixing(**mixing)
        if not len(mean) == len(std) == backbone.in_channels:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values, "
                f"but backbone.in_channels is {backbone.in_channels}: give one value per channel"
            )
        if lr_base_batch_size is not None and lr_base_batch_size < 1:
            raise ValueError(f"lr_base_batch_size must be at least 1, got {lr_base_batch_size}")
        if bce_target_threshold is not None and loss != "binary_cross_entropy":
            raise ValueError(
                "bce_target_threshold is for loss: binary_cross_entropy: leave one out"
            )
        # Lightning prefers a checkpoint's to a command's: what only scoring needs is not saved.
        unsaved = ["backbone", "mixing", "optimizer", "lr_scheduler", "flip_tta"]
        self.save_hyperparameters(ignore=unsaved)
        plain = {"backbone": asdict(backbone), "mixing": asdict(mixing) if mixing else None}
        self.save_hyperparameters(plain)
        self.class_names: list[str] | None = None
        # Functions, which copies of the module share: what the CLI makes here cannot be copied.
        self.optimizer_builder = lambda groups: optimizer(groups)
        self.lr_scheduler_builder = lr_scheduler and (lambda *args, **kw: lr_scheduler(*args, **kw))
        self.lr_interval = lr_interval
        self.lr_base_batch_size = lr_base_batch_size
        self.no_decay_norm_bias = no_decay_norm_bias
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.bce_target_threshold = bce_target_threshold
        self.mixing = mixing
        self.flip_tta = flip_tta

        self.backbone = backbone.build().to(memory_format=torch.channels_last)
        if compile:
            # In place: a wrapper would leave its prefix in every key. Once for each size of images,
            # of which a run has a few: kernels for any size would be slower, all the time.
            self.backbone.compile(dynamic=False)
        for name, values in (("mean", mean), ("std", std)):
            on_byte_scale = 255 * torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, on_byte_scale, persistent=False)

        classes = backbone.num_classes
        top1 = MulticlassAccuracy(classes, average="micro", ignore_index=-1)
        top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", ignore_index=-1)
        self.train_top1 = top1.clone()
        scores = MetricCollection({"loss": ExactMean(), "top1": top1, "top5": top5})
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
        if stage == "fit":
            rank_zero_info(describe_tails(self.backbone))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to logits (N, num_classes)."""
        return self._network(self._normalize(images))

    def _normalize(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}, but must be uint8: the model normalizes them itself"
            )
        return (images - self.mean) / self.std

    def _network(self, inputs: Tensor) -> Tensor:
        return self.backbone(inputs.contiguous(memory_format=torch.channels_last))

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed torch's generators, whose state no checkpoint holds, from the place in the run."""
        seed_from_place(self, batch_index)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean loss of a batch."""
        images, labels = batch
        inputs, targets = self._normalize(images), labels
        if self.mixing is not None:
            inputs, targets = self.mixing(inputs, labels, self.hparams["backbone"]["num_classes"])
        logits = self._network(inputs)
        loss = classification_loss(
            logits, targets, self.loss, self.label_smoothing, self.bce_target_threshold
        )
        self.log("train/loss", loss, prog_bar=True)
        if self.mixing is None:
            self.train_top1.update(logits, labels)
            self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Score a batch; callbacks are given its logits, (N, num_classes) float32."""
        return self._score(self.val_scores, batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(self.test_scores, batch)

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the probabilities (N, num_classes) of a batch, float32."""
        return self._scored_logits(batch[0]).softmax(dim=1)

    def _scored_logits(self, images: Tensor) -> Tensor:
        logits = self(images).float()
        if self.flip_tta:
            logits = (logits + self(images.flip(3)).float()) / 2
        return logits

    def _score(self, scores: MetricCollection, batch: Batch) -> Tensor:
        images, labels = batch
        self.scored_at = self.global_step
        logits = self._scored_logits(images)
        counted = labels >= 0
        losses = F.cross_entropy(logits[counted], labels[counted], reduction="none")
        scores["loss"].update(losses)
        scores["top1"].update(logits, labels)
        scores["top5"].update(logits, labels)
        self.log_dict(dict(scores.items()), prog_bar=True)
        return logits

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
        """Keep the class names and the scores with the weights."""
        checkpoint["class_names"] = self.class_names
        checkpoint["scores"] = self.known_scores

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another architecture, and restore the class names and the scores."""
        saved = checkpoint.get("hyper_parameters", {}).get("backbone", {})
        differences = architecture_differences(saved, self.hparams["backbone"])
        if differences:
            raise ValueError(f"the checkpoint is of another architecture: {differences}")
        self.class_names = checkpoint.get("class_names")
        self.loaded_scores = checkpoint.get("scores", {})
