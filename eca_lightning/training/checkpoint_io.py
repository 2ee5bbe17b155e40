"""Write checkpoints atomically, verify them before they are loaded, and trust no path in them.

Lightning's plugin writes to ``$TMPDIR`` and moves the file to its place, which is a copy if that is
on another file system; it does not flush the data to the disk, and does not keep the previous file.
"""

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from eca_lightning.utils.checks import require_shallow

LAST = "last.ckpt"
"""The checkpoint from which a run resumes."""

PREVIOUS = "last-previous.ckpt"
"""The one before it, in case the last one is damaged."""

_KINDS: dict[str, Any] = {
    **dict.fromkeys(
        ("state_dict", "hyper_parameters", "callbacks", "loops", "optimizer_options"), dict
    ),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
    "pytorch-lightning_version": str,
}


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write a file as torch.save does, whose own errors do not say what is wrong with the disk."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file, flush it to the disk, and rename it.

    At any moment, even in a power cut, the file is complete or, before the first write, missing.
    When ``last.ckpt`` is replaced, the old one is kept as ``last-previous.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint to a file; URLs such as ``s3://...`` are left to Lightning.

        Raises:
            OSError: If it cannot be written; the file that was there before is unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
        # In memory first: errors of torch.save on a file do not say what is wrong with the disk.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if keep := path.name == LAST and path.exists():
                os.replace(path, old)
            os.replace(part, path)
            if keep:  # only now: there is a complete file at all times, even if the old one is bad
                os.replace(old, path.with_name(PREVIOUS))
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OSError(
                f"cannot write {path}: {error.strerror or error}. Earlier checkpoints are "
                "complete: fix this, and resume with --ckpt_path auto"
            ) from error
        with suppress(OSError):  # some file systems cannot flush the new name
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove one checkpoint; nothing but a file ``*.ckpt``, unlike Lightning's plugin."""
        if "://" in str(path):
            super().remove_checkpoint(path)
        elif str(path).endswith(".ckpt") and ".." not in Path(path).parts:
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Verify a checkpoint, and return what was saved, its tensors memory-mapped on the CPU.

    A file of torch.save is a zip archive. Verified are its directory, which is at the end and so
    missing from any truncated file, the checksum (CRC-32) of each record, and that it can be
    unpickled with only tensors and plain values in it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or not a checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint not found: {path} (check --ckpt_path)")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        require_shallow(content)
        for name, kind in _KINDS.items():
            if not isinstance(content.get(name, kind()), kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        if not all(isinstance(state, dict) for state in content.get("callbacks", {}).values()):
            raise TypeError("the states of the callbacks are no dicts")
        return content
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(f"{path} is damaged or not a checkpoint: {error}") from error


def forget_foreign_files(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Cut the saved states of ModelCheckpoints to the files in the folders that they write to.

    Lightning removes, loads and uploads whatever files are named there.

    Raises:
        ValueError: If a state is not one of a ModelCheckpoint.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
            states[callback.state_key] = _own_state(callback, states[callback.state_key])


def _own_state(callback: ModelCheckpoint, state: dict[str, Any]) -> dict[str, Any]:
    saved = state.get("best_k_models", {})
    if not isinstance(saved, dict):
        raise ValueError(f"the checkpoint's state of {callback.state_key} is damaged")
    scores = {path: score for path, score in saved.items() if _is_in(path, callback.dirpath)}
    if not all(isinstance(score, Tensor) and score.numel() == 1 for score in scores.values()):
        raise ValueError(f"the checkpoint's scores of {callback.state_key} are no numbers")
    worst, best = (max, min) if callback.mode == "min" else (min, max)
    names = ("kth_best_model_path", "best_model_path", "last_model_path")
    own = {name: str(state.get(name, "")) for name in names}
    own = {name: path if _is_in(path, callback.dirpath) else "" for name, path in own.items()}
    if state.get("kth_best_model_path") and own["kth_best_model_path"] not in scores:
        own["kth_best_model_path"] = worst(scores, key=lambda path: scores[path], default="")
    if not own["best_model_path"]:
        own["best_model_path"] = best(scores, key=lambda path: scores[path], default="")
    return {
        "dirpath": state.get("dirpath"),
        "best_k_models": scores,
        "kth_value": scores.get(own["kth_best_model_path"], callback.kth_value),
        "best_model_score": scores.get(own["best_model_path"]),
        **own,
    }


def _is_in(path: Any, folder: Any) -> bool:
    """Whether a checkpoint lies in a folder, whatever links there are on the way."""
    if "://" in f"{path}{folder}":
        return str(path).rpartition("/")[0] == str(folder).rstrip("/")
    try:
        inside = Path(path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError, TypeError, ValueError):  # no path, or a ring of links
        return False
    return inside and str(path).endswith(".ckpt")
