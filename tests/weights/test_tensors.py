"""Tensors that are no weights are refused by name wherever weights are read."""

import pytest
import torch
from thorough import thorough

import eca_lightning
from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.detection.backbone_weights import load_backbone
from eca_lightning.detection.networks import DetectorConfig

KEY = "layer1.0.conv1.weight"
GOOD = torch.ones(16, 16, 3, 3)
ONE_NAN = torch.ones(16, 16, 3, 3)
ONE_NAN[3, 2, 1, 0] = torch.nan
BAD = {
    "NaN": ONE_NAN,
    "infinite": GOOD * torch.inf,
    "complex": GOOD + 1j,
    "bool": GOOD > 0,
    "int8": GOOD.to(torch.int8),
    "int64": GOOD.long(),
    "float8": GOOD.to(torch.float8_e4m3fn),
    "sparse": GOOD.to_sparse(),
    "meta": GOOD.to("meta"),
    "repeats": torch.ones(1).expand(100_000, 100_000),
}


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("strict", ["true", *thorough("false")])
def test_tensors_that_are_no_weights(capsys, kind, strict):
    torch.save(create_backbone("resnet20").state_dict() | {KEY: BAD[kind]}, "w.pth")
    with pytest.raises(SystemExit) as stop:
        main(["import", "w.pth", "out.ckpt", "--strict", strict])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"w.pth: {KEY} " in error
    assert kind in error
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("ignore")  # quantized tensors are about to go from torch
def test_quantized_and_nested_tensors():
    quantized = torch.quantize_per_tensor(GOOD, 0.1, 0, torch.qint8)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for tensor, message in ((quantized, "is quantized"), (nested, "is nested")):
        torch.save(create_backbone("resnet20").state_dict() | {KEY: tensor}, "w.pth")
        with pytest.raises(ValueError, match=f"{KEY} {message}"):
            eca_lightning.load_classifier("w.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bn1.running_var", -torch.ones(64), "holds negative variances"),
        ("conv1.weight", torch.full((64, 3, 7, 7), torch.nan), "holds NaN"),
        ("fc.weight", torch.full((1000, 512), 1e300, dtype=torch.float64), "holds infinite"),
    ],
)
def test_wherever_weights_are_read(key, value, message):
    torch.save(create_backbone("resnet18").state_dict() | {key: value}, "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth: {key} {message}"):
        eca_lightning.load_classifier("w.pth")
    detector = DetectorConfig("retinanet", BackboneConfig("resnet18"), fpn_channels=8).build()
    with pytest.raises(ValueError, match=rf"w\.pth: {key} {message}"):
        load_backbone(detector, "w.pth")


def test_own_checkpoints_and_shared_models(tmp_path):
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    with torch.no_grad():
        model.backbone.fc.bias[1] = torch.nan
    checkpoint = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.5"}
    torch.save({**checkpoint, "hyper_parameters": dict(model.hparams)}, "nan.ckpt")
    with pytest.raises(ValueError, match=r"backbone\.fc\.bias holds NaN"):
        ImageClassifier.load_from_checkpoint("nan.ckpt", weights_only=True)
    model.save_pretrained(tmp_path / "shared")
    with pytest.raises(ValueError, match=r"backbone\.fc\.bias holds NaN"):
        ImageClassifier.from_pretrained(tmp_path / "shared")
