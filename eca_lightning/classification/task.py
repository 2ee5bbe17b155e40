"""Image classification."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.blocks import describe_tails
from eca_lightning.backbones.gradient_checkpointing import checkpoint_gradients
from eca_lightning.backbones.network import layout_of
from eca_lightning.classification.finetuning import FineTuning, prepare_network
from eca_lightning.classification.losses import (
    ClassWeights,
    LossName,
    classification_loss,
    prepare_loss,
    weights_of,
)
from eca_lightning.classification.metrics import TopKAccuracy
from eca_lightning.classification.mixing import Mixing
from eca_lightning.classification.scoring import Batch, ScoredClassifier
from eca_lightning.classification.start_weights import start_from
from eca_lightning.utils.checks import require, require_uint8
from eca_lightning.utils.compilers import missing_for_gpu_kernels

Compile = bool | Literal["reduce-overhead", "max-autotune"] | None
"""Whether to compile, or the mode of ``torch.compile``."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageClassifier(ScoredClassifier, pipeline_tag="image-classification"):
    """Train and evaluate a classification backbone.

    Logs ``train/loss`` and ``train/top1``, and ``loss``, ``top1``, ``top5`` and ``macro_accuracy``,
    the mean recall of the classes, of ``val`` and ``test``. These count each image once, and are
    equal to the last digit on any number of ranks; their loss is the cross-entropy, whatever the
    training's. With ``mixing`` there is no ``train/top1``, as no single label is right.

    Args:
        backbone: The network; see :class:`eca_lightning.backbones.BackboneConfig`.
        optimizer: Builds the optimizer from parameter groups.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        loss: What training minimizes: the name of a loss, see `classification_loss`; or a class,
            such as `FocalLoss`, whose instance maps logits and targets to the loss of each row.
        label_smoothing: Fraction of each target spread over all classes, in training only.
        bce_target_threshold: For ``binary_cross_entropy``: training targets above it become 1 and
            all others 0, so that each class of a mixture is fully present. Default: unchanged.
        class_weights: Weights of the classes in the training loss: a list, or ``balanced``, by
            which all classes weigh the same in an epoch. Default: every image weighs the same.
        mixing: Train on mixtures of images; see `Mixing`.
        flip_tta: Evaluate and predict by the mean logits of each image and its mirror image.
        class_metrics: Log the recall of each class as well, such as ``val/recall/NAME``.
        mean: Mean of each image channel, on the scale from 0 to 1.
        std: Standard deviation of each image channel, on the same scale.
        compile: Run normalization and backbone through ``torch.compile``, in its default mode if
            true. Default: in training on GPUs alone. Checkpoints are the same either way.
        weights: Weights from which a new run starts: a file that ``import`` reads, the folder of a
            run, torchvision:NAME, timm:NAME or hf-hub:OWNER/NAME. A classifier of other classes is
            replaced. A resumed run, and one without training, do not read them. Default: none.
        finetuning: Freeze stages, and train at rates by depth; see `FineTuning`.
        gradient_checkpointing: Recompute the activations of each block in the backward pass, for
            GPUs of little memory; see `checkpoint_gradients`. Not with ``compile``.
        training: Further options of `VisionTask`.
    """

    network_option = "backbone"
    network_config = BackboneConfig
    not_weights = ("fused", "stochastic_depth")
    missing_network = "no classifier"
    unsaved_options = ("weights",)
    main_metric = "top1"
    equal_sizes = True
    charts: ClassVar = {
        "Run": {
            # A line has the color of its run: training and validation need charts of their own.
            "training loss": ["train/loss"],
            "validation loss": ["val/loss"],
            "training top-1": ["train/top1"],
            "validation top-1": ["val/top1"],
            "validation top-5": ["val/top5"],
            "calibration error": ["val/calibration_error"],
        },
        "Attention gates, one line per layer": {
            "mean": ["val_gates_mean/"],
            "standard deviation": ["val_gates_spread/"],
            "saturation": ["val_gates_saturation/"],
        },
    }
    mean: Tensor
    std: Tensor
    _logits: Callable[..., Tensor]

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(
            params, lr=0.1, momentum=0.9, weight_decay=1e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: LossName | nn.Module = "cross_entropy",
        label_smoothing: float = 0.0,
        bce_target_threshold: float | None = None,
        class_weights: ClassWeights | None = None,
        mixing: Mixing | None = None,
        flip_tta: bool = False,
        class_metrics: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        compile: Compile = None,
        weights: str | None = None,
        finetuning: FineTuning | None = None,
        gradient_checkpointing: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, **training)
        if isinstance(backbone, dict):  # as checkpoints hold it
            backbone = BackboneConfig(**backbone).require_imported()
        if isinstance(mixing, dict):
            mixing = Mixing(**mixing)
        if isinstance(finetuning, dict):
            finetuning = FineTuning(**finetuning)
        if not len(mean) == len(std) == backbone.in_channels:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values, "
                f"but backbone.in_channels is {backbone.in_channels}: give one value per channel "
                "as model.mean and as model.std"
            )
        for name, values in (("mean", mean), ("std", std)):
            require(all(0 <= v <= 1 for v in values), name, "values from 0 to 1", values)
        require(all(std), "std", "above 0", std)
        require(0 <= label_smoothing <= 1, "label_smoothing", "from 0 to 1", label_smoothing)
        if bce_target_threshold is not None and loss != "binary_cross_entropy":
            raise ValueError("bce_target_threshold is for loss: binary_cross_entropy: leave it out")
        plain = {"mixing": mixing, "finetuning": finetuning}
        self.save_hyperparameters({k: asdict(v) if v else None for k, v in plain.items()})
        self.mixing, self.flip_tta, self.weights = mixing, flip_tta, weights
        if isinstance(loss, str):  # code is in no checkpoint
            self.save_hyperparameters({"loss": loss})
        smoothing = {"label_smoothing": label_smoothing}
        self.loss, self.label_smoothing = prepare_loss(loss, smoothing), label_smoothing
        self.class_weights, self.class_metrics = class_weights, class_metrics
        self._weight_of_class: Tensor | None = None
        self.bce_target_threshold = bce_target_threshold
        excluded = bool(compile and gradient_checkpointing)
        require(not excluded, "compile", "false with gradient_checkpointing", compile)
        self.gradient_checkpointing = gradient_checkpointing
        self._takes_classes = backbone.num_classes is None
        self._build(replace(backbone, num_classes=backbone.num_classes or 1000))
        self.finetuning = finetuning
        (finetuning or FineTuning()).frozen(self.backbone)  # raises if it has fewer stages
        self._logits = type(self)._classify
        if compile:
            self._compile(compile)
        for name, values in (("mean", mean), ("std", std)):
            on_byte_scale = 255 * torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, on_byte_scale, persistent=False)

        self.train_top1 = TopKAccuracy()
        self._create_scores()

    def _build(self, backbone: BackboneConfig) -> None:
        self.backbone_config = backbone
        self.save_hyperparameters({"backbone": asdict(backbone)})
        self.backbone = backbone.build().to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            checkpoint_gradients(self.backbone)
        self._create_counts()

    def logged_metrics(self) -> list[str]:
        """Return the names of the metrics that a run of training and validation logs."""
        train = () if self.mixing else ("train/top1",)
        return ["train/loss", *train, *super().logged_metrics()]

    def setup(self, stage: str) -> None:
        """Take the classes from the data, and log which block tails are fused."""
        if stage == "fit":
            rebuilt = self._takes_classes and self._take_classes()
            prepare_network(self.trainer, self, rebuilt)
        super().setup(stage)
        if stage == "fit":
            data = getattr(self.trainer, "datamodule", None)
            self.preprocessing = getattr(data, "preprocessing", None) or self.preprocessing
            weights = weights_of(self.class_weights, data, self.num_classes)
            device = self.trainer.strategy.root_device  # where Lightning moves the model later
            self._weight_of_class = None if weights is None else weights.to(device)
            rank_zero_info(describe_tails(self.backbone))
            if device.type == "cpu":  # or maps become channels_last
                self.backbone.to(memory_format=torch.contiguous_format)
            compiles = self.hparams["compile"] is None and not self.gradient_checkpointing
            if device.type == "cuda" and compiles:
                if missing := missing_for_gpu_kernels():
                    rank_zero_warn(f"Training is not compiled, which would be faster: {missing}")
                else:
                    self._compile(True)

    def _take_classes(self) -> bool:
        """Build the network for the classes of the data, and return whether it had others."""
        count = self.classes_of(getattr(self.trainer, "datamodule", None))
        if not count or count == self.num_classes:
            return False
        is_classifier = layout_of(self.backbone).is_classifier
        others = {k: v for k, v in self.backbone.state_dict().items() if not is_classifier(k)}
        self._build(replace(self.backbone_config, num_classes=count))
        self.backbone.load_state_dict(others, strict=False)
        return True

    def _compile(self, mode: Literal[True, "reduce-overhead", "max-autotune"]) -> None:
        # Not the module, whose keys would change and whose forward Lightning replaces under DDP.
        # Once for each size of images, of which a run has a few: kernels for any are slower.
        name = None if mode is True else mode
        run = torch.compile(type(self)._classify, dynamic=False, mode=name)
        # In these modes the next call writes its output to the same memory.
        self._logits = run if mode is True else lambda *inputs: run(*inputs).clone()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Load weights to start from, unless the run resumes, and build the optimizer.

        It is the last hook before callbacks search for a learning rate.
        """
        if self.weights is not None and self.trainer.ckpt_path is None:
            rank_zero_info(start_from(self.backbone, self.backbone_config, self.weights))
            self.weights = None  # a second fit continues the first
        return super().configure_optimizers()

    def lr_scales(self) -> dict[nn.Parameter, float]:
        """Return the learning rates that fine-tuning gives to weights, as fractions."""
        return self.finetuning.lr_scales(self.backbone) if self.finetuning else {}

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed the generators, and freeze what is not trained in this epoch."""
        super().on_train_batch_start(batch, batch_index)
        if self.finetuning:
            self.finetuning.hold(self.backbone, self.current_epoch, self.trainer.world_size)

    def on_after_backward(self) -> None:
        """Discard the gradients of frozen stages, see `FineTuning.hold`."""
        if self.finetuning and self.finetuning.is_frozen(self.current_epoch):
            for module in self.finetuning.frozen(self.backbone):
                module.zero_grad()

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to logits (N, num_classes)."""
        return self._logits(self, images, False)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to what the backbone takes.

        A network for one channel sees color images in gray, as Pillow converts them.

        Raises:
            ValueError: If the network takes images of other channels.
        """
        require_uint8(images)
        given, taken = images.shape[1], self.mean.shape[1]
        if (given, taken) == (3, 1):
            red, green, blue = images.int().unbind(1)
            images = ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).unsqueeze(1)
        elif given not in (1, taken):
            raise ValueError(
                f"images have {given} channels, but model.backbone.in_channels is {taken}: set it "
                f"to {given}"
            )
        return (images - self.mean) / self.std

    def _classify(self, inputs: Tensor, normalized: bool) -> Tensor:
        if not normalized:
            inputs = self.normalize(inputs)
        # On CPUs, torch's batch norm of channels_last maps loses three digits in training.
        exact = self.training and inputs.device.type == "cpu"
        memory_format = torch.contiguous_format if exact else torch.channels_last
        return self.backbone(inputs.contiguous(memory_format=memory_format))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean loss of a batch."""
        images, labels = batch
        if self.mixing is None:
            targets, logits = labels, self(images)
        else:
            mixed, targets = self.mixing(self.normalize(images), labels, self.num_classes)
            logits = self._logits(self, mixed, True)
        options = (self.label_smoothing, self.bce_target_threshold, self._weight_of_class)
        loss = classification_loss(logits, targets, self.loss, *options)
        self.log("train/loss", loss)
        if self.mixing is None:
            self.train_top1.update(logits, labels)
            self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss
