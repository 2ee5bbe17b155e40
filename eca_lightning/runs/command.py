"""The command ``runs``; it reads ``run.json`` and no checkpoint, which would take torch."""

import csv as csv_files
import json as json_files
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eca_lightning.utils.atomic import atomic_write, is_locked
from eca_lightning.utils.checks import printable
from eca_lightning.utils.run_folder import RECORD, read_record
from eca_lightning.utils.tables import write_table

Order = Literal["score", "when", "name"]


def runs(
    folder: Path = Path("runs"),
    sort: Order = "score",
    csv: bool | Path | None = None,
    json: bool | Path | None = None,
) -> None:
    """List the runs of a folder: configs, weights, epochs, best scores, when, and state.

    The scores are those of the best validation, that of best.ckpt. A run is running, finished, also
    by early stopping, or stopped: by a signal or an error, or killed. Those of which no run.json
    tells, as of earlier versions, are unknown.

    Args:
        folder: Where to look, at any depth.
        sort: Order: the best score first, the last one first, or by name.
        csv: Write a CSV file of this name, or without one to the terminal.
        json: The same as JSON.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder: {folder} does not exist: give where runs are")
    for option, value in (("csv", csv), ("json", json)):
        if isinstance(value, Path) and value.suffix != f".{option}":
            raise ValueError(f"{option}: {value} must end in .{option}")
    places = {path.parent for name in (RECORD, "config.yaml") for path in folder.rglob(name)}
    rows = [_row(place) for place in sorted(places)]
    rows.sort(key=_ORDERS[sort])
    if csv:
        _write_csv(rows, _TERMINAL if csv is True else csv)
    if json:
        text = json_files.dumps(rows, indent=2) + "\n"
        if json is True:
            print(text, end="")
        else:
            with atomic_write(json) as part:
                part.write_text(text)
    if not (csv or json):
        print(f"no runs in {folder}") if not rows else Console().print(_table(rows, folder))


def _row(folder: Path) -> dict[str, Any]:
    """Describe the run of a folder."""
    try:
        record = read_record(folder)
    except (ValueError, OSError):
        record = {}
    best = folder / "checkpoints" / "best.ckpt"
    state, monitor, scores = (
        record.get("state", "unknown"),
        record.get("monitor"),
        record.get("best", {}),
    )
    if state == "running" and not is_locked(folder / "checkpoints"):
        state = "stopped"
    return {
        "run": printable(str(folder)),
        "config": " ".join(_configs(record.get("command", []))),
        "weights": record.get("weights", ""),
        "epochs": record.get("epochs"),
        "max_epochs": record.get("max_epochs"),
        "metric": monitor,
        "score": scores.get(monitor),
        "started": record.get("started"),
        "updated": record.get("updated") or _changed(folder),
        "state": state,
        "checkpoint": printable(str(best)) if best.is_file() else None,
        "scores": scores,
        "lower_is_better": record.get("mode") == "min",
    }


def _configs(command: Sequence[str]) -> list[str]:
    """Return the names of the files that a command line gives as its configs."""
    following = [*command[1:], ""]
    values = [
        option.partition("=")[2] if "=" in option else value
        for option, value in zip(command, following, strict=False)
        if option.partition("=")[0] in ("-c", "--config")
    ]
    return [Path(value).stem for value in values if "\n" not in value]


def _changed(folder: Path) -> str:
    seconds = max(path.stat().st_mtime for path in (folder, *folder.glob("checkpoints/*.ckpt")))
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _by_score(row: Mapping[str, Any]) -> tuple[bool, str, float]:
    score = row["score"]
    if score is None:
        return True, "", 0.0
    return False, row["metric"], score if row["lower_is_better"] else -score


_ORDERS: dict[Order, Callable[[Mapping[str, Any]], Any]] = {
    "score": _by_score,
    "when": lambda row: [-ord(sign) for sign in row["updated"]],
    "name": lambda row: row["run"],
}


def _table(rows: Sequence[Mapping[str, Any]], folder: Path) -> Table:
    table = Table(box=SIMPLE, show_edge=False, padding=0)
    table.add_column("run", overflow="fold")
    for title in ("config", "weights", "epochs", "best", "when (UTC)", "state"):
        table.add_column(title, overflow="fold")
    for row in rows:
        known = row["epochs"] is not None
        cells = [
            os.path.relpath(row["run"], folder),
            row["config"],
            row["weights"],
            f"{row['epochs']} of {row['max_epochs']}" if known else "",
            "" if row["score"] is None else f"{row['metric']} {row['score']:.4f}",
            row["updated"][:16].replace("T", " "),
            row["state"],
        ]
        table.add_row(*map(escape, cells))
    return table


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = sorted({name for row in rows for name in row["scores"]})
    kinds: dict[str, type] = dict.fromkeys(_CSV, str)
    kinds |= {"epochs": int, "max_epochs": int, "score": float, **dict.fromkeys(names, float)}
    flat = [
        {key: row[key] for key in _CSV} | {n: row["scores"].get(n) for n in names} for row in rows
    ]
    if path == _TERMINAL:
        writer = csv_files.DictWriter(sys.stdout, kinds)
        writer.writeheader()
        writer.writerows(flat)
    else:
        write_table(path, kinds, flat)


_CSV = (
    *("run", "config", "weights", "epochs", "max_epochs", "metric", "score"),
    *("started", "updated", "state", "checkpoint"),
)
_TERMINAL = Path("-")
