"""Files that appear whole or not at all. Every room may use it; it uses none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a place to write to, from which a file goes to ``path`` if the block succeeds.

    Whatever else the block writes into the folder of that place goes beside ``path``, before it.
    If the block fails, what was there before stays. Processes that write the same file do not
    meet: the one that is done last wins.

    Args:
        path: The file; its folder is made if need be.

    Yields:
        A path of the same name, in a folder of its own on the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            os.replace(file, path.with_name(file.name))
