"""Every kind of block with every attention, and what create_backbone refuses."""

import copy

import pytest
import torch
import torchvision
from thorough import first_of, thorough
from torchvision.models.resnet import BasicBlock, ResNet

from eca_lightning import create_backbone
from eca_lightning.attention import attention_names
from eca_lightning.backbones import BackboneConfig, backbone_names

FROM_TORCHVISION = [name for name in backbone_names() if hasattr(torchvision.models, name)]
QUICK_FIRST = sorted(
    FROM_TORCHVISION, key=lambda name: name not in ("mobilenet_v2", "resnet18", "resnext50_32x4d")
)
# These repeat the blocks of another network, deeper or wider.
REPEATS = {"resnet18", "resnet34", "resnet56", "resnet50", "resnet101", "resnet152"}
REPEATS |= {"resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"}
SHALLOW = ["shallow.bottlenecks", "shallow.grouped_bottlenecks"]
GROUPED = ("resnext50_32x4d", "resnext101_32x8d", "shallow.grouped_bottlenecks", "mobilenet_v2")
IMPOSSIBLE = {  # pair -> what the error has to name
    **{(name, "aa"): "dense 3x3" for name in GROUPED},
    ("mobilenet_v2", "se_gc1"): "24 channels",
    ("mobilenet_v2", "se_gc2"): "24 channels",
}
PAIRS = [
    (name, attention)
    for name in (*backbone_names(), *SHALLOW)
    for attention in attention_names()
    if name not in REPEATS and (name, attention) not in IMPOSSIBLE
]


def noise(like):
    """Weights that keep the maps of deep networks finite, in less time than it takes to draw."""
    if like.dim() < 2:
        return torch.ones_like(like, device="cpu")
    levels = torch.rand(99_991, generator=torch.Generator().manual_seed(0))
    repeated = levels.repeat(-(-like.numel() // len(levels)))[: like.numel()].view(like.shape)
    return (repeated - 0.5) * (12 / like[0].numel()) ** 0.5


@pytest.mark.parametrize("name", first_of(QUICK_FIRST, 3))
def test_without_attention_equals_torchvision(name):
    with torch.device("meta"):
        ours = create_backbone(name).eval()
        theirs = getattr(torchvision.models, name)(weights=None).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    weights = {key: noise(value) for key, value in ours.state_dict().items()}
    for network in (ours, theirs):
        network.load_state_dict(weights, assign=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.isfinite().all()
        assert torch.equal(ours(images), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", *thorough("resnet50")])
def test_training_step_without_attention_equals_torchvision(name):
    ours = create_backbone(name, num_classes=3)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=3)
    theirs.load_state_dict(ours.state_dict())
    for network in (ours, theirs):
        torch.manual_seed(0)  # dropout
        network(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)).sum().backward()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), key


def test_half_the_width():
    """The keys of a ResNet with one basic block a stage, and half its channels everywhere."""
    ours = create_backbone("resnet10_half", num_classes=10)
    theirs = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10).state_dict()
    assert list(ours.state_dict()) == list(theirs)
    outer = {"conv1.weight": (32, 3, 7, 7), "fc.weight": (10, 256), "fc.bias": (10,)}
    for key, value in ours.state_dict().items():
        half = tuple(n // 2 if dim < 2 else n for dim, n in enumerate(theirs[key].shape))
        assert value.shape == outer.get(key, half), key
    for module in ours.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attention"), PAIRS)
def test_every_kind_of_block_runs_with_every_attention(name, attention):
    torch.manual_seed(0)
    network = create_backbone(name, attention, num_classes=2)
    network(torch.randn(2, 3, 24, 24)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(("name", "attention"), IMPOSSIBLE)
def test_impossible_pairs_say_why(name, attention):
    with torch.device("meta"), pytest.raises(ValueError, match=IMPOSSIBLE[name, attention]):
        create_backbone(name, attention)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *(("resnet18", attention) for attention in attention_names() if attention != "aa"),
        *((name, "eca") for name in backbone_names() if name != "resnet18"),
    ],
)
def test_attention_adds_only_its_own_keys(name, attention):
    with torch.device("meta"):
        plain = set(create_backbone(name).state_dict())
        attended = set(create_backbone(name, attention).state_dict())
    assert plain <= attended
    assert all(".attention." in key for key in attended - plain)


