"""Global context block.

GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond. Yue Cao, Jiarui Xu,
Stephen Lin, Fangyun Wei, Han Hu. ICCV Workshops 2019, arXiv 1904.11492.

The hidden layer keeps at least four channels (the authors' code has no such floor): a layer norm
over one value is constant and over two a sign, which would erase the context of a narrow network.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Size, Tensor, nn

from eca_lightning.attention.base import (
    TO_TIMM,
    Attention,
    ForeignKey,
    Placement,
    as_convolution,
    as_linear,
    every,
    register_attention,
)
from eca_lightning.utils.checks import require

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
        self.mask = nn.Conv2d(channels, 1, 1)
        self.transform = _perceptron(channels, max(_MIN_HIDDEN, channels // reduction))
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        return x + self.transform(_context(x, self.mask))[:, :, None, None].to(x.dtype)


@register_attention("gc_timm")
class GlobalContextTimm(Attention):
    """timm's global context: its ``gc`` gates the map by the context, its ``gca`` adds it.

    Unlike the paper's it follows every block, and its norm's eps is 1e-6.

    Args:
        channels: Number of channels, C.
        reduction: Divisor of C that gives the transform's hidden channels.
        fusion: How the context enters the map.
    """

    gate_layers: tuple[str, ...] = ("scale.3",)
    foreign_keys = (
        *Attention.foreign_keys,
        ForeignKey(r"\.attention\.conv_attn\.", ".attention.mask."),
        ForeignKey(
            r"\.attention\.mlp_(scale|add)\.fc1\.weight$", r".attention.\1.0.weight", as_linear
        ),
        ForeignKey(r"\.attention\.mlp_(scale|add)\.fc1\.", r".attention.\1.0."),
        ForeignKey(r"\.attention\.mlp_(scale|add)\.norm\.", r".attention.\1.1."),
        ForeignKey(
            r"\.attention\.mlp_(scale|add)\.fc2\.weight$", r".attention.\1.3.weight", as_linear
        ),
        ForeignKey(r"\.attention\.mlp_(scale|add)\.fc2\.", r".attention.\1.3."),
    )
    exported_keys: ClassVar[Mapping[str, tuple[ForeignKey, ...]]] = {
        "timm": (
            ForeignKey(r"\.mask\.", ".conv_attn."),
            ForeignKey(r"\.(scale|add)\.0\.", r".mlp_\1.fc1.", as_convolution),
            ForeignKey(r"\.(scale|add)\.1\.", r".mlp_\1.norm."),
            ForeignKey(r"\.(scale|add)\.3\.", r".mlp_\1.fc2.", as_convolution),
            TO_TIMM,
        )
    }

    def __init__(
        self, channels: int, reduction: int = 8, fusion: Literal["scale", "add"] = "scale"
    ) -> None:
        super().__init__()
        require(fusion in ("scale", "add"), "fusion", "scale or add", repr(fusion))
        self.fusion = fusion
        self.mask = nn.Conv2d(channels, 1, 1)
        perceptron = _perceptron(channels, max(1, channels // reduction), 1e-6, fusion == "add")
        self.add_module(fusion, perceptron)
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")
        if fusion == "add":
            self.gate_layers = ()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        change = self.get_submodule(self.fusion)(_context(x, self.mask))[:, :, None, None]
        return x + change.to(x.dtype) if self.fusion == "add" else x * change.sigmoid().to(x.dtype)

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """See `Attention.infer_options`."""
        fusion = next((name for name in ("scale", "add") if f"{name}.0.weight" in shapes), None)
        if fusion is None:
            return {}
        hidden, channels = shapes[f"{fusion}.0.weight"]
        return {"reduction": channels // max(1, hidden), "fusion": fusion}


def _perceptron(
    channels: int, hidden: int, eps: float = 1e-5, starts_at_zero: bool = True
) -> nn.Sequential:
    last = nn.Linear(hidden, channels)
    if starts_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    norm = nn.LayerNorm(hidden, eps)
    return nn.Sequential(nn.Linear(channels, hidden), norm, nn.ReLU(inplace=True), last)


def _context(x: Tensor, mask: nn.Module) -> Tensor:
    """Return the mean of a map by the weights of its positions, (N, C)."""
    weights = mask(x).flatten(2).softmax(dim=2)
    return (x.flatten(2) @ weights.to(x.dtype).transpose(1, 2)).squeeze(2)
