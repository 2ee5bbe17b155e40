"""The statistics of a comparison, worked out by hand, and the report that has them."""

import csv

import numpy as np
import pytest
from tiny_grid import made_rows, write_grid

from eca_lightning.compare.report import table
from eca_lightning.compare.run import COLUMNS, compare
from eca_lightning.compare.statistics import difference, variants_of


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


def test_several_intervals_hold_together():
    """By Bonferroni: the 98.75 % quantile of two comparisons, from a printed table."""
    plain, ours = variants_of(made_rows({"none": [80, 90, 70], "eca": [81, 92, 73]}))
    found, half = difference(ours, plain, comparisons=2), 6.2053 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-4)
    rows = made_rows({"none": [80, 90, 70], "eca": [82, 92, 72.1], "se": [80, 91, 71]})
    assert f"[{2.0333 - 6.2053 / 30:+.2f}, " in table(rows, ["none"])


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
    assert cells["eca"][7].strip("*").startswith("+1.03 [+0.49, +1.58]")
    assert cells["eca"][7].startswith("**")
    assert cells["se"][4] == "90.00"
    assert cells["se"][7].strip(" |") == "+0.00"


def test_kernel_sizes_are_drawn_where_there_are_several(tmp_path):
    scores = {"none": [90, 91], "k3": [91, 92], "k5": [92, 93], "adaptive": [92, 92]}
    columns = {name: {"attention": "eca", "kernel": name[1:]} for name in ("k3", "k5")}
    columns["adaptive"] = {"attention": "eca", "kernel": "equation"}
    grid = write_grid(tmp_path, variants={name: {} for name in scores}, seeds=[0, 1])
    output = tmp_path / "out"
    output.mkdir()
    with (output / "cells.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(made_rows(scores, **columns))
    compare(grid, output, report_only=True)
    assert (output / "kernels.png").stat().st_size > 0
    assert "![kernels](kernels.png)" in (output / "report.md").read_text()
