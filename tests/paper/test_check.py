"""Every figure that the paper prints for its networks, beside what we count."""

import csv
import io
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from rich.console import Console
from thorough import thorough
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eca_lightning.attention.eca import EfficientChannelAttention
from eca_lightning.paper import command as audit_report
from eca_lightning.paper.check import audit
from eca_lightning.paper.command import models, tables
from eca_lightning.paper.tables import (
    ablation_models,
    detectors,
    imagenet_models,
    kernel_choices,
    paper_rows,
    released_models,
    timm_models,
)

pytestmark = pytest.mark.slow  # all but one count networks, once

RESULTS = Path(__file__).parents[2] / "results" / "models.csv"
BINARY = {"G": 2**30, "M": 2**20}
ATTENTION = ("resnet", "mobilenet_v2", "se", "cbam", "eca", "gc")
QUOTED = ("a2", "gsop1", "aa")
"""Rows of table 3 in decimal units throughout; of the others above, only gc's parameters are."""


def is_deep(name):
    return any(layers in name for layers in ("34", "101", "152"))


def rows(deep=False):
    """The whole audit, as the command makes it; or that of networks of 18 and 50 layers."""
    return counted(deep)


@cache
def counted(deep):
    wanted = [*imagenet_models(), *released_models(), *ablation_models()]
    wanted += [*detectors(), *kernel_choices()]
    return list(audit(model for model in wanted if deep or not is_deep(model.name)))


def row_of(table, name):
    known = rows(deep=is_deep(name))
    [row] = [row for row in known if (row.paper.table, row.paper.name) == (table, name)]
    return row


def case(line, name):
    """A parameter of a test: a line as the paper prints it, with the name of the network."""
    return pytest.param(line, name, id=name, marks=[pytest.mark.thorough] * is_deep(name))


def table_3(*methods):
    """Its lines as the paper prints them."""
    found = []
    lines = [line for line in paper_rows("table3_imagenet.csv") if line["method"] in methods]
    for line in lines:
        plain = line["method"] in ("resnet", "mobilenet_v2")
        name = line["backbone"] if plain else f"{line['method']}_{line['backbone']}"
        found.append(case(line, name))
    return found


def table_5():
    """The same of table 5."""
    found = []
    for line in paper_rows("table5_detection.csv"):
        attention = line["attention"].replace("nl1", "nl")
        name = f"{attention}_{line['backbone']}".removeprefix("none_")
        found.append(case(line, f"{line['detector']} {name}"))
    return found


def rounded(count, unit, printed):
    return f"{count / unit:.{len(printed.partition('.')[2])}f}"


def binary_operations(cost, line):
    return rounded(cost.paper_flops, BINARY[line["flops"][-1]], line["flops"][:-1])


# The classifiers


RELEASED = [case(line, line["model"]) for line in paper_rows("released_checkpoints.csv")]


@pytest.mark.parametrize(("line", "name"), RELEASED)
def test_released_checkpoints_agree_in_every_digit(line, name):
    """Parameters in 2^20, operations in 2^30 by the rule of table 3; and one slip."""
    row = row_of("released", name)
    assert binary_operations(row.cost, line) == line["flops"][:-1]
    printed = line["params_M"]
    if name == "eca_resnet152":
        [printed] = [p.values[0]["params_M"] for p in table_3("eca") if p.values[1] == name]
        assert printed != line["params_M"]
    assert rounded(row.cost.parameters, 2**20, printed) == printed


@pytest.mark.parametrize(("line", "name"), table_3(*set(ATTENTION) - {"gc"}))
def test_parameters_of_table_3_agree_in_every_digit(line, name):
    cost = row_of("table 3", name).cost
    assert rounded(cost.parameters, 2**20, line["params_M"]) == line["params_M"]


@pytest.mark.parametrize(("line", "name"), table_3(*ATTENTION))
def test_operations_of_table_3_agree_in_every_digit(line, name):
    cost = row_of("table 3", name).cost
    if name == "se_mobilenet_v2":  # 320.01 for 320.1; no rule that we tried gives the digit
        assert cost.paper_flops / 2**20 == pytest.approx(float(line["flops"][:-1]), abs=0.1)
    else:
        assert binary_operations(cost, line) == line["flops"][:-1]


@pytest.mark.parametrize(("line", "name"), table_3(*QUOTED, "gc"))
def test_quoted_parameters_are_decimal(line, name):
    cost = row_of("table 3", name).cost
    assert cost.parameters / 10**6 == pytest.approx(float(line["params_M"]), rel=0.003)


def without_stride_in_the_last_stage(network):
    for module in network.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def with_strides_in_the_first_convolutions(network):
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)


CHANGES = {
    "a2": [with_strides_in_the_first_convolutions],
    "gsop1": [without_stride_in_the_last_stage, with_strides_in_the_first_convolutions],
    "aa": [],
}


