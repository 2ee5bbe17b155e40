"""A small grid, run, killed, resumed and reported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_grid import write_grid

from eca_lightning import create_backbone
from eca_lightning.cli import main
from eca_lightning.compare import run as comparison
from eca_lightning.compare.run import compare
from eca_lightning.utils.atomic import lock


def rows_of(output):
    with (output / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def never(*_, **__):
    pytest.fail("a finished cell was run again")


def run_here(command, **_):
    """Run a cell in this process, which has imported everything."""
    main(command[3:])
    return subprocess.CompletedProcess(command, 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished grid without interruptions."""
    folder = tmp_path_factory.mktemp("compare")
    grid = write_grid(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison.subprocess, "run", run_here)
        compare(grid, folder / "out")
    return grid, folder / "out"


@pytest.mark.slow
def test_a_line_for_each_cell(done):
    rows = rows_of(done[1])
    assert {(row["variant"], row["seed"]) for row in rows} == {
        (variant, seed) for variant in ("none", "k3") for seed in ("0", "4")
    }
    for row in rows:
        attention = {"k3": "eca", "none": None}[row["variant"]]
        options = {"kernel": 3} if attention else {}
        network = create_backbone("resnet20", attention, options, num_classes=3)
        assert int(row["parameters"]) == sum(p.numel() for p in network.parameters())
        assert row["kernel"] == ("3" if attention else "")
        assert 0 <= float(row["top1_last"]) <= float(row["top1_best"]) <= 1
        assert float(row["images_per_s"]) > 0
        assert (row["epochs"], row["image_size"]) == ("2", "16")
        assert row["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.slow
def test_scores_are_those_of_the_checkpoints(done):
    for row in rows_of(done[1]):
        folder = done[1] / "runs" / row["variant"] / f"seed_{row['seed']}" / "checkpoints"
        saved = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]
        (scores,) = [v for k, v in saved.items() if "val/top1" in k]
        assert float(row["top1_last"]) == pytest.approx(scores["current_score"].item(), abs=1e-6)
        assert float(row["top1_best"]) == pytest.approx(scores["best_model_score"].item(), abs=1e-6)


@pytest.mark.slow
def test_cells_differ_by_seed_and_by_variant_alone(done):
    configs = {
        (row["variant"], row["seed"]): yaml.safe_load(
            (done[1] / "runs" / row["variant"] / f"seed_{row['seed']}" / "config.yaml").read_text()
        )
        for row in rows_of(done[1])
    }
    assert {key: config["seed_everything"] for key, config in configs.items()} == {
        key: int(key[1]) for key in configs
    }
    for config in configs.values():
        for name in ("attention", "attention_options"):
            config["model"]["init_args"]["backbone"].pop(name)
        config["seed_everything"] = config["trainer"]["logger"] = None
    assert all(config == configs["none", "0"] for config in configs.values())


@pytest.mark.slow
def test_finished_cells_are_skipped_and_the_report_needs_no_runs(done, tmp_path, monkeypatch):
    grid, output = done
    monkeypatch.setattr(comparison.subprocess, "run", never)
    before = (output / "cells.csv").read_text()
    compare(grid, output)
    assert (output / "cells.csv").read_text() == before
    (tmp_path / "cells.csv").write_text(before)
    compare(grid, tmp_path)
    for name in ("report.md", "accuracy.png", "differences.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert (tmp_path / "report.md").read_text() == (output / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "cells.csv",
        "report.md",
        "accuracy.png",
        "differences.png",
    }


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes that import everything, 20 s on a quiet machine
def test_a_killed_cell_resumes_and_ends_with_the_same_weights(done, tmp_path, monkeypatch):
    grid, output = done
    command = [sys.executable, "-m", "eca_lightning", "compare", str(grid), "--cell", "3"]
    command += ["--output", str(tmp_path)]
    folder = tmp_path / "runs" / "k3" / "seed_4"
    last = folder / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_at = torch.load(last, weights_only=True)["global_step"]
    (folder / "result.json").unlink(missing_ok=True)  # if the machine paused it for too long
    monkeypatch.setattr(comparison.subprocess, "run", run_here)
    compare(grid, tmp_path, cell=3)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    ends = [
        torch.load(root / "runs" / "k3" / "seed_4" / "checkpoints" / "last.ckpt", weights_only=True)
        for root in (tmp_path, output)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 6
    assert killed_at in (3, 6)
    for key, value in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][key], value), key
    row = json.loads((folder / "result.json").read_text())
    (alone,) = [r for r in rows_of(output) if (r["variant"], r["seed"]) == ("k3", "4")]
    for column in ("top1_last", "top1_best", "epochs", "parameters"):
        assert row[column] == alone[column]


@pytest.mark.slow
def test_a_cell_that_another_process_trains_is_skipped(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison.subprocess, "run", never)
    folder = tmp_path / "runs" / "none" / "seed_0"
    folder.mkdir(parents=True)
    with lock(folder / "result.json"):
        compare(done[0], tmp_path, cell=0)
    assert "none, seed 0: another process is training it" in capsys.readouterr().out
    assert not (folder / "result.json").exists()


def test_a_cell_that_fails_is_named_with_its_log_and_the_others_are_run(tmp_path, monkeypatch):
    ran = []

    def failing(command, stdout, **_):
        ran.append(command)
        stdout.write("first line\nlr must be positive\n")
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(comparison.subprocess, "run", failing)
    grid = write_grid(tmp_path)
    with pytest.raises(ValueError, match=r"4 cells failed.*log\.txt: lr must be positive"):
        compare(grid, tmp_path / "out")
    assert len(ran) == 4
    assert not (tmp_path / "out" / "cells.csv").exists()


@pytest.mark.slow
def test_wrong_options(done, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"grid not found: nowhere\.yaml"):
        compare(Path("nowhere.yaml"))
    with pytest.raises(ValueError, match="cell must be from 0 to 3"):
        compare(done[0], tmp_path, cell=4)
    with pytest.raises(ValueError, match="no finished cell"):
        compare(done[0], tmp_path, report_only=True)
    (tmp_path / "cells.csv").write_text("variant,top1\n")
    with pytest.raises(ValueError, match=r"cells\.csv: columns must be variant, seed"):
        compare(done[0], tmp_path, report_only=True)
