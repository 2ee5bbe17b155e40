"""Checkpoint files that no kill leaves half written, and that are checked before they are trusted.

Lightning's plugin writes to ``$TMPDIR`` and moves the file to its place, which is a copy where that
is another file system; it does not wait until the disk has the data, and keeps no predecessor.
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
"""The checkpoint from which a run goes on."""

PREVIOUS = "last-previous.ckpt"
"""The one before it, should the last be damaged."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk, and renames it.

    At any moment, a power cut included, there is a whole file under the name or, before the first,
    none. When ``last.ckpt`` is replaced, the old one stays as ``last-previous.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to save.
            path: Where. Addresses such as ``s3://...`` are left to Lightning.
            storage_options: Must be None.

        Raises:
            OSError: It could not be written; what was there before is as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
        # In memory first: errors of torch.save on a file do not tell what is wrong with the disk.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                # In this order a whole one is there all the time, were the old one damaged, too.
                os.replace(path, old)
                os.replace(part, path)
                os.replace(old, path.with_name(PREVIOUS))
            else:
                os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OSError(
                f"cannot write {path}: {error.strerror or error}. Checkpoints written before are "
                "whole: mend this, and go on with --ckpt_path auto"
            ) from error
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Have the disk know of the new name, where the file system can be asked to."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Check a checkpoint as a whole, and read it without its tensors' data.

    A file of torch.save is a zip archive. Checked are its directory, which is at the end and so
    missing from any truncated file, the checksum (CRC-32) of each record, and that the structure
    can be unpickled with nothing but tensors and plain values in it.

    Args:
        path: The file.

    Returns:
        What was saved. The tensors lie in the file, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: mend --ckpt_path")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
