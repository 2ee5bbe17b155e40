"""The form that ECA, SE and their ablations share: channels scaled by a gate of their means."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ChannelGate(nn.Module, ABC):
    """Scale ``x`` by ``sigmoid(logits(mean of x over height and width))``.

    A mechanism gives only `logits`. It is public and free of pooling and sigmoid, so that a fused
    block tail, which pools by other means, can use the same map.
    """

    @abstractmethod
    def logits(self, pooled: Tensor) -> Tensor:
        """Map the pooled channels, (N, C), to the gate before its sigmoid, (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor; dtype and memory format are kept, under autocast too."""
        gate = self.logits(x.mean(dim=(2, 3))).sigmoid()
        return x * gate.to(x.dtype)[:, :, None, None]
