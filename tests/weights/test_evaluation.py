"""What released weights were validated on, beside timm's and torchvision's own transforms."""

import json

import numpy as np
import pytest
import sweep
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model_weights

import eca_lightning
from eca_lightning.data.folder.loader import FileDataset
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.weights.source import settings_of

PHOTOS = {"cat": data.chelsea(), "rocket": data.rocket(), "tall": data.rocket().swapaxes(0, 1)}
TIMM = {  # bilinear and bicubic, several sizes and crops
    "resnet18.tv_in1k": "bilinear",
    "ecaresnet50t.ra2_in1k": "bicubic",
    "ecaresnet50t.a3_in1k": "bicubic",
    "resnet50.a1h_in1k": "bicubic",
    "resnet26t.ra2_in1k": "bicubic",
    "seresnext101d_32x8d.ah_in1k": "bicubic",
}


@pytest.mark.parametrize("name", TIMM)
def test_the_pixels_are_those_of_timm(name):
    settings = settings_of(f"timm:{name}")
    ours = Preprocessing.of_library(settings)
    assert ours.resize_first == TIMM[name]
    assert Preprocessing.from_dict(ours.to_dict()) == ours
    theirs = create_transform(**resolve_data_config(pretrained_cfg=settings), normalize=False)
    for photo in PHOTOS.values():
        image = Image.fromarray(photo)
        expected = torch.as_tensor(np.asarray(theirs(image)))
        assert (ours(image).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["resnet50:IMAGENET1K_V1", "resnet50", "mobilenet_v2"])
def test_the_pixels_are_those_of_torchvision(name):
    network, _, tag = name.partition(":")
    known = get_model_weights(network)
    transform = (known[tag] if tag else known.DEFAULT).transforms(mean=[0] * 3, std=[1] * 3)
    ours = Preprocessing.of_library(settings_of(f"torchvision:{name}"))
    for photo in PHOTOS.values():
        image = Image.fromarray(photo)
        expected = (255 * transform(image)).round().int()
        assert (ours(image).int() - expected).abs().max() <= 1


def test_it_travels_with_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    theirs = sweep.noise(timm.create_model("resnet10t", num_classes=3))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    view = {"input_size": [3, 176, 176], "crop_pct": 0.95, "interpolation": "bicubic"}
    view |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_mode": "center"}
    config = {"architecture": "resnet10t", "pretrained_cfg": view}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, report = sweep.command("import", tmp_path / "model.safetensors", tmp_path / "ours.ckpt")
    assert "center_crop of 176 x 176 pixels after the shorter side is 185, bicubic" in report
    (tmp_path / "photos").mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
    model = eca_lightning.load_classifier(tmp_path / "ours.ckpt")
    transform = create_transform(**resolve_data_config(pretrained_cfg=view))
    with torch.inference_mode():
        for photo in PHOTOS.values():
            image = Image.fromarray(photo)
            expected = theirs.eval()(transform(image)[None])
            found = model(model.transform(image)[None])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # What validate and predict read.
    pixels, _ = FileDataset([tmp_path / "photos/cat.png"], None, model.transform.crop())[0, 0, None]
    assert torch.equal(pixels.permute(2, 0, 1), model.transform(tmp_path / "photos/cat.png"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"input_size": None, "crop_pct": None, "interpolation": ""},
        {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "random"},
        {"input_size": [3, 224, 224], "crop_pct": 0, "interpolation": "bicubic"},
        {
            "input_size": [3, 224, 224],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "crop_mode": "squash",
        },
    ],
)
def test_what_is_not_said_is_not_guessed(settings):
    assert Preprocessing.of_library(settings) is None


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="two numbers from 1"):
        Preprocessing.of_library(
            {"input_size": [3, 10**9, 7], "crop_pct": 1, "interpolation": "bicubic"}
        )
