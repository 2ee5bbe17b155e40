"""The comparison of models, on a few small images."""

import csv

import numpy as np
import pytest
import torch
import yaml

from eca_lightning import create_backbone
from eca_lightning.benchmarks.model import benchmark_model
from eca_lightning.benchmarks.model_candidates import build
from eca_lightning.benchmarks.model_report import time_ratio


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A comparison of three models, eager, in both passes."""
    output = tmp_path_factory.mktemp("results")
    benchmark_model(
        ["torchvision:resnet18", "resnet18", "original:eca_resnet18"],
        modes=("eager",),
        batch_size=2,
        image_size=32,
        device="cpu",
        repeats=1,
        peak_tflops=1.0,
        output=output,
    )
    assert (output / "models.png").stat().st_size > 0
    with (output / "models.csv").open() as file:
        return {(row["model"], row["pass"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_each_network_is_timed_in_each_pass(rows):
    assert len(rows) == 6
    for row in rows.values():
        assert float(row["images_per_s"]) > 0
        assert float(row["time_ratio_low"]) <= float(row["time_ratio"])
        assert float(row["time_ratio"]) <= float(row["time_ratio_high"])
        assert 0 < float(row["utilization"]) < 1
    assert float(rows["torchvision:resnet18", "train"]["time_ratio"]) == 1


def test_saved_activations_are_those_of_training_alone(rows):
    plain = float(rows["resnet18", "train"]["saved_mb"])
    assert float(rows["torchvision:resnet18", "train"]["saved_mb"]) == plain
    assert float(rows["original:eca_resnet18", "train"]["saved_mb"]) > plain
    assert not rows["resnet18", "inference"]["saved_mb"]


def test_the_original_eca_computes_what_ours_does():
    torch.manual_seed(0)
    original = build("original:eca_resnet50").eval()
    ours = create_backbone("resnet50", "eca").eval()
    renamed = {
        key.replace("bn3.0.", "bn3.").replace("bn3.1.conv", "attention.conv"): value
        for key, value in original.state_dict().items()
    }
    ours.load_state_dict(renamed)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), original(images), rtol=1e-4, atol=1e-4)


def test_a_file_describes_a_backbone_or_a_run(tmp_path):
    (tmp_path / "net.yaml").write_text(yaml.safe_dump({"name": "resnet20", "num_classes": 7}))
    task = {"class_path": "any", "init_args": {"backbone": "net.yaml"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": "task.yaml", "trainer": {}}))
    for name in ("net", "task", "run"):
        assert build(str(tmp_path / f"{name}.yaml")).fc.out_features == 7


def test_timm_gives_its_models_and_its_attention():
    pytest.importorskip("timm")
    with torch.device("meta"):
        assert type(build("timm:eca_resnet50").layer1[0].se).__name__ == "EcaModule"
        assert sum(p.numel() for p in build("timm:ecaresnet50t").parameters()) > 25e6


def test_ratios_compare_the_repeats_of_a_round():
    """The machine is half as fast in every other round, and the network takes 1.1 times as long."""
    speed = np.tile([100.0, 50.0], 10)
    assert time_ratio(list(speed / 1.1), list(speed)) == pytest.approx((1.1, 1.1, 1.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["ecaa_resnet50"]}, "unknown model 'ecaa_resnet50'"),
        ({"models": ["keras:resnet50"]}, "unknown prefix of .* must be one of torchvision"),
        ({"models": ["torchvision:resnet51"]}, "no classification model 'resnet51'"),
        ({"models": ["original:se_resnet50"]}, "needs eca_ and a ResNet"),
        ({"models": ["missing.yaml"]}, "file not found: missing.yaml"),
        ({"models": []}, "models must be at least one"),
        ({"repeats": 0}, "repeats must be positive"),
    ],
)
def test_bad_input_is_named(tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark_model(**options, output=tmp_path / "results")
    assert not (tmp_path / "results").exists()