@pytest.mark.parametrize(("line", "name"), table_3(*QUOTED))
def test_what_the_notes_say_of_quoted_operations(line, name):
    row, method = row_of("table 3", name), line["method"]
    assert not row.paper.operations.agrees(row.operations)
    assert row.paper.note
    with torch.device("meta"):
        network = row.paper.config.build().eval()
        image = torch.empty(1, 3, 224, 224)
    for change in CHANGES[method]:
        change(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    counts = counter.get_flop_counts()["Global"]
    if method == "aa":
        counts = {
            operator: count for operator, count in counts.items() if "bmm" not in str(operator)
        }
    operations = sum(counts.values()) / 2 / 10**9
    assert operations == pytest.approx(float(line["flops"][:-1]), rel=0.02)


# The detectors


def test_the_file_is_the_papers_table_5():
    """Three detectors on two depths with three kinds of attention, and two rows from GCNet."""
    lines = list(paper_rows("table5_detection.csv"))
    assert len(lines) == len({tuple(line.values())[:3] for line in lines}) == 3 * 2 * 3 + 2


@pytest.mark.parametrize(("line", "name"), table_5())
def test_detectors_agree_in_every_digit(line, name):
    """In decimal units; of the rows that are quoted, the parameters are those of all layers."""
    row = row_of("table 5", name)
    if line["attention"] in ("nl1", "gc"):
        assert "GCNet" in row.paper.note
        assert row.cost.parameters / 10**6 == pytest.approx(float(line["params_M"]), rel=0.001)
        assert row.cost.paper_flops / 10**9 == pytest.approx(float(line["gflops"]), rel=0.02)
    else:
        assert rounded(row.cost.parameters, 10**6, line["params_M"]) == line["params_M"]
        assert rounded(row.cost.paper_flops, 10**9, line["gflops"]) == line["gflops"]


def test_the_deconvolution_of_the_mask_head_is_what_the_rule_of_table_5_counts_too_often():
    """Each of 100 masks has 28 x 28 positions, and each sees 1 of its kernel's 2 x 2 places."""
    mask, faster = (
        row_of("table 5", f"{name} resnet50").cost for name in ("mask_rcnn", "faster_rcnn")
    )
    head = 100 * (4 * 14 * 14 * 256 * 256 * 9 + 28 * 28 * 256 * 81)
    once = 100 * 28 * 28 * 256 * 256
    assert mask.macs - faster.macs == head + once
    relus_and_biases = 100 * (8 * 14 * 14 * 256 + 28 * 28 * (2 * 256 + 81))
    assert mask.paper_flops - faster.paper_flops == head + 4 * once + relus_and_biases


# All of them

DEEP = [False, *thorough(True)]


@pytest.mark.parametrize("deep", DEEP)
def test_every_figure_agrees_or_is_within_two_per_cent_or_is_explained(deep):
    for row in rows(deep):
        figures = [
            (row.paper.parameters, row.cost.parameters),
            (row.paper.operations, row.operations),
        ]
        for printed, count in figures:
            if printed and not printed.agrees(count) and not row.paper.note:
                assert abs(printed.difference(count)) < 2, row.paper


@pytest.mark.parametrize("deep", DEEP)
def test_the_committed_figures_are_those_of_today(deep):
    with RESULTS.open(newline="") as file:
        committed = [row for row in csv.DictReader(file) if deep or not is_deep(row["model"])]
    assert committed == [{k: str(v) for k, v in row.record().items()} for row in rows(deep)]


# ECA's kernels


def test_which_kernel_sizes_give_80_parameters():
    [claim] = paper_rows("abstract.csv")
    found = {
        row.paper.table: (row.kernels, row.cost.parameters)
        for row in rows()
        if row.paper.only_attention and row.paper.name == claim["model"]
    }
    [released] = [
        line["k_per_stage"]
        for line in paper_rows("released_checkpoints.csv")
        if line["model"] == claim["model"]
    ]
    assert found == {
        "Eq. 12": ((5, 5, 5, 5), 80),
        "Fig. 3": ((5, 5, 5, 7), 86),
        "released sizes": (tuple(map(int, released)), 80),
    }
    assert claim["added_parameters"] == "80"


@pytest.mark.parametrize("table", ["Eq. 12", "Fig. 3", "released sizes"])
def test_parameters_that_eca_adds_are_the_sum_of_its_kernels(table):
    for row in rows():
        if row.paper.table == table:
            with torch.device("meta"):
                network = row.paper.config.build()
            sizes = [
                m.kernel_size for m in network.modules() if isinstance(m, EfficientChannelAttention)
            ]
            assert row.cost.parameters == sum(sizes)
            assert set(row.kernels) == set(sizes)


@pytest.mark.parametrize(("line", "name"), RELEASED)
def test_the_released_sizes_are_those_of_the_file(line, name):
    kernels = row_of("released", name).kernels
    assert kernels == row_of("released sizes", name).kernels
    if line["k_per_stage"].isdigit():
        assert "".join(map(str, kernels)) == line["k_per_stage"]
    else:
        assert line["k_per_stage"] == "1 below 96 output channels, else 3"
        blocks = row_of("released", name).paper.config.build().modules()
        sizes = {b.out_channels: b.attention.kernel_size for b in blocks if hasattr(b, "attention")}
        assert sizes == {width: 1 if width < 96 else 3 for width in sizes}


def test_what_is_counted_instead_of_the_abstracts_operations():
    """ResNet-50's blocks: 3 of 256 channels at 56 x 56, 4 of 512 at 28, 6 of 1024 at 14, 3 at 7."""
    blocks = [(3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)]
    [claim] = paper_rows("abstract.csv")
    for row in rows():
        if row.paper.only_attention and row.paper.name == claim["model"]:
            sizes = row.kernels
            convolutions = sum(n * c * k for (n, c, _), k in zip(blocks, sizes, strict=True))
            pooling = sum(n * c * (side**2 + 1) for n, c, side in blocks)
            assert row.cost.macs == convolutions
            assert row.cost.paper_flops == convolutions + pooling
            claimed = float(claim["added_gflops"]) * 10**9
            assert convolutions < claimed / 5
            assert pooling > claimed * 10
            assert row.paper.note


# The command


@pytest.mark.parametrize("deep", DEEP)
def test_tables_show_every_row_in_a_terminal_of_80_columns(deep):
    console = Console(width=80, file=io.StringIO())
    for table in tables([row.record() for row in rows(deep)]):
        console.print(table)
    printed = console.file.getvalue()
    assert "…" not in printed
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    for row in rows(deep):
        if not row.paper.only_attention:
            figures = [row.paper.parameters, row.paper.operations]
            texts = [figure.text for figure in figures if figure]
            name = row.paper.name.split()[-1]
            assert any(line[0] == name and set(texts) <= set(line) for line in lines), row.paper
    for row in rows(deep):
        if row.paper.note:
            assert " ".join(row.paper.note.split()) in " ".join(printed.split())


@pytest.mark.thorough
def test_files_have_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit_report, "audit", lambda wanted: iter(rows(deep=True)))
    models(csv=tmp_path / "models.csv", json=tmp_path / "models.json")
    assert "ECA's kernel sizes" in capsys.readouterr().out
    assert (tmp_path / "models.csv").read_bytes() == RESULTS.read_bytes()
    records = json.loads((tmp_path / "models.json").read_text())
    assert records == [row.record() for row in rows(deep=True)]
    [eca] = [r for r in records if (r["table"], r["model"]) == ("table 3", "eca_resnet50")]
    assert (eca["parameters"], eca["parameters_paper"]) == (25_557_112, "24.37")
    assert (eca["kernels"], eca["operations_paper_unit"]) == ("5 5 5 5", 2**30)


