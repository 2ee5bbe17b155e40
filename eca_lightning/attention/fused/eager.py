"""Gate, residual sum and ReLU as one function, for eager mode."""

from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.base import ChannelGate
from eca_lightning.attention.fused.compiled import over_positions


class GatedSum(torch.autograd.Function):
    """Compute ``relu(gate(y) + residual)``, with the pool of the gate inside.

    Backward passes over a map nine times, where the modules one after the other take thirteen: the
    gradients of y through the product and through the pool take one pass, and no map of ones is
    filled for the mean.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, residual: Tensor, gate: ChannelGate, *parameters: Tensor
    ) -> Tensor:
        """Map y and the residual, (N, C, H, W), to the output; parameters are the gate's."""
        with torch.enable_grad():
            ctx.pooled = y.mean(dim=(2, 3)).detach().requires_grad_()
            ctx.scale = gate_scale(gate, ctx.pooled)
        output = gated_sum(y, ctx.scale.detach(), residual)
        ctx.gate, ctx.parameters = gate, parameters
        ctx.save_for_backward(y, output)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Map the gradient of the output to those of y, the residual and the parameters."""
        y, output = ctx.saved_tensors
        d_residual = torch.ops.aten.threshold_backward(d_output, output, 0)
        if torch.is_grad_enabled():  # for a second derivative
            gated = y * over_positions(gate_scale(ctx.gate, y.mean(dim=(2, 3))))
            d_y, *d_parameters = _gradients(gated, (y, *ctx.parameters), d_residual, True)
            return d_y, d_residual, None, *d_parameters
        product = d_residual * y
        d_scale = product.sum(dim=(2, 3))
        inputs = (ctx.pooled, *ctx.parameters)
        d_pooled, *d_parameters = _gradients(ctx.scale, inputs, d_scale, False)
        d_mean = 0 * d_scale if d_pooled is None else d_pooled / (y.shape[2] * y.shape[3])
        # The product's memory is in the cache; a new map costs a CPU as much as the arithmetic.
        d_y = torch.addcmul(
            over_positions(d_mean), d_residual, over_positions(ctx.scale.detach()), out=product
        )
        return d_y, d_residual, None, *d_parameters


def gate_scale(gate: ChannelGate, pooled: Tensor) -> Tensor:
    """Return the gate of pooled channels, (N, C), in their dtype."""
    return gate.logits(pooled).sigmoid().to(pooled.dtype)


def gated_sum(y: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
    """Return ``relu(scale y + residual)`` without gradients."""
    return torch.addcmul(residual, y, over_positions(scale)).relu_()


def _gradients(
    output: Tensor, inputs: tuple[Tensor, ...], d_output: Tensor, create_graph: bool
) -> list[Tensor | None]:
    """Return the gradients of the inputs that need them, and None for the others."""
    needed = [x for x in inputs if x.requires_grad]
    if not output.requires_grad:
        return [None] * len(inputs)
    found = iter(
        torch.autograd.grad(
            output, needed, d_output, True, create_graph=create_graph, allow_unused=True
        )
    )
    return [next(found) if x.requires_grad else None for x in inputs]
