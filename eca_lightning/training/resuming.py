"""What ``--ckpt_path auto`` means: the newest whole checkpoint of a run, however it ended."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from eca_lightning.training.checkpoint_io import read_checkpoint

_NEEDED = {"state_dict", "loops", "optimizer_states", "lr_schedulers"}


def choose_newest_checkpoint(options: Namespace) -> dict[str, Any]:
    """Replace ``auto`` by the run's newest checkpoint, if it has one, and keep to its folder.

    Args:
        options: The parsed options of ``fit``; they are changed.

    Returns:
        The options that were changed, with the values that they had.
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
    """Where the run that a config describes has its checkpoints.

    With a logger that counts versions, that is the version which was saved to last, by an earlier
    attempt at this run, and version 0 if none was saved to.

    Args:
        options: The parsed options of ``fit``.

    Returns:
        The folder, which need not exist.

    Raises:
        ValueError: The config does not tell.
    """
    given = options.get("last_checkpoint.dirpath") or options.get("checkpoint.dirpath")
    if given:
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
    """The newest checkpoint that is whole and from which training can go on.

    Says what is wrong with newer ones.

    Args:
        folder: Folder of a run's checkpoints; it need not exist.

    Returns:
        The file; None if there are no checkpoints.

    Raises:
        ValueError: There are checkpoints, but none will do.
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
            f"--ckpt_path auto: no checkpoint will do: {'; '.join(problems)}. To start afresh, "
            f"move {folder} away"
        )
    return None


def _problem(path: Path) -> str:
    """Say why a run cannot go on from a checkpoint; empty if it can."""
    try:
        saved = read_checkpoint(path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return "" if saved.keys() >= _NEEDED else f"{path} holds weights alone"


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns


def require_writable(folder: Path) -> None:
    """Find out before anything is trained that a run could not be saved.

    Args:
        folder: The run's folder; it is made.

    Raises:
        OSError: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise OSError(
            f"cannot write to the run's folder {folder}: {error.strerror or error}. Mend this, or "
            "take another with --trainer.logger.save_dir"
        ) from error


class SameStart(Callback):
    """Refuses to start if the ranks did not find the same checkpoint.

    That is so where the folder of the run is not on a file system that all hosts share, or where
    one of them does not see the newest file yet.

    Args:
        step: Optimizer step of the checkpoint that this rank is about to load; -1 for none.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the ranks.

        Raises:
            ValueError: They differ.
        """
        if trainer.world_size == 1:
            return
        steps = [self.step] * trainer.world_size
        torch.distributed.all_gather_object(steps, self.step)
        if len(set(steps)) > 1:
            found = ", ".join(
                f"rank {rank}: {'none' if step < 0 else f'step {step}'}"
                for rank, step in enumerate(steps)
            )
            raise ValueError(
                f"--ckpt_path: the ranks see different checkpoints ({found}): the run's folder "
                "must be on a file system that all hosts share"
            )
