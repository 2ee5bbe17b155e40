"""The outputs of a detector's heads: in float32 whatever the precision, and whether finite.

torchvision gives anchors the dtype of the feature maps and boxes that of the network's outputs.
bfloat16 has 8 significant bits: near the edge of an image of 1333 pixels it resolves only every
eighth pixel, so that no detection fits its object well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

_HEADS = (FastRCNNPredictor, MaskRCNNPredictor, RetinaNetHead, RPNHead)


def keep_boxes_in_float32(network: nn.Module) -> None:
    """Make a torchvision detector compute anchors, boxes, scores and losses in float32, in place.

    Under autocast, convolutions and linear layers stay in the lower precision.
    """
    for module in network.modules():
        if isinstance(module, AnchorGenerator):
            module.register_forward_pre_hook(_anchors_in_float32)
        elif isinstance(module, _HEADS):
            module.register_forward_hook(_outputs_in_float32)


@contextmanager
def finite_heads(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect whether the outputs of the heads are finite: a bool scalar for each tensor.

    torchvision leaves boxes and scores that are NaN out of its detections.
    """
    finite: list[Tensor] = []

    def look(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
        apply_to_collection(outputs, Tensor, lambda values: finite.append(values.isfinite().all()))

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, _HEADS):
                hooks.callback(module.register_forward_hook(look).remove)
        yield finite


def _anchors_in_float32(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    images, features = arguments
    # Anchors depend on the shapes, dtype and device of the maps: no values need converting.
    return images, [f.new_empty((), dtype=torch.float32).expand(f.shape) for f in features]


def _outputs_in_float32(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> Any:
    return apply_to_collection(outputs, Tensor, Tensor.float)
