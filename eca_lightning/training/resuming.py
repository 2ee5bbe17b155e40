"""Find the checkpoint of ``--ckpt_path auto``: the newest complete one of a run."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from eca_lightning.training.checkpoint_io import read_checkpoint


def choose_newest_checkpoint(options: Namespace) -> dict[str, Any]:
    """Replace ``auto`` by the run's newest checkpoint, if it has one, and keep to its folder.

    Changes the parsed ``options`` of ``fit``; returns those that it changed, as they were before.
    """
    folder = checkpoint_folder(options)
    path = newest_checkpoint(folder)
    step = read_checkpoint(path).get("global_step", -1) if path else -1
    logger = {"version": folder.parent.name, "purge_step": step + 1}  # forget later steps' scalars
    given = {"ckpt_path": options["ckpt_path"]}
    options["ckpt_path"] = path and str(path)
    for name, value in logger.items():
        key = f"trainer.logger.init_args.{name}"
        if key in options and options[key] is None:
            given[key] = None
            options[key] = value
    return given


def checkpoint_folder(options: Namespace) -> Path:
    """Return the folder of a run's checkpoints, which need not exist, from the options of ``fit``.

    With a logger that counts versions it is that of the version with the newest checkpoint, by an
    earlier attempt at this run, or of version 0.

    Raises:
        ValueError: If the folder cannot be inferred from the options.
    """
    if given := options.get("last_checkpoint.dirpath") or options.get("checkpoint.dirpath"):
        return Path(given)
    logger = options.get("trainer.logger")
    if isinstance(logger, list):
        logger = next(iter(logger), False)
    if logger is False:
        return Path(options.get("trainer.default_root_dir") or "", "checkpoints")
    place = logger.get("init_args") if isinstance(logger, Namespace) else None
    if place is None or not all(key in place for key in ("save_dir", "name", "version")):
        raise ValueError(
            "--ckpt_path auto needs a folder that is the run's own: a TensorBoardLogger as "
            "trainer.logger, or --last_checkpoint.dirpath"
        )
    runs, version = Path(place.save_dir, place.name or ""), place.version
    if version is None:
        files = sorted(runs.glob("*/checkpoints/*.ckpt"), key=_age)
        return files[0].parent if files else runs / "version_0" / "checkpoints"
    return runs / (f"version_{version}" if isinstance(version, int) else version) / "checkpoints"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder that training can resume from; None without any.

    Warns about newer ones that are damaged or incomplete. The folder need not exist.

    Raises:
        ValueError: If training can resume from none of the checkpoints.
    """
    problems: list[str] = []
    for path in sorted(folder.glob("*.ckpt"), key=_age):
        if problem := _problem(path):
            problems.append(problem)
            continue
        if problems:
            rank_zero_warn(f"{'; '.join(problems)}. Going on from the one before, {path}")
        return path
    if problems:
        raise ValueError(
            f"--ckpt_path auto: cannot resume: {'; '.join(problems)}. "
            f"To start afresh, move {folder} away"
        )
    return None


def _problem(path: Path) -> str:
    """Return why a run cannot resume from a checkpoint; empty if it can."""
    try:
        saved = read_checkpoint(path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    needed = {"state_dict", "loops", "optimizer_states", "lr_schedulers"}
    return "" if saved.keys() >= needed else f"{path} holds weights alone"


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns


def require_writable(folder: Path) -> None:
    """Create the folder of a run, and raise an OSError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise OSError(
            f"cannot write to the run's folder {folder}: {error.strerror or error}. Fix this, or "
            "choose another with --trainer.logger.save_dir"
        ) from error


class SameStart(Callback):
    """Resume on all ranks from one checkpoint, and with the options that the run was given.

    Ranks find others if the hosts do not share the run's folder, or do not all see the newest file
    yet.

    Args:
        step: Optimizer step of the checkpoint that this rank is about to load; -1 for none.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a ValueError if the ranks differ."""
        if trainer.world_size == 1:
            return
        steps = [self.step] * trainer.world_size
        torch.distributed.all_gather_object(steps, self.step)
        if len(set(steps)) > 1:
            found = [f"rank {k}: {f'step {s}' if s >= 0 else 'none'}" for k, s in enumerate(steps)]
            raise ValueError(
                f"--ckpt_path: the ranks see different checkpoints ({', '.join(found)}): the run's "
                "folder must be on a file system that all hosts share"
            )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the patience of early stopping, which Lightning restores with its state."""
        for callback in trainer.early_stopping_callbacks:
            if state := checkpoint.get("callbacks", {}).get(callback.state_key):
                state["patience"] = callback.patience
