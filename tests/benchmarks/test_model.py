"""The comparison of models, on a few small images."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch.autograd import DeviceType

from eca_lightning import create_backbone
from eca_lightning.benchmarks import model
from eca_lightning.benchmarks.device import kernels_of, resolve_device
from eca_lightning.benchmarks.model import TimedModel, Work, benchmark_model
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
        assert 0 < float(row["utilization"]) < 3  # other programs slow one of both down
        assert 1e-4 < float(row["peak_tflops"]) < 10
        assert row["kernels"] == row["launches"] == ""  # of a GPU
    assert float(rows["torchvision:resnet18", "train"]["time_ratio"]) == 1


@pytest.fixture
def seven_classes(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump({"name": "resnet20", "num_classes": 7}))
    return f"{path}"


@pytest.mark.slow
def test_a_batch_may_have_more_images_than_there_are_classes(seven_classes, tmp_path):
    options = {"batch_size": 9, "image_size": 16, "precision": "16", "device": "cpu"}
    options |= {"modes": ("eager",), "repeats": 1, "peak_tflops": 1e-3, "output": tmp_path}
    benchmark_model([seven_classes], **options)
    with (tmp_path / "models.csv").open() as file:
        train, inference = csv.DictReader(file)
    forward, ours = (
        float(row["utilization"]) / float(row["images_per_s"]) for row in (inference, train)
    )
    assert ours == pytest.approx(3 * forward, rel=0.05)
    assert train["peak_tflops"] == "0.001"


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_the_loss_is_scaled_in_float16_alone(seven_classes, precision):
    work = Work(9, 16, precision, torch.device("cpu"), 2)
    timed = TimedModel(seven_classes, "train", "eager", work)
    before = timed.network.fc.weight.detach().clone()
    timed.time()
    assert timed.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    change = (timed.network.fc.weight - before).abs().max()
    assert 0 < change < 0.01  # of gradients whose scale is removed
    assert timed.scaler.is_enabled() == (precision == "16")
    if precision == "16":
        assert timed.scaler.get_scale() > 1000


@pytest.fixture
def two_gpus(monkeypatch):
    found = {"is_available": True, "device_count": 2, "current_device": 0}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


@pytest.mark.usefixtures("two_gpus")
def test_devices_by_name_and_number():
    names = {None: "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1", "cpu": "cpu"}
    assert {name: f"{resolve_device(name)}" for name in names} == names
    for name in ("cuda:2", "cuda:x", "gpu", "cuda:-1"):
        with pytest.raises(ValueError, match="device must be"):
            resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu():
    assert resolve_device(None) == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be cpu where there is no GPU, got cuda:1"):
        resolve_device("cuda:1")


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        ({}, "cpu", (8, 1)),
        ({}, "cuda:1", (256, 10)),
        ({"batch_size": 3, "steps": 2}, "cuda:1", (3, 2)),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_the_work_suits_the_device(monkeypatch, given, device, expected):
    class AskedError(Exception):
        pass

    def work(batch_size, image_size, precision, place, steps):
        raise AskedError(batch_size, steps, f"{place}")

    monkeypatch.setattr(model, "Work", work)
    with pytest.raises(AskedError) as asked:
        benchmark_model(["resnet20"], device=device, **given)
    assert asked.value.args == (*expected, device)


def test_kernels_and_launches_are_counted():
    def event(kind, name, note=False):
        return SimpleNamespace(device_type=kind, name=name, is_user_annotation=note)

    cpu, gpu = DeviceType.CPU, DeviceType.CUDA
    on_cpu = ["aten::add", "cudaLaunchKernel", "cuLaunchKernelEx", "cudaMemcpyAsync"]
    on_gpu = ["triton_red", "triton_poi", "Memcpy HtoD (Pinned -> Device)", "Memset (Device)"]
    events = [*(event(cpu, name) for name in on_cpu), *(event(gpu, name) for name in on_gpu)]
    events.append(event(gpu, "Optimizer.step#SGD.step", note=True))
    assert kernels_of(events) == {"kernels": 2, "launches": 2}


def test_saved_activations_are_those_of_training_alone(rows):
    plain = float(rows["resnet18", "train"]["saved_mb"])
    assert float(rows["torchvision:resnet18", "train"]["saved_mb"]) == plain
    assert float(rows["original:eca_resnet18", "train"]["saved_mb"]) > plain
    assert not rows["resnet18", "inference"]["saved_mb"]


@pytest.mark.slow
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
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"peak_tflops": 0.0}, "peak_tflops must be positive"),
        ({"device": "gpu"}, "device must be cpu, cuda or a GPU by its number"),
    ],
)
def test_bad_input_is_named(tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark_model(**options, output=tmp_path / "results")
    assert not (tmp_path / "results").exists()
