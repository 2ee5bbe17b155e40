"""What every attention mechanism promises, whatever it computes."""

import copy
import pickle

import pytest
import torch
from thorough import first_of, one_in
from torch import nn
from torch.func import functional_call

from eca_lightning import create_attention
from eca_lightning.attention import attention_names

CHANNELS = 32
SIZES = [(5, 7), (1, 1)]
FORMATS = [torch.contiguous_format, torch.channels_last]
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.gpu)]
# Small enough for a full numerical Jacobian: heads of 20 key channels are wide.
GRADCHECK_CASES = {"aa": (4, {"heads": 1, "max_distance": 1}), "gsop": (6, {})}


def build(name: str, channels: int = CHANNELS, **options) -> nn.Module:
    """Build a mechanism whose every layer matters: none of its parameters is zero."""
    torch.manual_seed(0)
    module = create_attention(name, channels, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def images(
    size: tuple[int, int] = (5, 7),
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(2, CHANNELS, *size, dtype=dtype)
    return x.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", attention_names())
def test_keeps_shape_dtype_and_memory_format(name, size, dtype, memory_format):
    x = images(size, dtype, memory_format)
    y = build(name).to(dtype)(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
    assert y.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", attention_names())
def test_keeps_the_device(name, device):
    assert build(name).to(device)(images().to(device)).device.type == device


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", attention_names())
def test_autocast_keeps_dtype_and_memory_format(name, dtype, memory_format):
    module, x = build(name), images(dtype=dtype, memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    # The augmented convolution is the one that replaces a convolution and behaves as one.
    assert y.dtype == (torch.bfloat16 if name == "aa" else dtype)
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", attention_names())
def test_autocast_computes_what_float32_computes(name):
    module, x = build(name).eval(), images()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    expected = module(x)
    assert (y - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("name", attention_names())
def test_copies_are_equal_and_independent(name):
    module, x = build(name).eval(), images()
    fresh = create_attention(name, CHANNELS).eval()
    fresh.load_state_dict(module.state_dict())
    copies = [fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    expected = module(x)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    for twin in copies:
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [("eca", "inductor"), *one_in(3, [(name, "aot_eager") for name in attention_names()])],
)
def test_compiles_whole_forward_and_backward(name, backend):
    torch.compiler.reset()
    module = build(name)
    compiled = torch.compile(copy.deepcopy(module), backend=backend, fullgraph=True)
    outcomes = []
    for network in (module, compiled):
        x = images().requires_grad_()
        y = network(x)
        y.square().sum().backward()
        outcomes.append([y, x.grad, *(parameter.grad for parameter in network.parameters())])
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(attention_names(), 4))
def test_exports_with_a_free_batch_and_a_free_size(name):
    module = build(name).eval()
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, (images(),), dynamic_shapes=(free,), strict=False)
    other = torch.randn(3, CHANNELS, 4, 6)
    torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.slow
@pytest.mark.parametrize("name", attention_names())
def test_gradients_of_input_and_parameters_are_right(name):
    channels, options = GRADCHECK_CASES.get(name, (16, {}))
    module = build(name, channels, **options).double()
    names = [key for key, _ in module.named_parameters()]

    def forward(x, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(2, channels, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, *module.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("eca", {"kernel": 7}, "kernel_size=7"),
        ("eca_ns", {"kernel": 7}, "kernel_size=7"),
        ("cbam", {}, "kernel_size=(7, 7)"),
        ("aa", {}, "kernel_size=(3, 3)"),
    ],
)
def test_repr_shows_the_kernel(name, options, shown):
    assert shown in repr(create_attention(name, CHANNELS, **options))
