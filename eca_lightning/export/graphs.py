"""What is exported of a network: its graph, for batches and images of any size."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

AXES = {0: "batch", 2: "height", 3: "width"}
"""The axes of the images whose lengths a graph leaves open, with their names."""

# Lengths that differ and that a graph does not take for constants, as it would 1.
_TRACED = {"batch": 2, "height": 160, "width": 224}


class Deployed(nn.Module):
    """A network as others call it.

    Args:
        network: Maps normalized images (N, C, H, W) to logits (N, num_classes), or to a dict of
            feature maps.
        mean: Mean of each channel on the scale from 0 to 255, (C,).
        std: Standard deviation of each channel on the same scale, (C,).
        preprocess: Take uint8 images and normalize them, and return probabilities for logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, preprocess: bool) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to ``logits``, to ``probabilities`` or to named features."""
        if self.preprocess:
            images = (images - self.mean) / self.std
        outputs = self.network(images)
        if isinstance(outputs, dict):
            return dict(outputs)
        return {"probabilities": outputs.softmax(1)} if self.preprocess else {"logits": outputs}


def trace(network: Deployed) -> ExportedProgram:
    """Record the graph of a network.

    Args:
        network: The network, in evaluation mode.

    Returns:
        A program that takes ``images`` (N, C, H, W), uint8 if the network preprocesses and float32
        if not; N, H and W are left open.
    """
    images = torch.zeros(_TRACED["batch"], len(network.mean), _TRACED["height"], _TRACED["width"])
    with torch.no_grad():
        return torch.export.export(
            network,
            (images.byte() if network.preprocess else images,),
            dynamic_shapes={"images": dict.fromkeys(AXES, Dim.DYNAMIC)},
            strict=False,
        )


def output_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The largest difference of an output; of one above 1, as a share of its largest value.

    Args:
        expected: The outputs of a network.
        found: Those of its graph.

    Returns:
        Infinity if they are not the same in names and shapes.
    """
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in found.items()}:
        return torch.inf
    return max(
        float((found[name] - value).abs().max() / value.abs().max().clamp(min=1))
        for name, value in expected.items()
    )
