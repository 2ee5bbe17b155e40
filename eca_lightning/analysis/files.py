"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a name to write to, in the same folder, which becomes ``path`` if the block succeeds.

    Processes that write the same file do not meet: the one that is done last wins.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")  # the ending tells matplotlib the format
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
