import math

import pytest
import torch
import torch.nn.functional as F

from eca_lightning.attention.attention_augmented import AttentionAugmentedConv2d


def reference(module: AttentionAugmentedConv2d, x: torch.Tensor) -> torch.Tensor:
    """Attend position by position and head by head, as the paper's Eq. 1 to 4 write it."""
    key, value = module.height.shape[1], module.project.weight.shape[0] // module.heads
    pooled = x
    if module.stride == 2:
        inside = F.conv2d(torch.ones_like(x[:, :1]), x.new_ones(1, 1, 3, 3), None, 2, 1)
        kernel = x.new_ones(x.shape[1], 1, 3, 3)
        pooled = F.conv2d(x, kernel, None, 2, 1, groups=x.shape[1]) / inside
    n_images, _, height, width = pooled.shape
    q, k, v = torch.split(
        module.qkv(pooled), [module.heads * key, module.heads * key, module.heads * value], dim=1
    )
    far = module.max_distance
    attended = x.new_zeros(n_images, module.heads * value, height, width)
    for head in range(module.heads):
        qs, ks = (t[:, head * key : (head + 1) * key] for t in (q, k))
        vs = v[:, head * value : (head + 1) * value].flatten(2)
        for h in range(height):
            for w in range(width):
                logits = x.new_zeros(n_images, height, width)
                for y in range(height):
                    for z in range(width):
                        down = module.height[max(-far, min(far, y - h)) + far]
                        right = module.width[max(-far, min(far, z - w)) + far]
                        keyed = ks[:, :, y, z] + down + right
                        logits[:, y, z] = (qs[:, :, h, w] * keyed).sum(1) / math.sqrt(key)
                weights = logits.flatten(1).softmax(dim=1)
                channels = slice(head * value, (head + 1) * value)
                attended[:, channels, h, w] = torch.einsum("np,ncp->nc", weights, vs)
    return torch.cat((module.conv(x), module.project(attended)), dim=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("max_distance", [1, 31])
def test_equals_a_loop_over_positions(stride, max_distance):
    torch.manual_seed(0)
    module = AttentionAugmentedConv2d(
        12, stride=stride, heads=2, upsilon=0.4, max_distance=max_distance
    ).double()
    x = torch.randn(2, 12, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), reference(module, x))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_stride_gives_the_size_of_a_convolution(size):
    x = torch.randn(1, 16, *size)
    expected = F.conv2d(x, torch.zeros(16, 16, 3, 3), stride=2, padding=1).shape
    assert AttentionAugmentedConv2d(16, stride=2)(x).shape == expected


@pytest.mark.parametrize(
    ("channels", "value_channels"), [(16, 8), (64, 8), (128, 16), (256, 24), (512, 48)]
)
def test_value_channels_are_a_tenth_in_whole_heads(channels, value_channels):
    module = AttentionAugmentedConv2d(channels)
    assert module.project.weight.shape[:2] == (value_channels, value_channels)
    assert module.conv.out_channels == channels - value_channels


@pytest.mark.parametrize(("channels", "key"), [(128, 20), (512, 20), (2048, 51)])
def test_a_head_has_at_least_twenty_key_channels(channels, key):
    assert AttentionAugmentedConv2d(channels).height.shape == (63, key)


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match=r"takes 8 of 8 channels .* fewer heads"):
        AttentionAugmentedConv2d(8)


def test_parameter_count_in_resnet50_is_the_papers():
    plan = [(128, 4), (256, 6), (512, 3)]
    added = sum(
        blocks
        * (sum(p.numel() for p in AttentionAugmentedConv2d(width).parameters()) - 9 * width**2)
        for width, blocks in plan
    )
    assert round((25_557_032 + added) / 1e6, 2) == 25.80
