"""The ImageNet recipes against the tables that they were taken from."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from eca_lightning import ProgressiveResizing, WarmupThenDecay
from eca_lightning.classification.mixing import Mixing

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGES = 1_281_167
PREFIXES = {"none": "", "se": "se_", "eca": "eca_"}

with (Path(__file__).parent / "ffcv_schedules.csv").open() as file:
    SCHEDULES = list(csv.DictReader(file))


def read(stem):
    """A run with the model and the data that it names."""
    path = CONFIGS / "imagenet" / f"{stem}.yaml"
    run = yaml.safe_load(path.read_text())
    for part in ("model", "data"):
        run[part] = yaml.safe_load((path.parent / run[part]).read_text())["init_args"]
    return run


def rate(run, epoch, batch):
    """The learning rate at an epoch, as a fraction of the optimizer's."""
    steps = IMAGES // batch
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    options = run["model"]["lr_scheduler"]["init_args"]
    epochs = run["trainer"]["max_epochs"]
    return WarmupThenDecay(optimizer, steps * epochs, steps, **options).factor(round(epoch * steps))


@pytest.mark.parametrize("attention", PREFIXES)
@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: f"{row['backbone']}_{row['epochs']}")
def test_ffcv(row, attention):
    run = read(f"{PREFIXES[attention]}{row['backbone']}_ffcv{row['epochs']}")
    epochs, batch = int(row["epochs"]), int(row["yaml_batch_size"])
    model, data = run["model"], run["data"]
    assert model["backbone"]["name"] == row["backbone"]
    assert model["backbone"]["attention"] == attention
    assert model["backbone"]["blur_pool"]
    assert model["flip_tta"]
    assert model["no_decay_norm_bias"]
    assert model["label_smoothing"] == float(row["label_smoothing"])
    assert model["optimizer"]["init_args"] == {
        "lr": float(row["lr"]),
        "momentum": 0.9,
        "weight_decay": float(row["weight_decay"]),
    }
    assert data["batch_size"] == batch
    assert model["lr_base_batch_size"] == batch * int(row["gpus"])
    assert data["image_size"] / data["resize_size"] == pytest.approx(224 / 256, abs=0.002)
    assert run["trainer"]["max_epochs"] == epochs
    for epoch in np.linspace(0, epochs, 33):
        expected = np.interp(epoch, [0, 2, epochs], [1e-4, 1, 0])
        assert rate(run, epoch, batch * int(row["gpus"])) == pytest.approx(expected, abs=2e-3)

    resizing = ProgressiveResizing(**run["progressive_resizing"])
    ramp = [int(row[key]) for key in ("start_ramp", "end_ramp")]
    sizes = [int(row[key]) for key in ("min_res", "max_res")]
    expected = [int(np.round(np.interp(e, ramp, sizes) / 32)) * 32 for e in range(epochs)]
    assert [resizing.size(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize("prefix", PREFIXES.values())
def test_torchvision_v2(prefix):
    run = read(f"{prefix}resnet50_v2")
    model, data = run["model"], run["data"]
    assert model["optimizer"]["init_args"]["lr"] * 128 * 8 / model["lr_base_batch_size"] == 0.5
    assert rate(run, 0, 1024) == pytest.approx(0.01)
    assert [rate(run, e, 1024) for e in (5, 302.5, 600)] == pytest.approx([1, 0.5, 0], abs=1e-3)
    assert Mixing(**model["mixing"]) == Mixing(mixup=0.2, cutmix=1.0)
    assert (data["image_size"], data["resize_size"], data["aug_repeats"]) == (224, 232, 4)
    assert ProgressiveResizing(**run["progressive_resizing"]).size(300) == 176
    callbacks = yaml.safe_load((CONFIGS / "trainer" / "callbacks_ema.yaml").read_text())
    (average,) = [c["init_args"] for c in callbacks if "Average" in c["class_path"]]
    per_update = (1 - 0.99998) * 128 * 8 * average["every_n_steps"] / run["trainer"]["max_epochs"]
    assert average["decay"] == pytest.approx(1 - per_update, abs=1e-6)


@pytest.mark.parametrize("prefix", PREFIXES.values())
@pytest.mark.parametrize(
    ("procedure", "epochs", "lr", "size", "repeats", "depth"),
    [("a2", 300, 5e-3, 224, 3, 0.05), ("a3", 100, 8e-3, 160, 1, 0.0)],
)
def test_resnet_strikes_back(prefix, procedure, epochs, lr, size, repeats, depth):
    """Table 2 of arXiv 2110.00476."""
    run = read(f"{prefix}resnet50_rsb_{procedure}")
    model, data = run["model"], run["data"]
    assert run["trainer"]["max_epochs"] == epochs
    assert model["optimizer"]["class_path"] == "timm.optim.Lamb"
    assert model["optimizer"]["init_args"] == {"lr": lr, "weight_decay": 0.02}
    assert model["lr_base_batch_size"] == 8 * data["batch_size"] == 2048
    assert rate(run, 0, 2048) * lr == pytest.approx(1e-4)
    assert model["loss"] == "binary_cross_entropy"
    assert Mixing(**model["mixing"]) == Mixing(mixup=0.1, cutmix=1.0)
    assert data.get("aug_repeats", 1) == repeats
    assert model["backbone"].get("stochastic_depth", 0.0) == depth
    assert run.get("progressive_resizing", {"min_size": 224})["min_size"] == size
    assert data["image_size"] / data["resize_size"] == pytest.approx(0.95, abs=0.002)


def test_a_recipe_keeps_its_callbacks_when_it_averages_weights():
    plain, averaging = (
        yaml.safe_load((CONFIGS / "trainer" / f"{stem}.yaml").read_text())
        for stem in ("callbacks", "callbacks_ema")
    )
    assert averaging[:-1] == plain