def test_aa_replaces_the_3x3_convolutions_of_three_stages():
    with torch.device("meta"):
        plain = set(create_backbone("resnet50").state_dict())
        attended = set(create_backbone("resnet50", "aa").state_dict())
    gone = {f"layer{s}.{b}.conv2.weight" for s, n in ((2, 4), (3, 6), (4, 3)) for b in range(n)}
    assert plain - attended == gone
    assert all(".conv2." in key for key in attended - plain)


@pytest.mark.parametrize("attention", ["none", "eca", "cbam", "a2"])
def test_copies_and_state_dict_round_trip(attention):
    torch.manual_seed(0)
    network = create_backbone("resnet20", attention, num_classes=4).eval()
    twin = create_backbone("resnet20", attention, num_classes=4).eval()
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        logits = network(images)
        assert not torch.equal(twin(images), logits)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(images), logits)
        assert torch.equal(copy.deepcopy(network)(images), logits)


@pytest.mark.slow
def test_compiled_block_equals_eager():
    """One block is enough: Inductor takes a minute for a network."""
    torch.compiler.reset()
    torch.manual_seed(0)
    block = create_backbone("resnet20", "eca").layer2[0].eval()
    x = torch.randn(4, 16, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = block(x)
        block.compile()
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_one_seed_gives_one_set_of_backbone_weights():
    states = []
    for attention in (None, "se", "nl"):
        torch.manual_seed(3)
        states.append(create_backbone("resnet18", attention).state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
        assert torch.equal(value, states[2][key]), key


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("resnet18", 32),
        ("resnet50", 80),
        ("mobilenet_v2", 59),
        *thorough(("resnet34", 66), ("resnet101", 165), ("resnet152", 250)),
    ],
)
def test_eca_adds_the_parameters_of_equation_12(name, extra):
    with torch.device("meta"):
        plain = getattr(torchvision.models, name)(weights=None)
        eca = create_backbone(name, attention="eca", attention_options={"kernel": "equation"})
    assert _parameters(eca) - _parameters(plain) == extra


@pytest.mark.parametrize(
    ("name", "kernel", "extra"),
    [
        ("resnet50", "figure", 86),
        ("resnet18", [3, 5, 7, 7], 44),
        ("mobilenet_v2", [1, 1, 1, 1, 3, 3, 3], 31),
        *thorough(
            ("resnet50", 7, 7 * 16),
            ("resnet34", [3, 3, 5, 7], 72),
            ("resnet50", [3, 5, 5, 7], 80),
            ("resnet101", [3, 3, 5, 7], 157),
            ("resnet152", [3, 3, 5, 7], 234),
        ),
    ],
)
def test_eca_adds_the_parameters_of_other_kernels(name, kernel, extra):
    with torch.device("meta"):
        plain = create_backbone(name)
        eca = create_backbone(name, "eca", {"kernel": kernel})
    assert _parameters(eca) - _parameters(plain) == extra


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "resnet51"},
            r"unknown backbone 'resnet51' \(did you mean 'resnet5.*known: .*mobilenet_v2",
        ),
        (
            {"name": "resnet18", "attention": "ecaa"},
            r"unknown attention 'ecaa' \(did you mean 'eca'\?\); known: .*cbam",
        ),
        ({"name": "resnet18", "attention": "eca", "attention_options": {"kernel": 4}}, "odd"),
        (
            {"name": "resnet18", "attention": "eca", "attention_options": {"kernel": [3, 5]}},
            "2 values.*4 stages",
        ),
        ({"name": "resnet18", "attention": "se", "attention_options": {"kernel": 3}}, "reduction"),
        ({"name": "resnet18", "attention_options": {"kernel": 3}}, "no attention"),
        ({"name": "resnet20", "stem": "imagenet"}, "small images"),
        ({"name": "resnet18", "num_classes": 0}, "at least 1"),
    ],
)
def test_refuses_with_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(**arguments)


def test_config_builds_what_create_backbone_builds():
    config = BackboneConfig("resnet20", "se", {"reduction": 4}, num_classes=7, in_channels=1)
    torch.manual_seed(0)
    built = config.build().state_dict()
    torch.manual_seed(0)
    created = create_backbone("resnet20", "se", {"reduction": 4}, 7, 1).state_dict()
    assert built.keys() == created.keys()
    assert all(torch.equal(built[key], created[key]) for key in built)


def _parameters(network):
    return sum(p.numel() for p in network.parameters())
