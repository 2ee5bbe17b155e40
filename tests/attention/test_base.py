"""What every channel gate shares, and the registry of mechanisms."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from eca_lightning import create_attention
from eca_lightning.attention import ChannelGate, attention_names, register_attention

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


class Halve(ChannelGate):
    """A mechanism of a user's own package."""

    gate_layers = ()

    def __init__(self, channels: int, factor: float = 0.0) -> None:
        super().__init__()
        self.factor = factor

    def logits(self, pooled):
        return self.factor * pooled


def test_every_method_of_the_papers_tables_has_a_name():
    table_2 = {"se", "se_var1", "se_var2", "se_var3", "se_gc1", "se_gc2", "se_gc3", "eca_ns", "eca"}
    other_tables = {"cbam", "a2", "gc", "gsop", "aa", "nl"}
    assert table_2 | other_tables <= set(attention_names())


@pytest.mark.parametrize("spelling", [f"{__name__}.Halve", Halve])
def test_a_class_of_another_package_needs_no_registration(spelling, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Halve=Halve))
    module = create_attention(spelling, 4, factor=2.0)
    assert isinstance(module, Halve)
    assert module.factor == 2.0
    with pytest.raises(ValueError, match=r"'fcator'.*did you mean 'factor'"):
        create_attention(spelling, 4, fcator=2.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.Gate", "No module named 'no_such_package'.*PYTHONPATH"),
        ("os.path", "not a class derived from torch.nn.Module"),
        ("torch.nn.NoSuchGate", "not a class derived from torch.nn.Module"),
    ],
)
def test_a_dotted_name_that_is_no_class_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        create_attention(name, 4)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match=r"'eca' is registered by .*EfficientChannelAttention"):
        register_attention("eca")(Halve)
    with pytest.raises(TypeError, match="not derived from Attention"):
        register_attention("linear")(nn.Linear)


@pytest.mark.parametrize(
    ("name", "option", "key", "shape"),
    [
        ("eca", {"kernel": 9}, "conv.weight", (1, 1, 9)),
        ("eca", {"kernel": "figure"}, "conv.weight", (1, 1, 5)),
        ("eca_ns", {"kernel": 3}, "weight", (128, 3)),
        ("se", {"reduction": 4}, "fc1.weight", (32, 128)),
        ("cbam", {"reduction": 4}, "channel.fc1.weight", (32, 128, 1, 1)),
        ("gc", {"reduction": 4}, "transform.0.weight", (32, 128)),
        ("aa", {"max_distance": 7}, "height", (15, 20)),
    ],
)
def test_options_reach_the_mechanism(name, option, key, shape):
    assert create_attention(name, 128, **option).state_dict()[key].shape == shape


def test_unknown_name_lists_the_known_and_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'gspo' \(did you mean 'gsop'\?\); known: .*eca"):
        create_attention("gspo", 64)


@pytest.mark.parametrize(
    ("name", "valid"), [("eca", "kernel"), ("a2", "feature_channels, descriptors"), ("nl", "none")]
)
def test_unknown_option_is_named_beside_the_valid_ones(name, valid):
    with pytest.raises(ValueError, match=rf"option of attention '{name}': 'ratio'; known: {valid}"):
        create_attention(name, 64, ratio=2)


@pytest.mark.parametrize("channels", [0, -3])
@pytest.mark.parametrize("name", attention_names())
def test_no_channels_are_refused(name, channels):
    with pytest.raises(ValueError, match=f"at least one channel, got {channels}"):
        create_attention(name, channels)
