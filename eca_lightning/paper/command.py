"""The command ``models``: parameters and operations of the paper's networks."""

import json as json_files
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rich.console import Console
from rich.progress import track

from eca_lightning.backbones import BackboneConfig
from eca_lightning.paper.check import AuditRow, audit
from eca_lightning.paper.tables import (
    PaperModel,
    ablation_models,
    detectors,
    imagenet_models,
    kernel_choices,
    released_models,
    timm_models,
)
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.tables import Table, write_table

Record = Mapping[str, Any]
"""`AuditRow.record`, or the same read from a CSV file."""

_UNITS = {1: "", 10**6: " M", 2**20: " Mi", 10**9: " G", 2**30: " Gi"}
_KERNELS = ("Eq. 12", "Fig. 3", "released sizes")


def models(
    csv: Path | None = None, json: Path | None = None, backbones: list[BackboneConfig] | None = None
) -> None:
    """List the networks of the paper and of timm: parameters and operations, counted and printed.

    timm's are its ResNets with ECA and SE, at the image size of their best weights, beside what
    timm has published. The others are for an image of 224 x 224, or 1280 x 800 for detectors. M is
    10^6 and G 10^9; Mi is 2^20 and Gi 2^30, which the paper calls M and G as well. MACs are the
    multiply-adds of convolutions, linear layers and matrix products. The paper's operations come
    from other counters, whose rules are implemented in eca_lightning/backbones/complexity.py and
    eca_lightning/detection/complexity.py; rows that it quotes in 10^9 are compared with MACs.
    Counts have the unit and the digits of the printed figure; where digits differ, % is the
    difference.

    Args:
        csv: CSV file to write the counts to, in decimal and binary units.
        json: JSON file to write the same to.
        backbones: Networks of your own to count as well, each as --model.backbone takes it.
    """
    classifiers = [*imagenet_models(), *released_models(), *ablation_models()]
    own = [PaperModel("own", f"{b.attention or 'plain'}_{b.name}", b) for b in backbones or ()]
    wanted = [*classifiers, *own, *detectors(), *kernel_choices(), *timm_models()]
    console = Console()
    rows = list(track(audit(wanted), "counting", len(wanted), console=console, transient=True))
    records = [row.record() for row in rows]
    for table in (*tables(records), timm_table(rows)):
        console.print(table)
    if csv is not None:
        write_table(csv, dict.fromkeys(records[0], str), records)
    if json is not None:
        with atomic_write(json) as part:
            part.write_text(json_files.dumps(records, indent=1) + "\n")


def tables(records: Sequence[Record]) -> list[Table]:
    """Tabulate classifiers, detectors and ECA's kernel sizes, in a width of 80 columns.

    Tables without any record are left out.
    """
    kernels = [record for record in records if record["table"] in _KERNELS]
    found = [record for record in records if record["table"] == "table 5"]
    elsewhere = (*_KERNELS, "table 5", "timm")
    others = [record for record in records if record["table"] not in elsewhere]
    listed = [
        _costs(others, "Classifiers, one image of 224 x 224"),
        _costs(found, "Detectors, one image of 1280 x 800, trainable parameters"),
        kernel_table(kernels),
        _claims(kernels),
    ]
    return [table for table in listed if table.sections]


def timm_table(rows: Sequence[AuditRow]) -> Table:
    """Tabulate timm's networks: our counts, timm's figures, and the accuracy of its weights."""
    lines = [
        [
            row.paper.name,
            str(row.paper.image_size),
            f"{row.cost.parameters / 10**6:.2f} M",
            row.paper.parameters.text if row.paper.parameters else "",
            f"{row.cost.macs / 10**9:.2f} G",
            row.paper.operations.text if row.paper.operations else "",
            row.paper.top1,
        ]
        for row in rows
        if row.paper.table == "timm"
    ]
    header = ["", "pixels", "parameters", "timm", "MACs", "timm", "top-1"]
    return Table(header, {"": lines}, "timm's ResNets with ECA and SE, by their best weights")


def _costs(records: Sequence[Record], title: str) -> Table:
    notes = _notes(records)
    sections: dict[str, list[list[str]]] = {}
    for record in records:
        table, name = record["table"], record["model"].split()
        line = [
            name[-1],
            *_compared(record, "parameters", record["parameters"]),
            f"{int(record['multiply_adds']) / 10**9:.3f} G",
            *_compared(record, "operations", record[record["paper_counts"]]),
            ascii_lowercase[notes.index(record["note"])] if record["note"] else "",
        ]
        sections.setdefault(name[0] if table == "table 5" else table, []).append(line)
    header = ["", "parameters", "paper", "%", "MACs", "operations", "paper", "%", ""]
    texts = map(": ".join, zip(ascii_lowercase, notes, strict=False))
    return Table(header, sections, title, "\n".join(texts))


def _compared(record: Record, name: str, count: Any) -> tuple[str, str, str]:
    """Format a count in unit and digits of the printed figure, that figure, and the difference."""
    printed = record[f"{name}_paper"]
    if not printed:
        default = 10**6 if name == "parameters" else 2**30
        return f"{int(count) / default:.2f}{_UNITS[default]}", "", ""
    unit = int(record[f"{name}_paper_unit"])
    digits = len(printed.rstrip("GM").partition(".")[2])
    agrees = str(record[f"{name}_agree"]) == "True"
    difference = "" if agrees else f"{float(record[f'{name}_difference']):+.2f}"
    return f"{int(count) / unit:.{digits}f}{_UNITS[unit]}", printed, difference


def kernel_table(records: Sequence[Record]) -> Table:
    """Tabulate ECA's kernel sizes, one a stage, and their parameters, by each choice of sizes."""
    lines: dict[str, list[str]] = {}
    for record in records:
        cells = lines.setdefault(record["model"], [record["model"]])
        cells.append(f"{record['kernels']}: {record['parameters']}")
    choices = dict.fromkeys(record["table"] for record in records)
    sections = {"": list(lines.values())} if lines else {}
    return Table(["", *choices], sections, "ECA's kernel sizes, one a stage: parameters they add")


def _claims(records: Sequence[Record]) -> Table:
    """Compare what attention adds with the figures of the abstract."""
    claims = [record for record in records if record["parameters_paper"]]
    lines = [
        [
            f"{record['model']}, {record['table']}",
            str(record["parameters"]),
            record["parameters_paper"],
            f"{int(record['multiply_adds']) / 10**9:.1e} G",
            record["operations_paper"],
            f"{int(record['operations']) / 2**30:.1e} Gi",
        ]
        for record in claims
    ]
    header = ["", "parameters", "abstract", "MACs", "abstract", "operations"]
    caption = "\n".join(_notes(claims))
    return Table(header, {"": lines} if lines else {}, "What ECA adds", caption)


def _notes(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["note"] for record in records if record["note"]))
