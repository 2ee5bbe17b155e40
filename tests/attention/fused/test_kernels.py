"""What a fused tail costs a GPU, counted without one: kernels, and passes over the activation."""

import types
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import interpreted_kernels
import pytest
import torch
import triton
from forked import run_forked
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
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eca_lightning.attention import create_attention
from eca_lightning.attention.fused import eager, kernels
from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.benchmarks.model_candidates import OriginalECA

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
    """The tail of a block: fused and with ECA, or of modules and with another gate or none."""

    def __init__(self, kind, channels):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.fused = FusedTail() if kind == "fused" else None
        gates = {"fused": partial(create_attention, "eca"), "original": OriginalECA}
        self.gate = gates.get(kind, nn.Identity)(channels)

    def forward(self, z, residual):
        if self.fused:
            return self.fused(z, residual, self.norm, self.gate, self.relu)
        return self.relu(self.gate(self.norm(z)).add_(residual))


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


class Passes(TorchDispatchMode):
    """Counts how often an operation reads or writes a whole map, on a device without values."""

    def __init__(self, shape):
        super().__init__()
        self.count, self.size = 0, torch.Size(shape).numel()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = function(*args, **kwargs)
        name = function.name()
        if not function.is_view and "empty" not in name:
            inputs = list(args)
            if "batch_norm" in name:  # once for sums over the batch, and again for what they give
                inputs += args[:2] if "backward" in name else args[:1]
            written = outputs if isinstance(outputs, tuple) else (outputs,)
            self.count += sum(map(self.is_map, [*inputs, *written]))
        return outputs

    def is_map(self, x):
        if not isinstance(x, torch.Tensor):
            return False
        stored = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride]
        return torch.Size(stored).numel() == self.size


@pytest.mark.parametrize(("kind", "most"), [("plain", 16), ("original", 29), ("fused", 20)])
def test_eager_tail_takes_few_more_passes_than_without_a_gate(kind, most, monkeypatch):
    monkeypatch.setattr(eager, "_kernels_for", lambda y: kernels)
    shape = (256, 256, 56, 56)
    z, residual, d_output = (
        torch.empty(shape, dtype=torch.bfloat16, device="meta")
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for _ in range(3)
    )
    with torch.device("meta"):
        tail = Tail(kind, shape[1])
    tail.gate.bfloat16()  # as autocast does
    with Passes(shape) as passes:
        output = tail(z, residual)
        torch.autograd.grad(output, [z, residual], d_output)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert passes.count == most


@pytest.mark.slow
def test_kernels_compute_what_torch_does(tmp_path):
    run_forked(tmp_path, interpreted_kernels.compare)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [kernels._gated_sum, kernels._gated_sum_backward])
@pytest.mark.parametrize(("dtype", "capability"), [("bf16", 90), ("fp16", 75), ("fp32", 80)])
def test_kernels_compile_for_gpus(kernel, dtype, capability):
    signature = dict.fromkeys(kernel.arg_names, f"*{dtype}")
    signature |= dict.fromkeys(("positions", "channels"), "i32")
    signature |= dict.fromkeys(("P", "C"), "constexpr")
    source = ASTSource(kernel, signature, constexprs={"P": 32, "C": 64})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
