import pytest
import torch
from torch import nn

from eca_lightning.attention.double_attention import DoubleAttention


def reference(module: DoubleAttention, x: torch.Tensor) -> torch.Tensor:
    """Sum over positions and descriptors one by one, as the paper's section 3 writes it."""
    n_images, _, height, width = x.shape
    features, maps, vectors = module.features(x), module.gather(x), module.distribute(x)
    distributed = torch.zeros_like(features)
    positions = [(h, w) for h in range(height) for w in range(width)]
    for image in range(n_images):
        descriptors = []
        for logits in maps[image]:
            weights = logits.exp() / logits.exp().sum()
            descriptors.append(sum(weights[h, w] * features[image, :, h, w] for h, w in positions))
        for h, w in positions:
            needs = vectors[image, :, h, w].exp()
            needs = needs / needs.sum()
            distributed[image, :, h, w] = sum(
                need * descriptor for need, descriptor in zip(needs, descriptors, strict=True)
            )
    return x + module.bn(module.reconstruct(distributed))


@pytest.mark.parametrize("options", [{}, {"feature_channels": 5, "descriptors": 3}])
def test_equals_the_sums_of_the_paper(options):
    torch.manual_seed(0)
    module = DoubleAttention(8, **options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), reference(module, x))


def test_starts_as_the_identity():
    x = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(DoubleAttention(16)(x), x, rtol=0, atol=0)


def test_five_blocks_bring_resnet50_to_the_papers_33_million():
    plan = [(512, 2), (1024, 3)]
    added = sum(
        blocks * sum(p.numel() for p in DoubleAttention(channels).parameters())
        for channels, blocks in plan
    )
    assert 25_557_032 + added == pytest.approx(33.0e6, rel=0.005)
