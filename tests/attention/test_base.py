import pytest
import torch
from torch import nn

from eca_lightning import create_attention
from eca_lightning.attention.base import ChannelGate

GATES = ["eca", "eca_ns", "se", "se_var1", "se_var2", "se_var3", "se_gc1", "se_gc2", "se_gc3"]


@pytest.mark.parametrize("name", GATES)
def test_logits_of_the_means_reproduce_the_gate(name):
    torch.manual_seed(0)
    module = create_attention(name, 32)
    assert isinstance(module, ChannelGate)
    x = torch.rand(2, 32, 5, 7) + 0.5
    gate = (module(x) / x).mean(dim=(2, 3))
    torch.testing.assert_close(torch.sigmoid(module.logits(x.mean(dim=(2, 3)))), gate)


def test_a_gate_without_logits_cannot_be_built():
    class Nothing(ChannelGate):
        pass

    with pytest.raises(TypeError, match="logits"):
        Nothing()


def test_a_gate_may_answer_in_another_precision():
    class Precise(ChannelGate):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def logits(self, pooled):
            return pooled.float() * self.scale

    x = torch.randn(2, 4, 3, 3, dtype=torch.bfloat16)
    assert Precise()(x).dtype == torch.bfloat16
