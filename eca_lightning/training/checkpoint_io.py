"""Write checkpoints atomically, and verify them before they are loaded.

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
from lightning.pytorch.plugins.io import TorchCheckpointIO

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
        for name, kind in _KINDS.items():
            if not isinstance(content.get(name, kind()), kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        if not all(isinstance(state, dict) for state in content.get("callbacks", {}).values()):
            raise TypeError("the states of the callbacks are no dicts")
        return content
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(f"{path} is damaged or not a checkpoint: {error}") from error
