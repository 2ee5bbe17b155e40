"""The command ``compare``: train the cells of a grid and collect their results."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from rich.markup import escape
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity
from eca_lightning.compare.grid import Cell, read_grid
from eca_lightning.compare.report import report
from eca_lightning.compare.statistics import Row
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.utils.atomic import atomic_write, end_with_parent, lock
from eca_lightning.utils.reports import progress_bar
from eca_lightning.utils.tables import write_table

COLUMNS = (
    *("variant", "seed", "backbone", "attention", "kernel", "top1_last", "top1_best"),
    *("parameters", "multiply_adds", "image_size", "images_per_s", "epochs", "seconds", "device"),
    *("eca_lightning", "lightning", "torch"),
)
"""Columns of cells.csv. Accuracies are fractions, of the last and of the best validation; seconds
are the sum over all attempts, each from its first to its last entry on TensorBoard."""


def compare(
    grid: Path, output: Path | None = None, cell: int | None = None, report_only: bool = False
) -> None:
    """Train a grid of variants and seeds, and compare the variants.

    Each cell is a run of fit in a process of its own. Finished cells are skipped, and an
    interrupted one resumes from its last checkpoint: run the same command again. Several of these
    commands may work on one grid at a time. After a change of the grid's options, give another
    output.

    The output folder gets cells.csv with a row for each cell, report.md with means, standard
    deviations and paired differences, and charts as .png; runs/ has the runs with their logs, for
    TensorBoard too.

    Args:
        grid: YAML file with the base run, its variants and the seeds, see configs/ablation.
        output: Folder for the results. Default: runs/compare/ and the name of the grid.
        cell: Run only this cell, counted from 0, and write no report: for an array of jobs,
            --cell $SLURM_ARRAY_TASK_ID.
        report_only: Do not train; write the report from cells.csv and the finished runs.

    Raises:
        FileNotFoundError: If the grid does not exist.
        ValueError: If the grid is invalid, or a cell failed.
    """
    plan = read_grid(grid)
    output = output or Path("runs/compare") / grid.stem
    cells = plan.cells(output)
    if cell is not None and not 0 <= cell < len(cells):
        raise ValueError(f"cell must be from 0 to {len(cells) - 1} in {grid}, got {cell}")
    output.mkdir(parents=True, exist_ok=True)
    failures = []
    if not report_only:
        failures = _run_all(cells if cell is None else [cells[cell]], output)
    if cell is None:
        rows = collect(cells, output)
        if rows:
            report(plan.in_order(rows), plan.references, grid.stem, output)
        elif report_only:
            raise ValueError(f"{output} has no finished cell: leave out report_only to train them")
    if failures:
        raise ValueError(
            f"{len(failures)} cells failed; the same command tries them again. {failures[0]}"
        )


def collect(cells: Sequence[Cell], output: Path) -> list[Row]:
    """Update cells.csv with the finished cells of a grid, and return all its rows."""
    rows = _read(output / "cells.csv")
    for cell in cells:
        result = cell.folder / "result.json"
        if result.exists():
            rows[cell.variant, str(cell.seed)] = json.loads(result.read_text())
    if rows:
        write_table(output / "cells.csv", dict.fromkeys(COLUMNS, str), rows.values())
    return list(rows.values())


def _read(path: Path) -> dict[tuple[str, str], Row]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: columns must be {', '.join(COLUMNS)}: move the file away")
        return {(row["variant"], row["seed"]): row for row in reader}


def _run_all(cells: Sequence[Cell], output: Path) -> list[str]:
    """Run the cells that are not finished; return the errors of those that failed."""
    known = _read(output / "cells.csv")
    failures = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(cells))
        for cell in cells:
            progress.update(bar, description=cell.name)
            if (cell.variant, str(cell.seed)) not in known:
                try:
                    outcome = _run(cell)
                except ValueError as error:
                    failures.append(outcome := str(error))
                progress.console.print(escape(outcome), highlight=False, soft_wrap=True)
            progress.advance(bar)
    return failures


def _run(cell: Cell) -> str:
    """Train a cell, unless it is finished or another process trains it; return what was done."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    result, log = cell.folder / "result.json", cell.folder / "log.txt"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(result))
        except BlockingIOError:
            return f"{cell.name}: another process is training it"
        if result.exists():
            return f"{cell.name}: already finished"
        with log.open("a") as file:
            status = subprocess.run(
                [sys.executable, "-m", "eca_lightning", *cell.arguments, "--ckpt_path=auto"],
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(end_with_parent, os.getpid()),
                check=False,
            ).returncode
        if status:
            end = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"{cell.name} ended with status {status}, see {log}: {''.join(end)}")
        row = _row(cell)
        with atomic_write(result) as part:
            part.write_text(json.dumps(row))
    minutes = float(row["seconds"]) / 60
    return f"{cell.name}: top-1 {float(row['top1_last']):.2%} in {minutes:.1f} minutes"


def _row(cell: Cell) -> Row:
    """Make the row of cells.csv from the files of a finished run."""
    scalars, seconds = _logged(cell.folder)
    if "val/top1" not in scalars:
        raise ValueError(f"{cell.folder} has no val/top1: the base run must validate a classifier")
    config = yaml.safe_load((cell.folder / "config.yaml").read_text())
    backbone = BackboneConfig(**config["model"]["init_args"]["backbone"])
    image_size = config["data"]["init_args"]["image_size"] or Preprocessing().image_size[0]
    cost = complexity(backbone, image_size)
    scores, speeds = scalars["val/top1"], scalars.get("train/images_per_s")
    is_eca = backbone.attention in ("eca", "eca_ns")
    kernel = str(backbone.attention_options.get("kernel", "equation")) if is_eca else ""
    on_gpu = torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu"
    return {
        "variant": cell.variant,
        "seed": str(cell.seed),
        "backbone": backbone.name,
        "attention": backbone.attention or "none",
        "kernel": kernel,
        "top1_last": f"{scores[max(scores)]:.6f}",
        "top1_best": f"{max(scores.values()):.6f}",
        "parameters": str(cost.parameters),
        "multiply_adds": str(cost.macs),
        "image_size": str(image_size),
        "images_per_s": f"{median(speeds.values()):.1f}" if speeds else "",
        "epochs": f"{max(scalars['epoch'].values()) + 1:.0f}",
        "seconds": f"{seconds:.0f}",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        **{name: version(name) for name in ("eca_lightning", "lightning", "torch")},
    }


def _logged(folder: Path) -> tuple[dict[str, dict[int, float]], float]:
    """Read each scalar by its step, from the last attempt, and the seconds of all attempts."""
    scalars: dict[str, dict[int, float]] = {}
    seconds = 0.0
    for path in sorted(folder.glob("events.out.tfevents.*")):  # in order of time
        events: Any = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        times = []
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                scalars.setdefault(tag, {})[event.step] = event.value
                times.append(event.wall_time)
        if times:
            seconds += max(times) - events.FirstEventTimestamp()
    return scalars, seconds
