"""RESULTS.md has the figures of the files in results/."""

import csv
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from thorough import first_of

from eca_lightning.compare.grid import read_grid
from eca_lightning.compare.run import COLUMNS

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "RESULTS.md").read_text()
BLOCK = "Before.\n\n<!-- table: results/{} -->\nold\n<!-- end -->\n\nAfter.\n"
RUN = ["fashion_mnist_table2", "fashion_mnist_mobilenet", "finetune_photos"]
"""The grids of which all seeds were run."""
GRIDS = [*RUN, "fashion_mnist_kernel"]


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "results.py"))


def write_cells(folder, name):
    """A cells.csv as if the grid had been run, the seeds and variants in any order."""
    grid = read_grid(ROOT / "configs" / "ablation" / f"{name}.yaml")
    rng = np.random.default_rng(0)
    lines = []
    for place, (variant, options) in enumerate(grid.variants.items()):
        kernel = options.get("model.backbone.attention_options", {}).get("kernel", "")
        attention = options.get("model.backbone.attention", "none")
        for seed in grid.seeds:
            line = dict.fromkeys(COLUMNS, "1") | {"variant": variant, "seed": str(seed)}
            line |= {"attention": attention, "kernel": str(kernel), "parameters": str(1000 + place)}
            line |= dict.fromkeys(["top1_last", "top1_best"], f"{0.9 + rng.normal(0, 0.01):.4f}")
            lines.append(line)
    rng.shuffle(lines)
    target = folder / "results" / name / "cells.csv"
    target.parent.mkdir(parents=True)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return grid, target


def test_the_tables_are_those_of_the_files(tool):
    assert tool["fill"](RESULTS, ROOT) == RESULTS, "make results"


def test_the_tables_that_there_should_be_are_there(tool):
    named = {(name, view) for _, name, view, _ in tool["BLOCK"].findall(RESULTS)}
    views = {("results/models.csv", view) for view in ("classifiers", "detectors", "kernels")}
    assert named == views | {(f"results/{grid}/cells.csv", "") for grid in RUN}


def test_images_are_there():
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", RESULTS):
        assert (ROOT / image).stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(GRIDS))
def test_a_comparison_is_filled_in_with_its_charts(tool, tmp_path, name):
    grid, cells = write_cells(tmp_path, name)
    before = cells.read_bytes()
    text = tmp_path / "RESULTS.md"
    text.write_text(BLOCK.format(f"{name}/cells.csv"))
    tool["main"](tmp_path)
    filled = text.read_text()
    assert filled.startswith("Before.\n\n<!-- table:")
    assert filled.endswith("<!-- end -->\n\nAfter.\n")
    table = [line.split(" | ") for line in filled.splitlines() if line.startswith("| ")]
    assert [line[0].strip("| ") for line in table[2:]] == list(grid.variants)
    assert [line[6] for line in table[2:]] == ["5"] * len(grid.variants)
    charts = {"accuracy", "differences"} | ({"kernels"} if name.endswith("kernel") else set())
    assert set(re.findall(rf"!\[(\w+)\]\(results/{name}/\1\.png\)", filled)) == charts
    assert all((cells.parent / f"{chart}.png").stat().st_size < 300_000 for chart in charts)
    assert cells.read_bytes() == before
    tool["main"](tmp_path)
    assert text.read_text() == filled


def test_a_block_says_that_its_file_is_not_there_yet(tool, tmp_path):
    filled = tool["fill"](BLOCK.format("nothing/cells.csv"), tmp_path)
    assert filled == BLOCK.format("nothing/cells.csv").replace("old", "\n*Not run yet.*\n")


def test_wrong_blocks_are_named(tool):
    with pytest.raises(ValueError, match=r"models\.csv has no view backbones"):
        tool["fill"](BLOCK.format("models.csv backbones"), ROOT)
    with pytest.raises(ValueError, match="needs an <!-- end -->"):
        tool["fill"](BLOCK.format("models.csv kernels").replace("<!-- end -->", ""), ROOT)
