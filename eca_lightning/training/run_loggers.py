"""Continue the loggers of an earlier attempt at a run."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from eca_lightning.utils.atomic import atomic_write

_FILE = "loggers.json"
_ID_OPTIONS = {"WandbLogger": "id", "MLFlowLogger": "run_id"}


def read_run_ids(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the option of each logger, by its class, that continues its run of a folder."""
    try:
        saved = json.loads((folder / _FILE).read_bytes())
        return {
            kind: {option: str(saved[kind])}
            for kind, option in _ID_OPTIONS.items()
            if kind in saved
        }
    except (OSError, ValueError, TypeError):
        return {}


def start_loggers(loggers: Sequence[Logger], folder: Path, step: int) -> None:
    """Start the loggers, on rank zero, and keep what an earlier attempt has logged.

    Args:
        loggers: The loggers of the run.
        folder: The run's folder, which gets the ids that Weights & Biases and MLflow give the run.
        step: Optimizer step at which the run goes on; -1 at its start.
    """
    ids = {}
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _keep_metrics(logger, step)
        elif isinstance(logger, WandbLogger | MLFlowLogger):
            logger.experiment  # noqa: B018  starts the run
            ids[type(logger).__name__] = logger.version
    if ids:
        with atomic_write(folder / _FILE) as part:
            part.write_text(json.dumps(ids))


def _keep_metrics(logger: CSVLogger, step: int) -> None:
    """Keep the rows up to a step, which Lightning's logger removes when it starts."""
    file = Path(logger.log_dir, "metrics.csv")
    kept = file.with_name(".metrics.csv")
    if file.exists():
        os.replace(file, kept)
    writer: Any = logger.experiment
    if not kept.exists():  # also what an attempt left that was killed here
        return
    with kept.open(newline="") as old:
        reader = csv.DictReader(old)
        names = list(reader.fieldnames or ())
        rows = [row for row in reader if (row.get("step") or "").isdigit()]
    with atomic_write(file) as part, part.open("w", newline="") as new:
        table = csv.DictWriter(new, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(row for row in rows if int(row["step"]) <= step)
    writer.metrics_keys = names
    kept.unlink()
