"""torchvision's Faster R-CNN, Mask R-CNN and RetinaNet on the backbones of this package.

The feature pyramid (FPN, arXiv 1612.03144) has four levels of a backbone: the outputs of a ResNet's
stages, and of MobileNetV2 the last blocks at strides 4, 8 and 16 and its last convolution. With a
plain ResNet the detectors are torchvision's own, keys of the state dict and outputs included.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
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
from eca_lightning.utils.checks import require, require_known

DetectorName = Literal["faster_rcnn", "mask_rcnn", "retinanet"]
Norm = Literal["frozen", "batch", "sync"]
P6Source = Literal["c5", "p5"]
HeadVersion = Literal[1, 2]

# Arguments of torchvision's classes that are objects.
_NOT_PLAIN = {"rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor"}
_NOT_PLAIN |= {"mask_roi_pool", "mask_head", "mask_predictor", "anchor_generator", "head"}
_NOT_PLAIN |= {"proposal_matcher", "kwargs"}


@dataclass
class DetectorConfig:
    """Options of a detector, as plain data that YAML and checkpoints can hold.

    Args:
        name: faster_rcnn, mask_rcnn or retinanet.
        backbone: The network below the pyramid; its classifier is left out.
        num_classes: Number of classes, without the background.
        norm: Batch norm of the backbone. ``frozen`` is a fixed affine map of each channel, for
            pretrained networks and a few images per GPU; ``batch`` is trained and takes its
            statistics from the batch of one GPU; ``sync`` from all GPUs (in runs of several
            processes it needs GPUs, as torch has none for CPUs; in a single process it is
            ``batch``).
        trainable_layers: How many stages of the backbone are trained, counted from its end; of a
            ResNet's five, 3 leave the first convolution and the first stage unchanged. The norms of
            the other stages are ``frozen`` whatever ``norm``.
        min_size: Length to which the shorter side of an image is scaled, in pixels. Of several,
            training picks one for each image, and evaluation takes the last.
        max_size: Maximum length of the longer side, in pixels.
        anchor_sizes: Side of the smallest anchors of each level of the pyramid, in pixels, finest
            level first. Default: 32, 64, 128 and so on.
        anchor_scales: Number of anchor sizes of a level, spaced evenly on a logarithmic scale
            within an octave. Default: as in the papers, 3 for RetinaNet and 1 for the others.
        fpn_channels: Channels of the pyramid, and of Mask R-CNN's mask head.
        p6_from: What RetinaNet computes its sixth level from: ``c5``, the backbone's last map, as
            its paper, or ``p5``, the pyramid's, as torchvision's ready-made network.
        head_version: 2 gives RetinaNet the heads of torchvision's second version, with group norms
            and the generalized IoU loss, with which they can be trained from scratch.
        head_convs: Hidden convolutions of each of RetinaNet's heads, at most 4, as in its paper.
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
            self.backbone = BackboneConfig(**self.backbone).require_imported()

    def build(self) -> Any:
        """Create the network.

        It takes a list of float images (3, H, W) from 0 to 1, of any sizes, and in training a list
        of dicts with ``boxes`` (n, 4), ``labels`` (n,) int64 and, for Mask R-CNN, ``masks``
        (n, H, W) uint8. In training it returns a dict of losses, otherwise for each image a dict of
        ``boxes``, ``labels``, ``scores`` and ``masks``; all boxes are in pixels of those images.

        Returns:
            The network. Its ``first_label`` is the label of class 0, as label 0 of the R-CNNs is
            the background; ``has_masks`` says whether it finds masks.

        Raises:
            ValueError: If an option is unknown, out of range or does not fit the others.
        """
        require_known(self.name, DETECTORS, "detector")
        for key, kind in (("norm", Norm), ("p6_from", P6Source), ("head_version", HeadVersion)):
            value, allowed = getattr(self, key), get_args(kind)
            require(value in allowed, key, f"one of {', '.join(map(str, allowed))}", repr(value))
        for key in ("num_classes", "fpn_channels", "max_size", "anchor_scales"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, "at least 1", value)
        in_range = self.min_size and min(self.min_size) >= 1 and max(self.min_size) <= self.max_size
        lengths = f"one length or several from 1 to max_size, {self.max_size}"
        require(bool(in_range), "min_size", lengths, self.min_size)
        if self.backbone.in_channels != 3:
            raise ValueError(
                "detectors take images of 3 channels, "
                f"but backbone.in_channels is {self.backbone.in_channels}: leave it out"
            )
        network = DETECTORS[self.name](self)
        network.backbone_config = self.backbone
        return network

    def torchvision_arguments(self, detector: type[nn.Module]) -> dict[str, Any]:
        """Return the plain arguments of a class of torchvision.

        Raises:
            ValueError: If ``options`` has one that the class and its transform do not take.
        """
        known = [*inspect.signature(detector).parameters]
        known += inspect.signature(GeneralizedRCNNTransform).parameters
        known = sorted({*known} - _NOT_PLAIN - {f.name for f in fields(self)})
        for option in self.options:
            require_known(option, known, f"{self.name} option")
        return {"min_size": tuple(self.min_size), "max_size": self.max_size, **self.options}


