"""Double attention block.

A2-Nets: Double Attention Networks. Yunpeng Chen, Yannis Kalantidis, Jianshu Li, Shuicheng Yan,
Jiashi Feng. NeurIPS 2018, arXiv 1810.11579.

The scale of the batch norm at the end starts at zero, as in a non-local block, so that the block
starts as the identity.
"""

from torch import Tensor, nn

from eca_lightning.attention.base import Attention, Placement, evenly_spaced, register_attention


@register_attention("a2")
class DoubleAttention(Attention):
    """A2: gather descriptors from all positions, distribute them to each position (section 3).

    It follows two blocks of C3 and three of C4, evenly spaced (section 4.1). Five of m = n = C / 2
    bring ResNet-50 to the 33 M parameters that the paper reports.

    Args:
        channels: Number of channels, C.
        feature_channels: Width of a descriptor, m. Default: half of C.
        descriptors: Number of descriptors, n. Default: half of C.
    """

    placement = Placement("output", {3: evenly_spaced(2), 4: evenly_spaced(3)})
    gate_layers = ()

    def __init__(
        self, channels: int, feature_channels: int | None = None, descriptors: int | None = None
    ) -> None:
        super().__init__()
        half = max(1, channels // 2)
        m = half if feature_channels is None else feature_channels
        n = half if descriptors is None else descriptors
        self.features = nn.Conv2d(channels, m, 1)
        self.gather = nn.Conv2d(channels, n, 1)
        self.distribute = nn.Conv2d(channels, n, 1)
        self.reconstruct = nn.Conv2d(m, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        features = self.features(x).flatten(2)
        attention_maps = self.gather(x).flatten(2).softmax(dim=2).to(features.dtype)
        attention_vectors = self.distribute(x).flatten(2).softmax(dim=1).to(features.dtype)
        gathered = attention_maps @ features.transpose(1, 2)
        # Positions before channels: the view below is channels_last without a copy.
        distributed = attention_vectors.transpose(1, 2) @ gathered
        y = distributed.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.bn(self.reconstruct(y)).to(x.dtype)
