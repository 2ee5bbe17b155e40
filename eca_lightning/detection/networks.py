"""torchvision's Faster R-CNN, Mask R-CNN and RetinaNet over the backbones of this package.

The pyramid (FPN, arXiv 1612.03144) stands on four levels of a backbone: the outputs of a ResNet's
stages, and of MobileNetV2 the last blocks at strides 4, 8 and 16 and its last convolution. With a
plain ResNet the detectors are torchvision's own, keys of the state dict and outputs included.
"""

import inspect
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal, get_args

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.detection.backbone_weights import load_backbone

__all__ = ["FIRST_LABEL", "DetectorConfig", "DetectorName", "Norm", "load_backbone"]

DetectorName = Literal["faster_rcnn", "mask_rcnn", "retinanet"]
Norm = Literal["frozen", "batch", "sync"]
P6Source = Literal["c5", "p5"]
HeadVersion = Literal[1, 2]

FIRST_LABEL: dict[DetectorName, int] = {"faster_rcnn": 1, "mask_rcnn": 1, "retinanet": 0}
"""The label that a network gives to class 0: label 0 of the R-CNNs is their background."""

_DETECTORS: dict[str, Any] = {
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "retinanet": RetinaNet,
}
# Arguments of torchvision's classes that are objects.
_NOT_PLAIN = {"rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor"}
_NOT_PLAIN |= {"mask_roi_pool", "mask_head", "mask_predictor", "anchor_generator", "head"}
_NOT_PLAIN |= {"proposal_matcher", "kwargs"}
_FIRST_ANCHOR = 32
_ASPECT_RATIOS = (0.5, 1.0, 2.0)


