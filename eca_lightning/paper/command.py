"""The command ``models``: the audit as tables, CSV and JSON."""

import csv as csv_files
import json as json_files
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eca_lightning.paper.check import AuditRow, audit
from eca_lightning.paper.tables import (
    Printed,
    ablation_models,
    detectors,
    imagenet_models,
    kernel_choices,
    released_models,
)
from eca_lightning.utils.atomic import atomic_write

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def models(csv: Path | None = None, json: Path | None = None) -> None:
    """List the networks of the paper: parameters and operations, our counts beside its figures.

    For an image of 224 x 224, or 1280 x 800 for detectors. M is 10^6 and G 10^9; Mi is 2^20 and Gi
    2^30, which the paper calls M and G as well. MACs are the multiply-adds of convolutions, linear
    layers and matrix products. The paper's operations come from other counters, whose rules are
    applied beside.

    Args:
        csv: File to which the figures are written as well, with the differences in percent.
        json: The same as JSON.
    """
    classifiers = [*imagenet_models(), *released_models(), *ablation_models()]
    wanted = [*classifiers, *detectors(), *kernel_choices()]
    console = Console()
    counted = track(audit(wanted), "counting", len(wanted), console=console, transient=True)
    rows = list(counted)
    for table in tables(rows):
        console.print(table)
    records = [row.record() for row in rows]
    if csv is not None:
        with atomic_write(csv) as part, part.open("w", newline="") as file:
            writer = csv_files.DictWriter(file, records[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
    if json is not None:
        with atomic_write(json) as part:
            part.write_text(json_files.dumps(records, indent=1) + "\n")


def tables(rows: Sequence[AuditRow]) -> list[Table]:
    """Classifiers, detectors and ECA's kernel sizes, each for a terminal of 80 columns.

    Args:
        rows: Those of an audit.
    """
    added = [row for row in rows if row.paper.only_attention]
    found = [row for row in rows if row.paper.table == "table 5"]
    return [
        _costs(
            [row for row in rows if row not in added and row not in found],
            "Classifiers, one image of 224 x 224",
            "Released are the authors' checkpoints. The paper's rule: see eca_lightning/analysis/"
            "complexity.py.",
        ),
        _costs(
            found,
            "Detectors, one image of 1280 x 800",
            "Parameters that learn. The paper's rule is the toolkit's that it trained with, which "
            "counts the deconvolution of Mask R-CNN's head four times: see eca_lightning/analysis/"
            "detector_complexity.py.",
        ),
        kernels_table(added),
    ]


def _costs(rows: Sequence[AuditRow], title: str, caption: str) -> Table:
    notes = list(dict.fromkeys(row.paper.note for row in rows if row.paper.note))
    texts = [f"{letter} {note}" for letter, note in zip(_LETTERS, notes, strict=False)]
    table = _empty(title, "\n".join([f"= the same digits. {caption}", *texts]))
    table.add_column("\n", no_wrap=True)
    ours = ["para-\nM", "meters\nMi", "\npaper", "diff.\n%"]
    for column in [*ours, "MACs\nG", "paper's\nrule", "\npaper", "diff.\n%", "\n"]:
        table.add_column(column, justify="right", no_wrap=True)
    for section, members in groupby(rows, key=_section):
        table.add_section()
        table.add_row(f"[bold]{section}")
        for row in members:
            cost, paper = row.cost, row.paper
            table.add_row(
                paper.name.split()[-1],
                f"{cost.parameters / 10**6:.2f}",
                f"{cost.parameters / 2**20:.2f}",
                *_beside(paper.parameters, cost.parameters),
                f"{cost.macs / 10**9:.3f}",
                _by_the_papers_rule(row),
                *_beside(paper.operations, row.operations),
                _LETTERS[notes.index(paper.note)] if paper.note else "",
            )
    return table


def _section(row: AuditRow) -> str:
    is_detector = row.paper.table == "table 5"
    return row.paper.name.split()[0] if is_detector else row.paper.table


def _by_the_papers_rule(row: AuditRow) -> str:
    """In the unit that the paper has for it."""
    if row.paper.table == "table 5":
        return f"{row.cost.paper_flops / 10**9:.2f}G"
    if row.paper.operations and row.paper.operations.unit == 2**20:
        return f"{row.cost.paper_flops / 2**20:.2f}Mi"
    return f"{row.cost.paper_flops / 2**30:.3f}Gi"


def _beside(printed: Printed | None, count: int) -> tuple[str, str]:
    """A figure of the paper, and our difference from it."""
    if printed is None:
        return "", ""
    same = printed.agrees(count)
    return printed.text, "=" if same else f"{printed.difference(count):+.2f}"


def kernels_table(rows: Sequence[AuditRow]) -> Table:
    """A line for each network: ECA's sizes by each choice, and how many parameters they are.

    Args:
        rows: Those of `eca_lightning.paper.tables.kernel_choices`.
    """
    choices = list(dict.fromkeys(row.paper.table for row in rows))
    table = _empty("ECA's kernel sizes, one a stage, and the parameters that they are", "")
    table.add_column(no_wrap=True)
    for choice in choices:
        table.add_column(choice, justify="right", no_wrap=True)
        table.add_column("total", justify="right", no_wrap=True)
    for name, members in groupby(rows, key=lambda row: row.paper.name):
        cells = [(" ".join(map(str, row.kernels)), f"{row.cost.parameters}") for row in members]
        table.add_row(name, *(text for cell in cells for text in cell))
    claims = [_claim(row) for row in rows if row.paper.operations]
    notes = dict.fromkeys(row.paper.note for row in rows if row.paper.note)
    table.caption = "\n".join([*claims, *notes])
    return table


def _claim(row: AuditRow) -> str:
    """What the abstract says that attention adds, beside our counts."""
    claimed = [figure.text for figure in (row.paper.parameters, row.paper.operations) if figure]
    return (
        f"{row.paper.name}, {row.paper.table}: {row.cost.parameters} parameters and "
        f"{row.cost.macs / 10**9:.1e} G MACs, {row.cost.paper_flops / 2**30:.1e} Gi by the paper's "
        f"rule; in its abstract {' and '.join(claimed)} G."
    )


def _empty(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        caption_justify="left",
        box=SIMPLE,
        show_edge=False,
        padding=0,
    )
