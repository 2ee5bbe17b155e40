import pytest
import torch
from timm.layers.cbam import CbamModule

from eca_lightning.attention.cbam import ConvolutionalBlockAttention


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [64, 16])
def test_equals_timm_with_its_weights(channels, training):
    torch.manual_seed(0)
    theirs = CbamModule(channels).train(training)
    theirs.spatial.conv.bn.running_mean.fill_(0.3)
    theirs.spatial.conv.bn.running_var.fill_(1.7)
    ours = ConvolutionalBlockAttention(channels).train(training)
    state = theirs.state_dict()
    ours.load_state_dict({k.replace("spatial.conv.", "spatial."): v for k, v in state.items()})
    x = torch.randn(2, channels, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_parameter_count_in_resnet50_is_the_papers():
    plan = [(256, 3), (512, 4), (1024, 6), (2048, 3)]
    added = sum(
        blocks * sum(p.numel() for p in ConvolutionalBlockAttention(channels).parameters())
        for channels, blocks in plan
    )
    assert round((25_557_032 + added) / 2**20, 2) == 26.77
