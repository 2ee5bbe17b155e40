"""The graph of a network, for batches and images of any size."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

AXES = {0: "batch", 2: "height", 3: "width"}
"""The dynamic axes of the images."""


class Deployed(nn.Module):
    """A network with the inputs and outputs of its exported graph.

    Args:
        network: Maps normalized images to logits (N, num_classes), or to a dict of feature maps.
        mean: Mean of each channel on the scale from 0 to 255, (C,).
        std: Standard deviation of each channel on the same scale, (C,).
        preprocess: Normalize uint8 images, and return probabilities instead of logits.
        temperature: What logits are divided by, see `temperature.fit_temperature`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Tensor,
        std: Tensor,
        preprocess: bool,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.temperature = temperature
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to ``logits``, ``probabilities`` or named feature maps."""
        if self.preprocess:
            images = (images - self.mean) / self.std
        outputs = self.network(images)
        if isinstance(outputs, dict):
            return dict(outputs)
        if self.temperature != 1:
            outputs = outputs / self.temperature
        return {"probabilities": outputs.softmax(1)} if self.preprocess else {"logits": outputs}


def trace(network: Deployed) -> ExportedProgram:
    """Trace the graph of a network in evaluation mode, with dynamic N, H and W.

    Its ``images`` (N, C, H, W) are uint8 if the network preprocesses and float32 if not.
    """
    # Distinct lengths other than 1, which torch.export would take for a constant.
    images = torch.zeros(2, len(network.mean), 160, 224)
    with torch.no_grad():
        return torch.export.export(
            network,
            (images.byte() if network.preprocess else images,),
            dynamic_shapes={"images": dict.fromkeys(AXES, Dim.DYNAMIC)},
            strict=False,
        )


def output_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Return the largest difference of an output, relative to its largest value above 1.

    It is infinity if names or shapes differ, and NaN if an output holds NaN.
    """
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in found.items()}:
        return torch.inf
    largest = [
        (found[name] - value).abs().max() / value.abs().max().clamp(min=1)
        for name, value in expected.items()
    ]
    return float(torch.stack(largest).max())  # Python's max would lose NaN
