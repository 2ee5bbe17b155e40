"""Networks that weights cannot tell from ours, refused by what their files say of them."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from thorough import thorough

import eca_lightning
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.detection.backbone_weights import load_backbone
from eca_lightning.detection.networks import DetectorConfig
from eca_lightning.export.formats import write_weights
from eca_lightning.weights.look_alikes import difference, names, understood

IMAGES = torch.randint(
    0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


@pytest.fixture(autouse=True)
def _as_a_program(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def blurred():
    """timm's resnetblur18, whose weights have the names and shapes of resnet18's."""
    torch.manual_seed(0)
    return timm.create_model("resnetblur18", num_classes=3).eval()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["import", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def named(how, state, tmp_path):
    """Save weights in a file that says in one way or another whose they are."""
    if how == "arch":
        torch.save({"arch": "resnetblur18", "state_dict": state}, "w.pth")
    elif how == "args":
        torch.save({"state_dict": state, "args": Namespace(model="resnetblur18")}, "w.pth")
    elif how == "name":
        torch.save(state, "resnetblur18-84f4748f.pth")
    elif how == "metadata":
        save_file(state, "w.safetensors", {"architecture": "resnetblur18"})
    else:
        folder = tmp_path / "models--timm--resnetblur18.x" / "snapshots" / "84f4748f"
        (folder if how == "cache" else tmp_path).mkdir(parents=True, exist_ok=True)
        save_file(state, (folder if how == "cache" else tmp_path) / "model.safetensors")
        if how == "config":
            (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}))
    (path,) = (path for path in tmp_path.rglob("*.*") if path.suffix in (".pth", ".safetensors"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("how", ["arch", "metadata", *thorough("args", "name", "config", "cache")])
def test_a_network_is_taken_for_what_it_is_called(blurred, tmp_path, capsys, how):
    path = named(how, blurred.state_dict(), tmp_path)
    main(["import", str(path), "out.ckpt"])
    assert "resnetblur18 with attention none" in capsys.readouterr().out
    model = eca_lightning.load_classifier("out.ckpt")
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(model.backbone(images), blurred(images))
    detector = DetectorConfig("retinanet", BackboneConfig("resnet18"), fpn_channels=8).build()
    for file in (path, "out.ckpt"):
        with pytest.raises(ValueError, match="set the backbone's name to resnetblur18"):
            load_backbone(detector, file)
    known = ["--backbone.name", "resnet18", "--backbone.num_classes", "3"]
    main(["import", str(path), "other.ckpt", *known])  # whoever knows better says so
    assert "resnetblur18" in capsys.readouterr().out
    error = refusal(capsys, "out.ckpt", "other.ckpt", *known)
    assert "set the backbone's name to resnetblur18" in error


def test_names_that_contradict_each_other(blurred, capsys):
    torch.save({"arch": "resnet18", "state_dict": blurred.state_dict()}, "resnetblur18.pth")
    error = refusal(capsys, "resnetblur18.pth", "out.ckpt")
    assert "called by names of different networks: resnet18, resnetblur18.pth" in error


def test_a_look_alike_that_says_so_is_refused(capsys):
    state = eca_lightning.create_backbone("resnet20", num_classes=3).state_dict()
    torch.save({"arch": "resnet20_os8", "state_dict": state}, "w.pth")
    assert "w.pth is of a network that only looks like one of this package" in refusal(
        capsys, "w.pth", "out.ckpt"
    )
    with pytest.raises(ValueError, match="only looks like"):
        eca_lightning.load_classifier("w.pth")


@pytest.mark.parametrize(
    ("name", "is_refused", "told"),
    [
        ("resnetaa50_a1h-4cf422b3.pth", False, {"pooling": "aa"}),
        ("seresnextaa101d_32x8d.pth", False, {"pooling": "aa"}),
        ("cecaresnet50.pth", False, {"circular": True, "pooling": ""}),
        ("resnet50_ceca.pth", False, {"circular": True, "pooling": ""}),
        ("resnet50_lpf4.pth", True, {"pooling": ""}),
        *((name, True, {"pooling": ""}) for name in ("tf_resnet50.pth", "resnet50_os16.pth")),
        *((name, True, {"pooling": ""}) for name in ("resnet50-output_stride8.pth",)),
        *((name, True, {"pooling": ""}) for name in ("deeplabv3_resnet50_coco.pth",)),
        *((name, True, {"pooling": ""}) for name in ("resnet50_silu.pth", "resnet50_caffe.pth")),
        ("resnet50_gn_a1h2.pth", True, {"pooling": ""}),
        *((name, False, {"pooling": ""}) for name in ("eca_resnet50.pth", "wide_resnet50_2")),
        ("resnet50-0dc5ceca.pth", False, {"pooling": ""}),
        *((name, False, {}) for name in ("best.pth", "aa.pth", "blurred.pth", "antialiased.pth")),
    ],
)
def test_names(tmp_path, name, is_refused, told):
    called = names(tmp_path / name, [])
    assert bool(difference(called, [], [])) == is_refused
    assert understood(called, []) == told


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"model_args": {"output_stride": 16}}, True),
        ({"model_args": {"block_args": {"attn_layer": "nl"}}}, True),
        ({"model_args": {"act_layer": "silu"}}, True),
        ({"global_pool": "max"}, True),
        ({"model_args": {"output_stride": 32, "aa_layer": None}, "global_pool": "avg"}, False),
        ({"model_args": {"block_args": {"attn_layer": "eca"}}, "num_classes": 3}, False),
    ],
)
def test_settings_beside_the_weights(tmp_path, capsys, settings, is_refused):
    state = eca_lightning.create_backbone("resnet20", num_classes=3).state_dict()
    save_file(state, "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet20"} | settings))
    if is_refused:
        assert "only looks like" in refusal(capsys, "model.safetensors", "out.ckpt")
    else:
        main(["import", "model.safetensors", "out.ckpt"])


def test_weights_of_segmentation_are_of_a_dilated_network(capsys):
    state = eca_lightning.create_backbone("resnet20").state_dict()
    parts = {f"backbone.{key}": value for key, value in state.items()}
    torch.save(parts | {"classifier.0.convs.0.0.weight": torch.ones(3)}, "w.pth")
    assert "it is dilated" in refusal(capsys, "w.pth", "out.ckpt")


def test_the_report_says_what_weights_do_not_show(blurred, capsys):
    torch.save(blurred.state_dict(), "w.pth")
    main(["import", "w.pth", "out.ckpt"])
    report = capsys.readouterr().out
    assert "not shown by weights" in report
    for what in ("strides", "dilation", "blur", "padding", "activations", "eps"):
        assert what in report


@pytest.mark.slow
def test_mean_and_std_of_a_hub_config(tmp_path, capsys):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=3).eval()
    save_file(theirs.state_dict(), "model.safetensors")
    of_images = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = {"architecture": "resnet18", "pretrained_cfg": of_images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    main(["import", "model.safetensors", "out.ckpt"])
    assert "0.5, 0.4, 0.3" in capsys.readouterr().out
    mean, std = (torch.tensor(of_images[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        found = eca_lightning.load_classifier("out.ckpt")(IMAGES)
        torch.testing.assert_close(found, theirs((IMAGES / 255 - mean) / std), rtol=0, atol=1e-4)


def test_a_damaged_config_beside_the_weights(tmp_path, capsys):
    save_file(eca_lightning.create_backbone("resnet20").state_dict(), "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert "config.json, which should describe model.safetensors, is damaged" in refusal(
        capsys, "model.safetensors", "out.ckpt"
    )


def test_exported_weights_are_read_with_their_description(capsys):
    backbone = BackboneConfig("resnet20", num_classes=3, blur_pool=True)
    model = eca_lightning.ImageClassifier(backbone, mean=[0.4] * 3).eval()
    config = {"backbone": model.hparams["backbone"], "mean": [0.4] * 3, "class_names": ["a", "b"]}
    write_weights(model.backbone, Path("net.safetensors"), config)
    with torch.inference_mode():
        assert torch.equal(eca_lightning.load_classifier("net.safetensors")(IMAGES), model(IMAGES))
    plain = ["--backbone.name", "resnet20", "--backbone.num_classes", "3"]
    error = refusal(capsys, "net.safetensors", "out.ckpt", *plain)
    assert "blur_pool is True in the checkpoint and False here: set it in the backbone" in error


def test_group_norms_are_not_loaded_into_batch_norms(capsys):
    state = timm.create_model("resnet18", norm_layer="groupnorm", num_classes=3).state_dict()
    torch.save(state, "w.pth")
    error = refusal(capsys, "w.pth", "out.ckpt", "--strict", "false")
    assert "bn1 has no running statistics" in error
