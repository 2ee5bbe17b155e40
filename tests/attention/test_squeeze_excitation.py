import pytest
import torch
from torchvision.ops import SqueezeExcitation as TorchvisionSqueezeExcitation

from eca_lightning import create_attention
from eca_lightning.attention.squeeze_excitation import GroupedExcitation, SqueezeExcitation


def test_equals_torchvision_without_biases():
    torch.manual_seed(0)
    ours, theirs = SqueezeExcitation(64, reduction=8), TorchvisionSqueezeExcitation(64, 8)
    for layer in ("fc1", "fc2"):
        getattr(theirs, layer).weight.data = getattr(ours, layer).weight.data[:, :, None, None]
        torch.nn.init.zeros_(getattr(theirs, layer).bias)
    x = torch.randn(2, 64, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_bottleneck_keeps_a_channel():
    assert SqueezeExcitation(8, reduction=16).fc1.weight.shape == (1, 8)


def test_variant_one_gates_by_the_mean_itself():
    x = torch.randn(2, 6, 3, 4)
    expected = x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(create_attention("se_var1", 6)(x), expected)


@pytest.mark.parametrize(
    ("name", "groups"),
    [("se_var2", 64), ("se_var3", 1), ("se_gc1", 16), ("se_gc2", 4), ("se_gc3", 8)],
)
def test_grouped_variants_are_block_diagonal_matrices(name, groups):
    torch.manual_seed(0)
    module = create_attention(name, 64).double()
    (weight,) = module.parameters()
    matrix = torch.block_diag(*weight.view(groups, 64 // groups, 64 // groups))
    x = torch.randn(2, 64, 3, 5, dtype=torch.float64)
    gate = torch.sigmoid(x.mean(dim=(2, 3)) @ matrix.T)
    torch.testing.assert_close(module(x), x * gate[:, :, None, None])


@pytest.mark.parametrize("channels", [256, 2048])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("se", lambda c: 2 * c**2 // 16),
        ("se_var1", lambda c: 0),
        ("se_var2", lambda c: c),
        ("se_var3", lambda c: c**2),
        ("se_gc1", lambda c: c**2 // 16),
        ("se_gc2", lambda c: 16 * c),
        ("se_gc3", lambda c: 8 * c),
    ],
)
def test_parameter_counts_are_those_of_table_2(name, count, channels):
    module = create_attention(name, channels)
    assert sum(p.numel() for p in module.parameters()) == count(channels)


@pytest.mark.parametrize(("name", "groups"), [("se_gc1", 16), ("se_gc2", 16), ("se_gc3", 8)])
def test_indivisible_channels_are_refused(name, groups):
    with pytest.raises(ValueError, match=rf"20 channels do not divide into .*{groups}"):
        create_attention(name, 20)


def test_grouped_excitation_names_channels_and_groups():
    with pytest.raises(ValueError, match="10 channels do not divide into 3 equal groups"):
        GroupedExcitation(10, groups=3)
