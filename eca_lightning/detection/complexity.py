"""Parameters and FLOPs of detectors, by the rules of the paper's table 5.

They are those of the toolkit that the paper trained with and differ from those of its table 3:
decimal units, learnable parameters only, and operations of modules only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from eca_lightning.attention.base import ChannelGate
from eca_lightning.backbones.complexity import Complexity
from eca_lightning.detection.networks import DetectorConfig


def detector_complexity(config: DetectorConfig) -> Complexity:
    """Count, on the meta device, for 1280 x 800 pixels, 1,000 proposals and 100 masks."""
    with torch.device("meta"):
        detector = config.build().eval()
    paper = _ToolkitCounter(detector)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _forward(detector)
    return Complexity(
        parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        macs=counter.get_total_flops() // 2,
        paper_flops=paper.operations,
    )


def _forward(detector: Any) -> None:
    """Run the parts of a detector with the number of proposals of the toolkit's counter."""
    maps = list(detector.backbone(torch.empty(1, 3, 800, 1280, device="meta")).values())
    if hasattr(detector, "head"):
        detector.head(maps)
        return
    detector.rpn.head(maps)
    heads, channels = detector.roi_heads, detector.backbone.out_channels
    boxes = torch.empty(1000, channels, *heads.box_roi_pool.output_size, device="meta")
    heads.box_predictor(heads.box_head(boxes))
    if heads.has_mask():
        masks = torch.empty(100, channels, *heads.mask_roi_pool.output_size, device="meta")
        heads.mask_predictor(heads.mask_head(masks))


class _ToolkitCounter:
    """Counts operations as the toolkit does; matches every digit that the paper did not quote.

    Convolutions: multiply-adds and 1 per bias. Transposed convolutions: as if each output position
    used the whole kernel, four times too many in the mask head. Linear layers: multiply-adds. Batch
    norm: 2 per element. ReLU: 1 per element. Pooling: 1 per input. All else, functions and matrix
    products included: nothing. The toolkit calls the RPN's ReLU as a function and those of the box
    head as modules; in torchvision it is the reverse.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.operations = 0
        for name, module in detector.named_modules():
            if not (name.startswith("rpn.") and isinstance(module, nn.ReLU)):
                module.register_forward_hook(self._count)
            if name.endswith(("box_head.fc6", "box_head.fc7")):
                module.register_forward_hook(self._count_elements)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            kernel = module.weight.numel() // module.out_channels
            self.operations += output.numel() * (kernel + (module.bias is not None))
        elif isinstance(module, nn.Linear):
            self.operations += output.numel() * module.in_features
        elif isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            self.operations += 2 * output.numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            self._count_elements(module, inputs, output)
        elif isinstance(module, nn.MaxPool2d | nn.AdaptiveAvgPool2d | ChannelGate):
            self.operations += inputs[0].numel()

    def _count_elements(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.operations += output.numel()
