import pytest
import torch
from torch import nn

from eca_lightning import create_attention
from eca_lightning.attention import ATTENTION_NAMES


def test_every_method_of_the_papers_tables_has_a_name():
    table_2 = {"se", "se_var1", "se_var2", "se_var3", "se_gc1", "se_gc2", "se_gc3", "eca_ns", "eca"}
    other_tables = {"cbam", "a2", "gc", "gsop", "aa", "nl"}
    assert set(ATTENTION_NAMES) == {"none"} | table_2 | other_tables


def test_none_leaves_the_tensor_alone():
    x = torch.randn(1, 4, 2, 2)
    module = create_attention("none", 4)
    assert isinstance(module, nn.Identity)
    assert module(x) is x


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
    with pytest.raises(ValueError, match=r"'gspo'; choose from none, eca, .*Did you mean 'gsop'\?"):
        create_attention("gspo", 64)


@pytest.mark.parametrize(
    ("name", "valid"), [("eca", "kernel"), ("a2", "feature_channels, descriptors"), ("nl", "none")]
)
def test_unknown_option_is_named_beside_the_valid_ones(name, valid):
    with pytest.raises(ValueError, match=rf"'{name}' has no option 'ratio'; its options: {valid}"):
        create_attention(name, 64, ratio=2)


@pytest.mark.parametrize("channels", [0, -3])
@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_no_channels_are_refused(name, channels):
    with pytest.raises(ValueError, match=f"at least one channel, got {channels}"):
        create_attention(name, channels)