def test_networks_of_timm_have_the_parameters_that_it_publishes():
    """Its multiply-adds come from a counter that counts some more."""
    of_timm = list(timm_models())
    names = {model.name.partition(".")[0] for model in of_timm}
    assert {"ecaresnet26t", "ecaresnet50t", "ecaresnetlight", "ecaresnet269d"} <= names
    shallow = [model for model in of_timm if model.config.name in ("resnet26t", "resnetlight")]
    for row in audit(shallow):
        assert row.paper.parameters.agrees(row.cost.parameters)
        assert abs(row.paper.operations.difference(row.cost.macs)) < 2
    text = io.StringIO()
    Console(file=text, width=100).print(audit_report.timm_table(list(audit(shallow))))
    assert re.search(
        r"ecaresnet26t.ra2_in1k +256 +16.01 M +16.01 +3.3\d G +3.35 +78.894", text.getvalue()
    )


def test_the_page_of_weights_has_the_published_figures():
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    published = {row["weights"]: row for row in paper_rows("timm_results.csv")}
    listed = re.findall(r"^\| `([a-z]\w+\.\w+)` \|.*\|$", page, re.M)
    assert len(listed) > 30
    for line in re.findall(r"^\| `[a-z]\w+\.\w+` \|.*\|$", page, re.M):
        name, backbone, attention, *figures = (cell.strip(" `") for cell in line[1:-1].split("|"))
        row = published[name]
        assert f"{attention}{backbone}" == name.partition(".")[0]
        numbers = [figure.removesuffix(" M").removesuffix(" G") for figure in figures]
        keys = ("image_size", "top1", "parameters_M", "gmacs", "images_per_second")
        assert numbers == [row[key] for key in keys]