@dataclass
class DetectorConfig:
    """A detector, as plain data that YAML and checkpoints can hold.

    Args:
        name: faster_rcnn, mask_rcnn or retinanet.
        backbone: The network under the pyramid; its classifier is left out.
        num_classes: Number of the objects' classes, the background not counted.
        norm: Batch norm of the backbone. ``frozen`` is a fixed map of each channel, for networks
            trained before and a few images a GPU; ``batch`` learns and takes its statistics from
            the batch of one GPU; ``sync`` from all GPUs (in runs of several processes it needs
            GPUs: torch has none for CPUs; in a single process it is ``batch``).
        trainable_layers: How many stages of the backbone learn, counted from its end; of a ResNet's
            five, 3 leave the first convolution and the first stage as they are. The norms of stages
            that do not learn are ``frozen`` whatever ``norm``.
        min_size: Length to which the shorter side of an image is scaled, in pixels. Of several,
            training picks one for each image, and evaluation takes the last.
        max_size: Length that the longer side may have at most, in pixels.
        anchor_sizes: Side of the smallest anchors of each level of the pyramid, in pixels, finest
            level first. Default: 32, 64, 128 and so on.
        anchor_scales: How many sizes of anchors a level has, from its smallest on by equal factors
            that would lead to its double. Default: as in the papers, 3 for RetinaNet and 1 for the
            others.
        fpn_channels: Channels of the pyramid, and of the layers that find masks.
        p6_from: What RetinaNet computes its sixth level from: ``c5``, the backbone's last map, as
            its paper, or ``p5``, the pyramid's, as torchvision's ready-made network.
        head_version: 2 gives RetinaNet the heads of torchvision's second version, with group norms
            and a loss of generalized intersection over union, with which they learn from scratch.
        head_convs: Hidden convolutions of each of RetinaNet's heads, 4 at most, as in its paper.
        options: Further plain arguments of torchvision's class, such as box_batch_size_per_image.
    """

    name: DetectorName
    backbone: BackboneConfig
    num_classes: int = 80
    norm: Norm = "frozen"
    trainable_layers: int = 3
    min_size: list[int] = field(default_factory=lambda: [800])
    max_size: int = 1333
    anchor_sizes: list[int] | None = None
    anchor_scales: int | None = None
    fpn_channels: int = 256
    p6_from: P6Source = "c5"
    head_version: HeadVersion = 1
    head_convs: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.backbone, dict):  # as checkpoints hold it
            self.backbone = BackboneConfig(**self.backbone)

    def build(self) -> nn.Module:
        """Create the network.

        It takes a list of float images (3, H, W) from 0 to 1, of any sizes, and in training a list
        of dicts with ``boxes`` (n, 4), ``labels`` (n,) int64 and, for Mask R-CNN, ``masks``
        (n, H, W) uint8. In training it returns a dict of losses, else for each image a dict of
        ``boxes``, ``labels``, ``scores`` and ``masks``; all boxes are in pixels of those images.

        Raises:
            ValueError: If an option is unknown, out of range or does not fit the others.
        """
        self._check()
        is_retinanet = self.name == "retinanet"
        pyramid: Any = self._pyramid()
        levels = len(pyramid.fpn.inner_blocks) + (2 if is_retinanet else 1)
        anchors = self._anchors(levels)
        key = "anchor_generator" if is_retinanet else "rpn_anchor_generator"
        classes = self.num_classes + FIRST_LABEL[self.name]
        network = _DETECTORS[self.name](
            pyramid,
            classes,
            min_size=tuple(self.min_size),
            max_size=self.max_size,
            **{key: anchors},
            **self.options,
        )
        if self.name == "mask_rcnn" and self.fpn_channels != 256:  # torchvision's is always 256
            width = self.fpn_channels
            network.roi_heads.mask_head = MaskRCNNHeads(width, [width] * 4, 1)
            network.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, classes)
        if self.head_version == 2:
            boxes_a_place = anchors.num_anchors_per_location()[0]
            norm = partial(nn.GroupNorm, 32)
            network.head = RetinaNetHead(self.fpn_channels, boxes_a_place, classes, norm)
            network.head.regression_head._loss_type = "giou"
        if is_retinanet:
            for head in (network.head.classification_head, network.head.regression_head):
                head.conv = head.conv[: self.head_convs]
        network.backbone_config = self.backbone
        return network

    def _check(self) -> None:
        """Refuse what torchvision would take for something else, or explain later and less."""
        for key, allowed in (
            ("name", FIRST_LABEL),
            ("norm", get_args(Norm)),
            ("p6_from", get_args(P6Source)),
            ("head_version", get_args(HeadVersion)),
        ):
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"{key} must be one of {', '.join(map(str, allowed))}, "
                    f"got {getattr(self, key)!r}"
                )
        for key, default in (("p6_from", "c5"), ("head_version", 1), ("head_convs", 4)):
            if getattr(self, key) != default and self.name != "retinanet":
                raise ValueError(f"{key} is RetinaNet's alone: leave it out for {self.name}")
        if self.head_version == 2 and self.fpn_channels % 32:
            raise ValueError(
                f"head_version 2 needs fpn_channels divisible by 32, got {self.fpn_channels}"
            )
        if not 1 <= self.head_convs <= 4:
            raise ValueError(f"head_convs must be from 1 to 4, got {self.head_convs}")
        if self.backbone.in_channels != 3:
            raise ValueError(
                "detectors take images of 3 channels, "
                f"but backbone.in_channels is {self.backbone.in_channels}: leave it out"
            )
        for key in ("num_classes", "fpn_channels", "max_size", "anchor_scales"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise ValueError(
                f"min_size must be one length or several from 1 to max_size, {self.max_size}, "
                f"got {self.min_size}"
            )
        allowed_options = _plain_options(_DETECTORS[self.name])
        for option in self.options:
            if option not in allowed_options:
                close = get_close_matches(option, allowed_options, n=1)
                hint = f" (did you mean '{close[0]}'?)" if close else ""
                raise ValueError(
                    f"options: {self.name} has no '{option}'{hint}; "
                    f"known: {', '.join(allowed_options)}"
                )

    def _pyramid(self) -> nn.Module:
        # RetinaNet does without its finest level, which has too many anchors.
        body = FeaturePyramid(self.backbone.build(), 2 if self.name == "retinanet" else 1)
        if not 0 <= self.trainable_layers <= len(body.stages):
            raise ValueError(
                f"trainable_layers must be from 0 to {len(body.stages)}, the stages of "
                f"{self.backbone.name}, got {self.trainable_layers}"
            )
        if self.trainable_layers < len(body.stages):
            _fix(body, body.stages[-1 - self.trainable_layers])
        if self.norm == "frozen":
            _frozen(body)
        elif self.norm == "sync":
            nn.SyncBatchNorm.convert_sync_batchnorm(body)
        coarse = self._coarse_levels(body.out_channels[-1])
        fpn = FeaturePyramidNetwork(body.out_channels, self.fpn_channels, coarse)
        pyramid: Any = nn.Sequential(OrderedDict(body=body, fpn=fpn))
        pyramid.out_channels = self.fpn_channels  # torchvision's detectors ask for it
        return pyramid

    def _coarse_levels(self, c5_channels: int) -> ExtraFPNBlock:
        if self.name != "retinanet":
            return LastLevelMaxPool()
        from_p5 = self.p6_from == "p5"
        block = LastLevelP6P7(self.fpn_channels if from_p5 else c5_channels, self.fpn_channels)
        block.use_P5 = from_p5  # torchvision takes P5 wherever both have the same channels
        return block

    def _anchors(self, levels: int) -> AnchorGenerator:
        smallest = self.anchor_sizes or [_FIRST_ANCHOR * 2**level for level in range(levels)]
        if len(smallest) != levels or min(smallest) < 1:
            raise ValueError(
                f"anchor_sizes must be {levels} lengths, one for each level of the pyramid, "
                f"got {smallest}"
            )
        scales = self.anchor_scales or (3 if self.name == "retinanet" else 1)
        sizes = [[int(s * 2 ** (i / scales)) for i in range(scales)] for s in smallest]
        return AnchorGenerator(sizes, [_ASPECT_RATIOS] * levels)


def _plain_options(detector: type[nn.Module]) -> list[str]:
    """Names of the arguments of torchvision's class, and of its transform, that data can give."""
    known = [*inspect.signature(detector).parameters]
    known += inspect.signature(GeneralizedRCNNTransform).parameters
    return sorted({*known} - _NOT_PLAIN - {f.name for f in fields(DetectorConfig)})


def _fix(body: FeaturePyramid, last: str) -> None:
    """Freeze the modules of a body, in place, from the first up to the last named."""
    for step in body.steps:
        body.set_submodule(step, _frozen(body.get_submodule(step)).requires_grad_(False))
        if step == last:
            return


def _frozen(module: nn.Module) -> nn.Module:
    """Return a batch norm as a fixed one; replace those within other modules, in place."""
    if isinstance(module, nn.BatchNorm2d):
        norm = FrozenBatchNorm2d(module.num_features, module.eps)
        norm.load_state_dict(module.state_dict())
        return norm
    for name, child in module.named_children():
        setattr(module, name, _frozen(child))
    return module
