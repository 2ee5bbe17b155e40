"""Residual branches dropped at random in training."""

from collections.abc import Sequence

from torchvision.ops import StochasticDepth

from eca_lightning.backbones.blocks import AttentionSlot


def add_stochastic_depth(blocks: Sequence[AttentionSlot], rate: float) -> None:
    """Let blocks drop their residual branches at random in training, sample by sample, in place.

    Deep Networks with Stochastic Depth (Huang et al., arXiv 1603.09382): the probability rises
    linearly from 0 at the first block to the rate at the last, as in timm. No such tail is fused.

    Args:
        blocks: All blocks of the network in forward order.
        rate: Probability of the last block, from 0 and below 1.

    Raises:
        ValueError: If the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic_depth must be at least 0 and below 1, got {rate}")
    for number, block in enumerate(blocks):
        probability = rate * number / max(1, len(blocks) - 1)
        if probability > 0:
            block.stochastic_depth = StochasticDepth(probability, "row")
            block.fused_tail = None
