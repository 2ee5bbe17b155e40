"""The speed of runs on more devices, with a program in place of the fits and with small fits."""

import csv
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from eca_lightning.benchmarks.scaling import benchmark_scaling
from eca_lightning.benchmarks.scaling_report import Result, efficiency

CONFIGS = Path(__file__).parents[2] / "configs"
PROGRAM = r"""#!/bin/sh
# In place of a fit: fails, hangs or writes metrics, depending on its number of devices.
for argument in "$@"; do
  case $argument in
    --trainer.devices=*) devices=${argument#*=} ;;
    --trainer.logger=*) log=$(echo "$argument" | sed 's/.*"save_dir": "\([^"]*\)".*/\1/') ;;
  esac
done
case $devices in
  1) speed=100 ;;
  2) speed=150 ;;
  3) echo "ValueError: the third has gone"; echo "and this is the end of its output"; exit 7 ;;
  4) speed=200 ;;
  5) sleep 60 & echo $! > PIDS; wait ;;
esac
printf 'step,train/images_per_s,train/data_wait\n4,1,0.9\n9,%s,0.25\n' $speed > "$log/metrics.csv"
"""


def rows(output):
    with (output / "scaling.csv").open() as file:
        return {int(row["devices"]): row for row in csv.DictReader(file)}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("{}")
    return path


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Replace the fits by a small program; return the file to which it writes its child's id."""
    program, pids = tmp_path / "program", tmp_path / "pids"
    program.write_text(PROGRAM.replace("PIDS", str(pids)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sys.executable", str(program))
    return pids


def test_repeats_are_compared_with_the_smallest_run(config, stub, tmp_path, capsys):
    benchmark_scaling(config, devices=(4, 1), repeats=2, output=tmp_path / "results")
    found = rows(tmp_path / "results")
    assert list(found) == [1, 4]
    assert (found[4]["repeats"], found[4]["failure"]) == ("2", "")
    # The program's first line is its warm-up, which does not count.
    assert float(found[4]["images_per_s"]) == pytest.approx(200)
    assert float(found[4]["images_per_s_per_device"]) == pytest.approx(50)
    assert float(found[4]["efficiency"]) == pytest.approx(0.5)
    assert float(found[1]["efficiency_min"]) == 1
    assert float(found[4]["data_wait"]) == 0.25
    assert Image.open(tmp_path / "results" / "scaling.png").width > 400
    assert "25.0%" in capsys.readouterr().out


@pytest.mark.slow
def test_a_fit_that_fails_or_hangs_stops_no_other(config, stub, tmp_path, capsys):
    output = tmp_path / "results"
    benchmark_scaling(config, devices=(2, 3, 5), repeats=1, timeout=2.0, output=output)
    found = rows(output)
    assert found[2]["repeats"] == "1"
    assert found[3]["failure"] == "ended with status 7: ValueError: the third has gone"
    assert found[5]["failure"].startswith("no end after 2 s")
    assert found[3]["images_per_s"] == found[5]["efficiency"] == ""
    assert "the end of its output" in (output / "scaling.log").read_text()
    assert "3 devices failed: ended with status 7" in " ".join(capsys.readouterr().out.split())
    # The processes that it started are gone as well.
    for _ in range(600):
        if not Path(f"/proc/{stub.read_text()}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{stub.read_text()}").exists()


def test_the_command_fails_if_every_fit_fails(config, stub, tmp_path):
    with pytest.raises(ValueError, match=r"every fit failed, see .*scaling\.log: ended with"):
        benchmark_scaling(config, devices=(3,), output=tmp_path)
    assert rows(tmp_path)[3]["repeats"] == "0"


def test_efficiency_is_taken_round_by_round():
    """The machine is half as fast in the second round."""
    base = Result(2, [200.0, 100.0])
    assert efficiency(Result(4, [360.0, 180.0]), base) == [0.9, 0.9]


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes that train, 20 s on a quiet machine
def test_a_run_is_trained_on_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_NTASKS", "1")  # as in a job that was given one task
    monkeypatch.setenv("SLURM_JOB_NAME", "benchmark")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    rng = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    run = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    run["model"]["init_args"]["backbone"] = {"name": "resnet20", "num_classes": 2}
    images = {"train": str(tmp_path / "images"), "val": str(tmp_path / "images")}
    run["data"] = {
        "class_path": "eca_lightning.ImageFolderDataModule",
        "init_args": {**images, "batch_size": 2, "num_workers": 0, "image_size": 8},
    }
    run["reports"] = str(CONFIGS / "reports" / "classification.yaml")
    first, second = tmp_path / "run.yaml", tmp_path / "hardware.yaml"
    first.write_text(yaml.safe_dump(run))
    second.write_text(yaml.safe_dump({"trainer": {"accelerator": "gpu"}}))
    output = tmp_path / "results"
    options = {"trainer.accelerator": "cpu"}
    # More steps than an epoch of the two processes has, and the one epoch that the config wants.
    benchmark_scaling([first, second], (2,), options, steps=5, repeats=1, output=output)
    row = rows(output)[2]
    assert row["failure"] == ""
    assert float(row["images_per_s"]) > 0
    assert 0 < float(row["data_wait"]) < 1
    assert float(row["efficiency"]) == 1
    printed = (output / "scaling.log").read_text()
    assert "MEMBER: 2/2" in printed
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": Path("missing.yaml")}, "run: config not found: missing.yaml"),
        ({"run": []}, "run must be at least one config"),
        ({"devices": ()}, "devices must be positive"),
        ({"devices": (1, 1)}, "devices must be distinct"),
        ({"devices": (0, 1)}, "devices must be positive"),
        ({"steps": 0}, "must be positive"),
        ({"timeout": 0.0}, "must be positive"),
    ],
)
def test_bad_input_is_named(config, tmp_path, change, message):
    options = {"run": config, "output": tmp_path / "results"} | change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark_scaling(**options)
    assert not (tmp_path / "results").exists()
