"""The comparison of loaders, on a few small images."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from forked import fork_context
from PIL import Image

from eca_lightning.benchmarks import loader_process
from eca_lightning.benchmarks.loader import benchmark_loader
from eca_lightning.benchmarks.loader_candidates import LOADERS, Workload
from eca_lightning.benchmarks.loader_process import LoaderProcess, Timing, session_cpu_seconds
from eca_lightning.benchmarks.loader_report import Result, report

WORK = Workload(None, None, [], batches=3, batch_size=4, image_size=32, num_workers=1)
BURN = """
import sys, time
while time.process_time() < 0.5:
    pass
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of six images, one of them in a format that torchvision.io does not read."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(12):
        path = root / "ab"[i % 2] / f"{i}.{'bmp' if i == 5 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return root


def lines(output):
    with (output / "loaders.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(folder, tmp_path_factory):
    """The rows of a comparison with a loader that fails."""
    pytest.importorskip("ffcv")
    output = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        # Fresh processes would spend ten seconds on imports.
        forks = SimpleNamespace(get_context=lambda _: fork_context())
        patch.setattr(loader_process, "multiprocessing", forks)
        benchmark_loader(
            folder,
            image_size=32,
            batch_size=4,
            num_workers=(1,),
            repeats=1,
            loaders=["torchvision-io", "eca-lightning"],
            output=output,
        )
    return {row["loader"]: row for row in lines(output)}


@pytest.mark.slow
def test_a_loader_is_measured_on_a_folder(compared):
    row = compared["eca-lightning packed"]
    assert (row["workers"], row["images"], row["repeats"], row["failure"]) == ("1", "12", "1", "")
    assert float(row["images_per_s"]) > 0
    assert float(row["first_batch_s"]) > 0
    assert float(row["ours_faster"]) == 1
    assert float(row["kb_per_image"]) > 1
    assert float(compared["eca-lightning jpg"]["images_per_s"]) > 0


@pytest.mark.slow
def test_a_loader_that_fails_is_reported_and_stops_no_other(compared):
    row = compared["torchvision-io"]
    assert "decode_image" in row["failure"] or "Unsupported image" in row["failure"]
    assert row["repeats"] == "0"
    assert row["images_per_s"] == row["ours_faster"] == row["cpu_ms_per_image"] == ""
    assert list(compared) == ["eca-lightning packed", "eca-lightning jpg", "torchvision-io"]


def result(name, *seconds, cpu=0.24):
    timings = [Timing(100.0, 100.0, 9.0), *(Timing(s, cpu, 0.1) for s in seconds)]
    return Result(name, WORK, timings)


def test_figures_are_medians_and_ratios_are_taken_round_by_round(tmp_path, capsys):
    # 12 images a repeat; the machine is half as fast in the last round.
    ours = result("eca-lightning", 1.0, 1.2, 3.0, cpu=0.12)
    ffcv = result("ffcv", 2.0, 3.6, 6.0)
    report([ours, ffcv], "two loaders", tmp_path)
    ours_row, ffcv_row = lines(tmp_path)
    figures = {key: float(ffcv_row[key]) for key in list(ffcv_row)[7:]}
    assert figures["images_per_s"] == pytest.approx(12 / 3.6, abs=0.05)
    assert figures["images_per_s_min"] == pytest.approx(12 / 6.0)
    assert figures["images_per_s_max"] == pytest.approx(12 / 2.0)
    assert [figures[f"ours_faster{end}"] for end in ("", "_min", "_max")] == [2.0, 2.0, 3.0]
    assert figures["cpu_ms_per_image"] == pytest.approx(20.0)
    assert figures["images_per_s_per_core"] == pytest.approx(50.0)
    assert figures["first_batch_s"] == 9.0
    assert float(ours_row["ours_faster"]) == 1
    shown = capsys.readouterr().out
    assert "2.00" in shown
    assert "ffcv" in shown


def test_without_ours_there_are_no_ratios(tmp_path, capsys):
    failed = Result("eca-lightning", WORK, [], "no answer for 3 s")
    report([failed, result("timm", 2.0)], "two loaders", tmp_path)
    assert [row["ours_faster"] for row in lines(tmp_path)] == ["", ""]
    assert "failed: no answer for 3 s" in capsys.readouterr().out


def test_a_chart_is_drawn(tmp_path):
    report([result("timm", 2.0, 3.0), result("ffcv", 1.0, 1.5)], "two loaders", tmp_path)
    assert Image.open(tmp_path / "loaders.png").width > 400


@pytest.mark.slow
def test_a_loader_that_hangs_or_dies_is_aborted(tmp_path):
    process = LoaderProcess("torchvision-pil", WORK, tmp_path / "log")
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"no answer for 0\.01 s"):
        process.time(0, timeout=0.01)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        process.time(0, timeout=60.0)
    process.close()


@pytest.mark.slow
def test_a_loader_that_hangs_is_killed_when_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(loader_process, "PATIENCE", 0.01)
    process = LoaderProcess("torchvision-pil", WORK, tmp_path / "log")
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGSTOP)
    process.close()
    assert not multiprocessing.active_children()


def test_cpu_time_of_children_that_still_run_is_counted():
    before = session_cpu_seconds()
    command = [sys.executable, "-c", BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert session_cpu_seconds() - before > 0.45
        child.stdin.close()


@pytest.mark.parametrize("view", ["random_resized_crop", "center_crop"])
@pytest.mark.parametrize("name", ["torchvision-io", "torchvision-pil", "timm"])
def test_other_loaders_yield_uint8_batches_of_every_file(folder, name, view):
    pytest.importorskip(LOADERS[name].needs)
    files = [(str(path), i) for i, path in enumerate(sorted(folder.rglob("*.jpg"))[:8])]
    work = replace(WORK, folder=folder, files=files, batches=2, view=view)
    batches = list(LOADERS[name].build(work)(0))
    assert {(str(images.dtype), tuple(images.shape)) for images, _ in batches} == {
        ("torch.uint8", (4, 3, 32, 32))
    }
    assert sorted(label for _, labels in batches for label in labels.tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": Path("missing")}, "data: missing does not exist"),
        ({"data": Path("missing.beton")}, "data: missing.beton does not exist"),
        ({"batch_size": 13}, "12 images of .* do not fill a batch of 13"),
        ({"images": 3}, "3 images of .* do not fill a batch of 4"),
        ({"repeats": 0}, "repeats must be positive"),
        ({"num_workers": ()}, "num_workers must be positive"),
        ({"timeout": 0.0}, "timeout must be positive"),
        ({"loaders": ["timmm"]}, r"unknown loader 'timmm' \(did you mean 'timm'\?\)"),
    ],
)
def test_bad_input_is_named(folder, tmp_path, change, message):
    options = {"data": folder, "batch_size": 4, "output": tmp_path / "results"} | change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark_loader(**options)
    assert not (tmp_path / "results").exists()


def test_loaders_of_folders_cannot_be_chosen_for_a_beton(folder, tmp_path):
    pytest.importorskip("ffcv")
    from eca_lightning.data.datasets.image_folder import write_image_folder

    beton = tmp_path / "images.beton"
    write_image_folder(folder, beton, num_workers=1)
    with pytest.raises(ValueError, match="loaders: timm reads a folder of class folders"):
        benchmark_loader(beton, batch_size=4, loaders=["timm"], output=tmp_path)
