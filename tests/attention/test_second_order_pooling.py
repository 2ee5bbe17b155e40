import pytest
import torch
from torch import nn

from eca_lightning.attention.second_order_pooling import SecondOrderPooling


@pytest.mark.parametrize("channels", [6, 130])
def test_equals_a_loop_over_the_rows_of_the_covariance(channels):
    torch.manual_seed(0)
    module = SecondOrderPooling(channels).double().eval()
    for norm in (module.reduce[1], module.row_bn):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        y = module.reduce(x.clamp(min=0))
        expected = torch.empty_like(x)
        for image in range(2):
            covariance = torch.cov(y[image].flatten(1), correction=0)
            mean, var = module.row_bn.running_mean, module.row_bn.running_var
            normed = (covariance - mean[:, None]) / torch.sqrt(var + module.row_bn.eps)[:, None]
            filters = module.row_conv.weight.view(len(covariance), 4, len(covariance))
            filtered = torch.cat([f @ row for f, row in zip(filters, normed, strict=True)])
            filtered = filtered + module.row_conv.bias
            logits = module.expand.weight[:, :, 0, 0] @ filtered + module.expand.bias
            expected[image] = x[image] * torch.sigmoid(logits)[:, None, None]
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(("channels", "width"), [(24, 24), (128, 128), (2048, 128)])
def test_covariance_is_at_most_128_wide(channels, width):
    assert SecondOrderPooling(channels).row_conv.weight.shape == (4 * width, 1, width, 1)


def test_trains_on_one_image():
    module, x = SecondOrderPooling(8).train(), torch.randn(1, 8, 3, 3)
    module(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_parameter_count_in_resnet50_is_the_papers():
    added = sum(
        sum(p.numel() for p in SecondOrderPooling(channels).parameters())
        for channels in (512, 1024, 2048)
    )
    assert round((25_557_032 + added) / 1e6, 2) == 28.05
