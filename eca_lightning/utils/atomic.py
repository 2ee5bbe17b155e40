"""Atomic file writes: a file appears complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to a temporary path with the same file name, which replaces ``path`` on success.

    Missing parent folders are created. Other files that the block writes beside the temporary path
    are moved beside ``path`` first. If the block raises, an existing file stays as it was.
    Processes that write the same path at once do not disturb each other: the last to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            os.replace(file, path.with_name(file.name))
