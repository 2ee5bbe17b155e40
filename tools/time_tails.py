"""Time the tail of a residual block on a GPU, with and without ECA, in a step of training.

python tools/time_tails.py [--output results/gpu/tails.csv]

The kernels of forward and backward in bfloat16 and channels_last, at the four sizes of ResNet-50
with 256 images, by torch's profiler: what else keeps the host or the GPU busy is left out.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from eca_lightning.attention import create_attention
from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.benchmarks.model_candidates import OriginalECA
from eca_lightning.utils.tables import write_table

SIZES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
IMAGES, STEPS = 256, 8
GATES = {
    "plain": lambda channels: nn.Identity(),
    "original": OriginalECA,
    "fused": lambda channels: create_attention("eca", channels),
}


class Tail(nn.Module):
    """Batch norm, gate, residual sum and ReLU."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.gate = GATES[kind](channels)
        self.fused = FusedTail() if kind == "fused" else None

    def forward(self, z: Tensor, residual: Tensor) -> Tensor:
        """Map the input of the norm and the output of the shortcut, (N, C, H, W)."""
        if self.fused is not None:
            return self.fused(z, residual, self.norm, self.gate, self.relu)
        return self.relu(self.gate(self.norm(z)) + residual)


def time_tail(kind: str, mode: str, channels: int, side: int) -> dict[str, object]:
    """Time some steps; return a row of the table."""
    torch.compiler.reset()
    torch.manual_seed(0)
    shape = (IMAGES, channels, side, side)
    z, residual, d_output = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(3)
    )
    tail = Tail(kind, channels).cuda()
    run = torch.compile(tail, dynamic=False) if mode == "compiled" else tail

    def step() -> None:
        inputs = z.detach().requires_grad_(), residual.detach().requires_grad_()
        tail.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            output = run(*inputs)
        output.backward(d_output)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
    events = recorded.key_averages()
    return {
        "tail": kind,
        "mode": mode,
        "channels": channels,
        "side": side,
        "kernel_us": round(sum(e.self_device_time_total for e in events) / STEPS, 1),
    }


def time_tails(output: Path) -> None:
    """Time all tails, and write the table after each."""
    rows = []
    for size in SIZES:
        for mode in ("compiled", "eager"):
            for kind in GATES:
                row = {**time_tail(kind, mode, *size), "device": torch.cuda.get_device_name()}
                rows.append(row)
                write_table(output, dict.fromkeys(row, str), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/gpu/tails.csv"))
    time_tails(parser.parse_args().output)
