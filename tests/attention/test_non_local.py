import math

import torch
from torch import nn

from eca_lightning.attention.non_local import NonLocal


def test_equals_the_explicit_attention_over_positions():
    torch.manual_seed(0)
    module = NonLocal(8).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        theta, phi, g = module.theta(x), module.phi(x), module.g(x)
        similarity = torch.einsum("nchw,ncyx->nhwyx", theta, phi) / math.sqrt(theta.shape[1])
        weights = similarity.exp() / similarity.exp().sum(dim=(3, 4), keepdim=True)
        y = torch.einsum("nhwyx,ncyx->nchw", weights, g)
        torch.testing.assert_close(module(x), x + module.bn(module.w_z(y)))


def test_starts_as_the_identity():
    x = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(NonLocal(16)(x), x, rtol=0, atol=0)


def test_inner_width_is_half():
    channels, inner = 1024, 512
    biases_and_norm = 3 * inner + 2 * channels
    count = sum(p.numel() for p in NonLocal(channels).parameters())
    assert count == 4 * channels * inner + biases_and_norm
