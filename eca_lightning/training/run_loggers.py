"""Continue the loggers of an earlier attempt at a run."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.utilities import rank_zero_info

from eca_lightning.utils.atomic import atomic_write

_DEFAULT = "eca_lightning.RunLogger"
_FILE = "loggers.json"
_ID_OPTIONS: dict[type[Logger], str] = {WandbLogger: "id", MLFlowLogger: "run_id"}


class RunLogger(TensorBoardLogger):
    """Log to TensorBoard, without the chart of epochs that would come before all others."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers by their names."""
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


def drop_run_logger(options: Namespace, arguments: Sequence[str]) -> None:
    """Let a command that does not train print its scores alone, unless it asks for a logger.

    On TensorBoard they would be a run of one point. Loggers of other classes stay.
    """
    asked = any(argument.startswith("--trainer.logger") for argument in arguments)
    logger = options.get("trainer.logger")
    if isinstance(logger, Namespace) and not asked and logger["class_path"] == _DEFAULT:
        options["trainer.logger"] = False


def read_run_ids(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Return the option that continues a run, and the ids of a folder, by the logger's class."""
    try:
        saved = json.loads((folder / _FILE).read_bytes())
        return {
            kind.__name__: (option, list(map(str, saved.get(kind.__name__, []))))
            for kind, option in _ID_OPTIONS.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def start_loggers(loggers: Sequence[Logger], folder: Path, step: int) -> None:
    """Start the loggers, on rank zero, and keep what an earlier attempt has logged.

    Args:
        loggers: The loggers of the run.
        folder: The run's folder, which gets the ids that Weights & Biases and MLflow give the run.
        step: Optimizer step at which the run goes on; 0 or less at its start.

    Raises:
        ValueError: If one cannot be started, or does not know the run of an earlier attempt.
    """
    keep_metrics(loggers, step)
    ids: dict[str, list[str]] = {}
    for logger in loggers:
        for kind in _ID_OPTIONS:
            if isinstance(logger, kind):
                ids.setdefault(kind.__name__, []).append(_start(logger, folder))
        if isinstance(logger, MLFlowLogger):
            _continue_run(logger)
    if ids:
        with atomic_write(folder / _FILE) as part:
            part.write_text(json.dumps(ids))


def _start(logger: Any, folder: Path) -> str:
    """Start a logger and return the id of its run."""
    name = type(logger).__name__
    rank_zero_info(f"starting {name}")  # a server that does not answer takes minutes
    try:
        logger.experiment  # noqa: B018  starts the run
    except Exception as error:  # each package has its own
        file = folder / _FILE
        hint = f" (the id of the run is in {file}: remove it to start another)"
        raise ValueError(f"cannot start {name}: {error}{hint if file.exists() else ''}") from error
    return str(logger.version)


def _continue_run(logger: MLFlowLogger) -> None:
    """Mark a run as running, and log none of its options again, as MLflow lets none change."""
    run: Any = logger.experiment.get_run(logger.run_id)
    logger.experiment.update_run(logger.run_id, status="RUNNING")
    log_all = logger.log_hyperparams

    def log_new(params: Any) -> None:
        flat = _flatten_dict(_convert_params(params))
        log_all({key: value for key, value in flat.items() if key not in run.data.params})

    setattr(logger, "log_hyperparams", log_new)  # noqa: B010  mypy lets no method be replaced


def keep_metrics(loggers: Sequence[Logger], step: float = float("inf")) -> None:
    """Keep the rows of CSV files before a step, which Lightning removes when it starts a logger."""
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: float) -> None:
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
        table.writerows(row for row in rows if int(row["step"]) < step)
    writer.metrics_keys = names
    kept.unlink()
