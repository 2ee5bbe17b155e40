"""What a fused tail costs a GPU, counted without one: kernels, and passes over the activation."""

import types
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
import triton
from functorch.compile import min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _triton
from triton.backends.compiler import GPUTarget

from eca_lightning.attention import create_attention
from eca_lightning.attention.fused.tail import FusedTail

H100 = types.SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    shared_memory_per_block_optin=232448,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    warp_size=32,
    gcnArchName="",
)


class Tail(nn.Module):
    """The tail of a block, fused and with ECA or of modules and without a gate."""

    def __init__(self, kind, channels):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.fused = FusedTail() if kind == "fused" else None
        self.gate = create_attention("eca", channels) if self.fused else nn.Identity()

    def forward(self, z, residual):
        if self.fused:
            return self.fused(z, residual, self.norm, self.gate, self.relu)
        return self.relu(self.gate(self.norm(z)) + residual)


def graphs(kind, shape):
    """Return the graphs of forward and backward in bfloat16, and inputs of each, on the CPU."""
    torch._dynamo.reset()
    found = []

    def keep(module, inputs):
        found.append((module, inputs))
        return module

    backend = aot_autograd(
        fw_compiler=keep,
        bw_compiler=keep,
        decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )
    tail = torch.compile(Tail(kind, shape[1]), backend=backend, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        z, residual = (
            torch.zeros(shape, dtype=torch.bfloat16)
            .contiguous(memory_format=torch.channels_last)
            .requires_grad_()
            for _ in range(2)
        )
        output = tail(z, residual)
    output.backward(torch.zeros_like(output))
    return found


def lowered(module, inputs):
    """Return Inductor's plan of kernels for an H100, where none is needed to make it."""
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
    target = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: torch.device("cuda:0"),
        get_current_stream=lambda device=0: 0,
    )
    here = {
        CudaInterface: {
            "raise_if_triton_unavailable": staticmethod(lambda device=None: None),
            "is_triton_capable": staticmethod(lambda device=None: True),
            "get_device_properties": staticmethod(lambda device=None: H100),
            "get_compute_capability": staticmethod(lambda device=None: 90),
            "is_available": staticmethod(lambda: True),
            "current_device": staticmethod(lambda: 0),
        },
        CudaInterface.Worker: {
            "get_device_properties": staticmethod(lambda device=None: H100),
            "current_device": staticmethod(lambda: 0),
        },
        torch.cuda: {
            "get_device_properties": lambda device=None: H100,
            "get_device_capability": lambda device=None: (9, 0),
            "current_device": lambda: 0,
            "is_available": lambda: True,
            "device_count": lambda: 1,
        },
    }
    with ExitStack() as stack:
        for owner, names in here.items():
            for name, value in names.items():
                stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(patch.object(triton.runtime.driver, "_active", target))
        _triton.has_triton.cache_clear()
        stack.callback(_triton.has_triton.cache_clear)
        fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        there = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda:0") for x in inputs
        ]
        FakeTensorProp(module, mode=fake).propagate_dont_convert_inputs(*there)
        graph = GraphLowering(module, example_inputs=there, is_inference=False)
        stack.enter_context(V.set_graph_handler(graph))
        stack.enter_context(V.set_debug_handler(DebugContext()))
        graph.run(*there)
        graph.codegen()
        return graph.count_bytes()


def compiled_cost(kind, shape):
    """Return the number of kernels, and of maps that they read and write."""
    plans = [lowered(module, inputs) for module, inputs in graphs(kind, shape)]
    one = 2 * torch.Size(shape).numel()
    return sum(len(nodes) for _, nodes, _ in plans), sum(size for size, *_ in plans) / one


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd")
def test_compiled_tail_takes_few_kernels_and_no_more_passes_than_without_a_gate():
    shape = (256, 1024, 14, 14)
    (plain_kernels, plain_passes), (kernels, passes) = (
        compiled_cost(kind, shape) for kind in ("plain", "fused")
    )
    assert kernels <= plain_kernels + 8
    assert 10 < passes < plain_passes < 13  # the gate's vectors are a hundredth of a pass each
