"""Choose the folder of a run, and its newest complete checkpoint for ``--ckpt_path auto``."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from eca_lightning.training.checkpoint_io import read_checkpoint
from eca_lightning.training.run_loggers import read_run_ids
from eca_lightning.utils.atomic import lock


def place_run(options: Namespace, name: str) -> tuple[Path, dict[str, Any]]:
    """Choose the folder of a run of ``fit``, whatever its loggers are, and replace ``auto``.

    It is ``runs/NAME/version_N``, or where the first TensorBoardLogger or CSVLogger is told to log.
    With ``--ckpt_path auto`` it is that of the earlier attempt with the newest checkpoint, whose
    loggers are continued; else it is a new one.

    Args:
        options: The parsed options of ``fit``, changed in place.
        name: Name of the run.

    Returns:
        The folder, and the changed options as they were before.
    """
    keys = ("ckpt_path", "checkpoint.dirpath", "trainer.logger")
    given = {key: deepcopy(options.get(key)) for key in keys}
    loggers = options.get("trainer.logger")
    entries = loggers if isinstance(loggers, list) else [loggers]
    place = Namespace(save_dir="runs", name=name, version=None)
    classes = [entry for entry in entries if isinstance(entry, Namespace)]
    named = [(_kind(entry), entry.get("init_args") or Namespace()) for entry in classes]
    parts = ("save_dir", "name", "version")
    placed = [a for kind, a in named if kind in _WITH_FOLDERS and all(key in a for key in parts)]
    place = placed[0] if placed else place
    runs, version = Path(place["save_dir"], place["name"] or ""), place["version"]
    resume = given["ckpt_path"] == "auto"
    if loggers is False:
        folder = Path(options.get("trainer.default_root_dir") or "")
    elif version is not None:
        folder = runs / (f"version_{version}" if isinstance(version, int) else version)
    else:
        found = sorted(runs.glob("*/checkpoints/*.ckpt"), key=_age) if resume else []
        folder = found[0].parents[1] if found else runs / _new_version([place, *placed], resume)

    checkpoints = given["checkpoint.dirpath"] or str(folder / "checkpoints")
    options["checkpoint.dirpath"] = checkpoints
    new: dict[str, Any] = {"version": folder.name}
    ids: dict[str, tuple[str, list[str]]] = {}
    if resume:
        path = newest_checkpoint(Path(options.get("last_checkpoint.dirpath") or checkpoints))
        options["ckpt_path"] = path and str(path)
        step = read_checkpoint(path).get("global_step", 0) if path else 0
        new["purge_step"] = step  # TensorBoard forgets what was logged from here on
        ids = read_run_ids(folder)
    for kind, arguments in named:
        option, names = ids.get(kind, ("", []))
        values = new if kind in _WITH_FOLDERS else {option: names.pop(0)} if names else {}
        for key in values.keys() & arguments.keys():
            if arguments[key] is None:
                arguments[key] = values[key]
    return folder, given


_WITH_FOLDERS = ("TensorBoardLogger", "CSVLogger")
"""Loggers that write to ``save_dir/name/version``."""

_KNOWN = (*_WITH_FOLDERS, "WandbLogger", "MLFlowLogger")


def _kind(logger: Namespace) -> str:
    """Return the class of Lightning that a logger is of, also by inheritance; else nothing."""
    bases = resolve_name(logger["class_path"]).__mro__
    return next((base.__name__ for base in bases if base.__name__ in _KNOWN), "")


def _new_version(places: Sequence[Namespace], resume: bool) -> str:
    """Name a version that no logger of the run has written; the first for an unfinished attempt."""
    folders = (Path(place["save_dir"], place["name"] or "") for place in places)
    names = (path.name for folder in folders for path in folder.glob("version_*"))
    found = (re.fullmatch(r"version_(\d+)", name) for name in names)
    numbers = [int(match[1]) for match in found if match and not resume]
    return f"version_{max(numbers, default=-1) + 1}"


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


def require_writable(folder: Path, option: str = "--trainer.logger.save_dir") -> None:
    """Create the folder of a run, and raise an OSError if it cannot be written to.

    Args:
        folder: The folder.
        option: What chooses it, for the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise OSError(
            f"cannot write to the run's folder {folder}: {error.strerror or error}. Fix this, or "
            f"choose another with {option}"
        ) from error


class _UnusedFolder(Callback):
    """Remember which folders are made for a run, until it trains."""

    def __init__(self, folder: Path) -> None:
        self.new = [path for path in (folder, *folder.parents) if not path.exists()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the folders."""
        self.new = []

    def remove(self) -> None:
        """Remove the run's folder, and those above it that were made with it."""
        for path in self.new[:1]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.new[1:]:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def running_in(folder: Path, checkpoints: Path, trainer: Any) -> Iterator[None]:
    """Make the folder of a run, and be the one process that trains it.

    A folder that was made for a run which is refused before it trains is removed.

    Raises:
        BlockingIOError: If another process does.
        OSError: If the folder cannot be written to.
    """
    unused = _UnusedFolder(folder)
    require_writable(folder)
    with lock(checkpoints):
        trainer.callbacks.insert(0, unused)
        try:
            yield
        finally:
            unused.remove()


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
