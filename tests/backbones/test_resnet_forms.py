"""timm's forms of ResNets beside timm, and all that takes hold of a network with one of each."""

import pytest
import shallow  # noqa: F401  # it names backbones
import timm
import torch
from thorough import one_in
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity
from eca_lightning.backbones.fold_bn import fold_batch_norms
from eca_lightning.backbones.network import find_backbone
from eca_lightning.detection.networks import DetectorConfig
from eca_lightning.explain.grad_cam import grad_cam
from eca_lightning.export.graphs import Deployed, trace
from eca_lightning.weights.identity_init import init_as_identity, starts_as_identity

NAMES = {  # ours, and timm's of the same network with attention or without
    **{name: name for name in ("resnet10t", "resnet14t", "resnet18d", "resnet26", "resnet26t")},
    **{name: name for name in ("resnet50c", "resnet50d", "resnet50s", "resnet50t")},
    **{name: name for name in ("resnetaa34d", "resnetblur50", "resnext50d_32x4d")},
    "resnetlight": "ecaresnetlight",
    "resnetrs50": "resnetrs50",
    "resnet269d": "ecaresnet269d",
    "resnext26t_32x4d": "seresnext26t_32x4d",
    "resnextaa201d_32x8d": "seresnextaa201d_32x8d",
    "wide_resnet101_2": "wide_resnet101_2",
}
FORMS = {  # timm's options of the networks in tests/shallow.py
    "shallow.blurred": {
        "block": Bottleneck,
        "layers": (2, 1, 1, 1),
        "stem_width": 8,
        "stem_type": "deep_tiered",
        "avg_down": True,
        "aa_layer": timm.layers.BlurPool2d,
    },
    "shallow.averaged": {
        "block": BasicBlock,
        "layers": (1, 1, 1, 1),
        "stem_width": 16,
        "stem_type": "deep",
        "aa_layer": nn.AvgPool2d,
    },
    "shallow.convolved": {
        "block": Bottleneck,
        "layers": (2, 1, 1, 1),
        "stem_width": 8,
        "stem_type": "deep",
        "replace_stem_pool": True,
    },
}


def noise(network):
    """Weights and running statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        elif not key.endswith("num_batches_tracked"):
            value.uniform_(0.2, 1.2, generator=generator)
    return network


@pytest.mark.parametrize("name", one_in(4, NAMES))
def test_names_stand_for_the_networks_of_timm(name):
    with torch.device("meta"):
        ours, theirs = create_backbone(name), timm.create_model(NAMES[name])
    expected = {k: v.shape for k, v in theirs.state_dict().items() if ".se." not in k}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected


@pytest.mark.parametrize(
    "name",
    [
        *("resnet51", "resnext50", "resnet50_32x4d", "resnext18_32x4d", "resnet50_2"),
        *("wide_resnet50", "wide_resnet18_2", "resnetrs50d", "resnetaalight", "resnet50x"),
    ],
)
def test_other_names_stand_for_nothing(name):
    assert find_backbone(name) is None
    with pytest.raises(ValueError, match="unknown backbone"):
        create_backbone(name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_forms_equal_those_of_timm(name, training):
    theirs = noise(ResNet(**FORMS[name], channels=(16, 32, 64, 128), num_classes=3)).double()
    ours = create_backbone(name, num_classes=3).double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    expected, found = theirs.train(training)(images), ours.train(training)(images)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("stem", "finest"), [(None, 4), ("small", 1)])
def test_strides_of_the_maps(name, stem, finest):
    network = create_backbone(name, "eca", stem=stem, features_only=True).eval()
    with torch.no_grad():
        sizes = [m.shape[-2:] for m in network(torch.zeros(1, 3, 75, 64)).values()]
    assert sizes == [(-(-75 // (finest << i)), 64 // finest >> i) for i in range(4)]


@pytest.mark.parametrize("name", FORMS)
def test_fused_and_folded_forms_compute_the_same(name):
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plain = noise(create_backbone(name, "eca", num_classes=3, fused=False)).double()
    fused = create_backbone(name, "eca", num_classes=3, fused=True).double()
    fused.load_state_dict(plain.state_dict())
    folded = fold_batch_norms(plain)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), plain.eval()(images), rtol=1e-9, atol=1e-9)
    for network in (plain.train(), fused.train()):
        network(images).square().sum().backward()
    for expected, found in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_attention_starts_neutrally(name):
    plain = noise(create_backbone(name, num_classes=3)).eval()
    attended = create_backbone(name, "eca", num_classes=3).eval()
    assert starts_as_identity(attended)
    attended.load_state_dict(plain.state_dict(), strict=False)
    init_as_identity(attended)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(attended(images), plain(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_graphs_are_for_images_of_any_size(tmp_path):
    network = noise(create_backbone("shallow.blurred", "eca", num_classes=3)).eval()
    deployed = Deployed(network, torch.zeros(3), torch.ones(3), preprocess=False)
    program = trace(deployed)
    torch.onnx.export(program, verbose=False).save(tmp_path / "network.onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "network.onnx")
    for shape in ((1, 3, 64, 96), (3, 3, 75, 101)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = network(images)
            torch.testing.assert_close(program.module()(images)["logits"], expected)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_detectors_maps_of_classes_and_costs(name):
    detector = DetectorConfig("retinanet", BackboneConfig(name, "eca"), fpn_channels=8).build()
    levels = detector.backbone(torch.zeros(1, 3, 64, 64))
    assert [m.shape[-1] for m in levels.values()][:3] == [8, 4, 2]
    model = ImageClassifier(BackboneConfig(name, "eca", num_classes=3)).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    heat, logits = grad_cam(model.backbone, images.float(), torch.tensor([0, 1]))
    assert heat.shape == (2, 2, 2)
    assert logits.shape == (2, 3)
    cost = complexity(BackboneConfig(name, "eca", num_classes=3), 64)
    assert cost.parameters == sum(p.numel() for p in model.backbone.parameters())
