"""The kernels of eager tails on GPUs beside torch's operations, on a CPU by Triton's interpreter.

The interpreter changes Triton for the rest of the process, which must be one of its own.
"""

from itertools import product

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from eca_lightning.attention.fused import eager, kernels


def gated_sum(dtype, second):
    """Output and gradients of odd sizes, from two tiles of positions and of channels."""
    torch.manual_seed(0)
    shape = (2, 70, 6, 7)
    y, residual, d_output = (
        torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3)
    )
    y[0, 0, 0, 0] = torch.nan
    inputs = [x.requires_grad_() for x in (y, torch.rand(shape[:2]).to(dtype), residual)]
    output = eager.GatedSum.apply(*inputs)
    found = torch.autograd.grad(output, inputs, d_output, create_graph=second)
    if second:
        found = torch.autograd.grad(sum(x.nansum() for x in found), inputs[:2])
    return [output.detach(), *found]


def compare():
    """Raise an AssertionError if any figure differs."""
    cases = list(product((torch.float32, torch.float16, torch.bfloat16), (False, True)))
    expected = [gated_sum(*case) for case in cases]
    tl.sum = InterpretedFunction(tl.sum.fn)
    calls = []
    for name in ("_gated_sum", "_gated_sum_backward"):
        interpreted = InterpretedFunction(getattr(kernels, name).fn)
        setattr(kernels, name, interpreted)
        interpreted.pre_run_hooks.append(lambda *_, name=name, **__: calls.append(name))
    eager._kernels_for = lambda y: kernels
    for (dtype, second), exact in zip(cases, expected, strict=True):
        step = torch.finfo(dtype).eps  # the interpreter does not round to 16 bits, but cuts off
        for ours, theirs in zip(gated_sum(dtype, second), exact, strict=True):
            assert ours.stride() == theirs.stride()
            rtol = 20 * step if ours.dim() == 2 else step  # torch rounds each product of the sum
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=20 * step, equal_nan=True)
    assert set(calls) == {"_gated_sum", "_gated_sum_backward"}
