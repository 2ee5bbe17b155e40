"""Global context block.

GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond. Yue Cao, Jiarui Xu,
Stephen Lin, Fangyun Wei, Han Hu. ICCV Workshops 2019, arXiv 1904.11492.

The hidden layer keeps at least four channels (the authors' code has no such floor): a layer norm
over one value is constant and over two a sign, which would erase the context of a narrow network.
"""

from torch import Tensor, nn

from eca_lightning.attention.base import Attention, Placement, every, register_attention

_MIN_HIDDEN = 4


@register_attention("gc")
class GlobalContext(Attention):
    """GC: add to every position a transform of the attention-pooled map (Fig. 4 (d)).

    It follows all blocks of C3 to C5 (section 4.2). The last layer is zero when initialized, so the
    block starts as the identity.

    Args:
        channels: Number of channels, C.
        reduction: Divisor of C that gives the transform's hidden channels.
    """

    placement = Placement("branch", dict.fromkeys((3, 4, 5), every))
    gate_layers = ()

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(_MIN_HIDDEN, channels // reduction)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            last := nn.Linear(hidden, channels),
        )
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        weights = self.mask(x).flatten(2).softmax(dim=2)
        context = (x.flatten(2) @ weights.to(x.dtype).transpose(1, 2)).squeeze(2)
        return x + self.transform(context).to(x.dtype)[:, :, None, None]
