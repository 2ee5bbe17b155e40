"""A small grid, run, killed, resumed and reported; the statistics worked out by hand."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from eca_lightning import create_backbone
from eca_lightning.cli import main
from eca_lightning.compare import run as comparison
from eca_lightning.compare.grid import read_grid
from eca_lightning.compare.report import table
from eca_lightning.compare.run import COLUMNS, compare
from eca_lightning.compare.statistics import difference, variants_of
from eca_lightning.utils.atomic import lock

BASE = {
    "model": {
        "class_path": "eca_lightning.ImageClassifier",
        "init_args": {
            "backbone": {"name": "resnet20", "num_classes": 3},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "eca_lightning.SpeedMonitor"}],
    },
}
GRID = {
    "base": "base.yaml",
    "variants": {
        "none": {},
        "k3": {
            "model.backbone.attention": "eca",
            "model.backbone.attention_options": {"kernel": 3},
        },
    },
    "seeds": [0, 4],
    "references": ["none"],
}


def write(folder, **changes):
    """A grid of 2 x 2 runs of a few steps, and its data."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 127
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    options = {split: str(folder / split) for split in ("train", "val")}
    options |= {"batch_size": 8, "image_size": 16, "num_workers": 0}
    options |= {"train_crop": "full", "eval_crop": "full"}
    data = {"class_path": "eca_lightning.ImageFolderDataModule", "init_args": options}
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE | {"data": data}))
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID | changes, sort_keys=False))
    return folder / "grid.yaml"


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
    grid = write(folder)
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
    grid = write(tmp_path)
    with pytest.raises(ValueError, match=r"4 cells failed.*log\.txt: lr must be positive"):
        compare(grid, tmp_path / "out")
    assert len(ran) == 4
    assert not (tmp_path / "out" / "cells.csv").exists()


def made_rows(scores, **columns):
    """Rows of cells.csv with the given accuracies, in %: ``{variant: [one for each seed]}``."""
    empty = dict.fromkeys(COLUMNS, "1")
    return [
        empty
        | {"variant": variant, "seed": str(seed), "kernel": "", "attention": variant}
        | {"top1_last": str(value / 100), "top1_best": str(value / 100 + 0.01)}
        | columns.get(variant, {})
        for variant, values in scores.items()
        for seed, value in enumerate(values)
    ]


def test_intervals_are_those_of_a_paired_t_test():
    """Worked out by hand with the 97.5 % quantiles of Student's t from a printed table."""
    # Differences of 1 and 3: one degree of freedom, t = 12.7062, standard error 1.
    plain, ours = variants_of(made_rows({"none": [90, 92], "eca": [91, 95]}))
    found = difference(ours, plain)
    assert (found.mean, found.low, found.high) == pytest.approx((2, -10.7062, 14.7062), abs=1e-4)
    assert not found.is_significant
    # Differences of 1, 2 and 3: two degrees of freedom, t = 4.3027, standard error 1 / sqrt(3).
    scores = [81, 92, 73]
    plain, ours = variants_of(made_rows({"none": [80, 90, 70], "eca": scores}))
    found = difference(ours, plain)
    half = 4.3027 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-4)
    assert not found.is_significant
    assert ours.deviation == pytest.approx(np.std(scores, ddof=1))
    plain, ours = variants_of(made_rows({"none": [80, 90, 70], "eca": [82, 92, 72.1]}))
    assert difference(ours, plain).is_significant


def test_equal_differences_have_an_interval_of_no_width():
    plain, same, better = variants_of(
        made_rows({"none": [80, 90], "same": [80, 90], "eca": [81, 91]})
    )
    assert not difference(same, plain).is_significant
    found = difference(better, plain)
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_only_seeds_that_both_have_are_compared():
    rows = made_rows({"none": [90, 91, 92], "eca": [91, 91.5]})
    plain, ours = variants_of(rows)
    assert difference(ours, plain).seeds == 2
    assert difference(ours, plain).mean == pytest.approx(0.75)
    (single,) = variants_of(rows[:1])
    assert (difference(plain, single).low, difference(plain, single).high) == (-np.inf, np.inf)
    (other,) = variants_of(rows[2:3])
    assert difference(single, other) is None


def test_the_table_has_its_figures():
    rows = made_rows({"none": [90, 91, 92], "eca": [91, 92.2, 92.9], "se": [90]})
    lines = table(rows, ["none", "se"]).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines[2:]}
    assert cells["variant"][-2:] == ["against none", "against se"]
    assert cells["eca"][4:7] == ["92.03 ± 0.96", "93.03", "3"]
    assert cells["eca"][7].strip("*").startswith("+1.03 [+0.65, +1.41]")
    assert cells["eca"][7].startswith("**")
    assert cells["se"][4] == "90.00"
    assert cells["se"][7].strip(" |") == "+0.00"


def test_kernel_sizes_are_drawn_where_there_are_several(tmp_path):
    scores = {"none": [90, 91], "k3": [91, 92], "k5": [92, 93], "adaptive": [92, 92]}
    columns = {name: {"attention": "eca", "kernel": name[1:]} for name in ("k3", "k5")}
    columns["adaptive"] = {"attention": "eca", "kernel": "equation"}
    grid = write(tmp_path, variants={name: {} for name in scores}, seeds=[0, 1])
    output = tmp_path / "out"
    output.mkdir()
    with (output / "cells.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(made_rows(scores, **columns))
    compare(grid, output, report_only=True)
    assert (output / "kernels.png").stat().st_size > 0
    assert "![kernels](kernels.png)" in (output / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "missing.yaml"}, "config not found: .*missing.yaml"),
        ({"seed": [1]}, "must have the keys base, references, seeds, variants"),
        ({"seeds": [1, 1]}, "seeds must be distinct integers"),
        ({"seeds": []}, "seeds must be distinct integers"),
        ({"references": ["sse"]}, "references must be among none, k3"),
        ({"variants": {"a/b": {}}, "references": ["a/b"]}, "'a/b' must be of letters"),
        ({"variants": {"none": None}}, "'none' must be a map of options"),
    ],
)
def test_a_wrong_grid_is_named_with_its_key(tmp_path, changes, message):
    grid = write(tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_grid(grid)


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "grid.yaml").write_text("base: [")
    with pytest.raises(ValueError, match=r"grid\.yaml is not a YAML file"):
        read_grid(tmp_path / "grid.yaml")


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
