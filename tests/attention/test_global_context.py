import torch
from timm.layers import GlobalContext as TimmGlobalContext
from torch import nn

from eca_lightning.attention.global_context import GlobalContext


def test_equals_timm_with_its_weights():
    torch.manual_seed(0)
    theirs = TimmGlobalContext(64, fuse_add=True, fuse_scale=False, rd_ratio=1 / 8)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    theirs.mlp_add.norm.eps = 1e-5
    ours = GlobalContext(64, reduction=8)
    renamed = {
        "mask.weight": theirs.conv_attn.weight,
        "mask.bias": theirs.conv_attn.bias,
        "transform.0.weight": theirs.mlp_add.fc1.weight.flatten(1),
        "transform.0.bias": theirs.mlp_add.fc1.bias,
        "transform.1.weight": theirs.mlp_add.norm.weight,
        "transform.1.bias": theirs.mlp_add.norm.bias,
        "transform.3.weight": theirs.mlp_add.fc2.weight.flatten(1),
        "transform.3.bias": theirs.mlp_add.fc2.bias,
    }
    ours.load_state_dict(renamed)
    x = torch.randn(2, 64, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_starts_as_the_identity():
    x = torch.randn(2, 64, 5, 7)
    torch.testing.assert_close(GlobalContext(64)(x), x, rtol=0, atol=0)


def test_a_narrow_network_still_sees_the_context():
    torch.manual_seed(0)
    module = GlobalContext(16)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 16, 5, 7)
    added = module(x) - x
    assert not torch.allclose(added[0], added[1], atol=0.1)


def test_parameter_count_in_resnet50_is_the_papers():
    plan = [(512, 4), (1024, 6), (2048, 3)]
    added = sum(
        blocks * sum(p.numel() for p in GlobalContext(channels).parameters())
        for channels, blocks in plan
    )
    assert round((25_557_032 + added) / 1e6, 2) == 28.08