def faster_rcnn(config: DetectorConfig, network: type[FasterRCNN] = FasterRCNN) -> Any:
    """Build a Faster R-CNN (Ren et al., arXiv 1506.01497) or one of its descendants."""
    for key in ("p6_from", "head_version", "head_convs"):
        if getattr(config, key) != getattr(DetectorConfig, key):
            raise ValueError(f"{key} is an option of retinanet: leave it out for {config.name}")
    pyramid = _pyramid(config, 1, lambda c5_channels: LastLevelMaxPool())
    levels = len(pyramid.fpn.inner_blocks) + 1
    built = network(
        pyramid,
        config.num_classes + 1,
        rpn_anchor_generator=_anchors(config, levels, config.anchor_scales or 1),
        **config.torchvision_arguments(network),
    )
    built.first_label, built.has_masks = 1, network is MaskRCNN
    return built


def mask_rcnn(config: DetectorConfig) -> Any:
    """Build a Mask R-CNN (He et al., arXiv 1703.06870)."""
    network = faster_rcnn(config, MaskRCNN)
    width = config.fpn_channels
    if width != 256:  # torchvision's is always 256
        network.roi_heads.mask_head = MaskRCNNHeads(width, [width] * 4, 1)
        network.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, config.num_classes + 1)
    return network


def retinanet(config: DetectorConfig) -> Any:
    """Build a RetinaNet (Lin et al., arXiv 1708.02002)."""
    require(1 <= config.head_convs <= 4, "head_convs", "from 1 to 4", config.head_convs)
    width = config.fpn_channels
    if config.head_version == 2 and width % 32:
        raise ValueError(f"head_version 2 needs fpn_channels divisible by 32, got {width}")

    def p6_p7(c5_channels: int) -> ExtraFPNBlock:
        block = LastLevelP6P7(c5_channels if config.p6_from == "c5" else width, width)
        block.use_P5 = config.p6_from == "p5"  # torchvision's choice goes by the channels
        return block

    pyramid = _pyramid(config, 2, p6_p7)  # without the finest level, as its paper
    levels = len(pyramid.fpn.inner_blocks) + 2
    anchors = _anchors(config, levels, config.anchor_scales or 3)
    network: Any = RetinaNet(
        pyramid,
        config.num_classes,
        anchor_generator=anchors,
        **config.torchvision_arguments(RetinaNet),
    )
    if config.head_version == 2:
        per_location = anchors.num_anchors_per_location()[0]
        norm = partial(nn.GroupNorm, 32)
        network.head = RetinaNetHead(width, per_location, config.num_classes, norm)
        network.head.regression_head._loss_type = "giou"
    for head in (network.head.classification_head, network.head.regression_head):
        head.conv = head.conv[: config.head_convs]
    network.first_label, network.has_masks = 0, False
    return network


DETECTORS: dict[str, Callable[[DetectorConfig], Any]] = {
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
    "retinanet": retinanet,
}


def _pyramid(config: DetectorConfig, first: int, coarse: Callable[[int], ExtraFPNBlock]) -> Any:
    """Build a feature pyramid on the backbone, from its stage ``first`` on; 0 is the stem.

    ``coarse`` builds the levels above the last stage from that stage's number of channels.
    """
    body = FeaturePyramid(config.backbone.build(), first)
    trained, count = config.trainable_layers, len(body.stages)
    allowed = f"from 0 to {count}, the stages of {config.backbone.name}"
    require(0 <= trained <= count, "trainable_layers", allowed, trained)
    if trained < count:
        _freeze_up_to(body, body.stages[-1 - trained])
    if config.norm == "frozen":
        _with_frozen_norms(body)
    elif config.norm == "sync":
        nn.SyncBatchNorm.convert_sync_batchnorm(body)
    top = coarse(body.out_channels[-1])
    fpn = FeaturePyramidNetwork(body.out_channels, config.fpn_channels, top)
    pyramid: Any = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    pyramid.out_channels = config.fpn_channels  # torchvision's detectors ask for it
    return pyramid


def _anchors(config: DetectorConfig, levels: int, scales: int) -> AnchorGenerator:
    smallest = config.anchor_sizes or [32 * 2**level for level in range(levels)]
    if len(smallest) != levels or min(smallest) < 1:
        raise ValueError(
            f"anchor_sizes must be {levels} lengths, one for each level of the pyramid, "
            f"got {smallest}"
        )
    sizes = [[int(s * 2 ** (i / scales)) for i in range(scales)] for s in smallest]
    return AnchorGenerator(sizes, [(0.5, 1.0, 2.0)] * levels)


def _freeze_up_to(body: FeaturePyramid, last: str) -> None:
    """Freeze the modules of a body, in place, from the first up to the last named."""
    for step in body.steps:
        body.set_submodule(step, _with_frozen_norms(body.get_submodule(step)).requires_grad_(False))
        if step == last:
            return


def _with_frozen_norms(module: nn.Module) -> nn.Module:
    """Return a batch norm as a frozen one; replace those within other modules, in place."""
    if isinstance(module, nn.BatchNorm2d):
        norm = FrozenBatchNorm2d(module.num_features, module.eps)
        norm.load_state_dict(module.state_dict())
        return norm
    for name, child in module.named_children():
        setattr(module, name, _with_frozen_norms(child))
    return module
