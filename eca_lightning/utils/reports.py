"""Progress bars and charts of the commands that write reports."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from eca_lightning.utils.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
R = TypeVar("R")

LINE_EVERY = 30.0
"""Seconds between the lines that tell the progress in a log."""

_ITEMS_AT_A_TIME = 64


def progress_bar(console: Console | None = None) -> Progress:
    """Create a progress bar that disappears when it is done."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), transient=True, console=console)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a long work is: a bar on a terminal, a plain line now and then in a log.

    Yields a function to be called with the number of items that were just done.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with progress_bar(console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, said = 0, monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if monotonic() - said >= LINE_EVERY:
            said = monotonic()
            print(f"{title}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance


def in_threads(function: Callable[[T], R], items: Sequence[T], threads: int, title: str) -> list[R]:
    """Apply a function to items in threads, in their order, and show the progress."""

    def apply(start: int) -> list[R]:
        return [function(item) for item in items[start : start + _ITEMS_AT_A_TIME]]

    results: list[R] = []
    executor = ThreadPoolExecutor(threads)
    try:
        with progress(title, len(items)) as advance:
            for part in executor.map(apply, range(0, len(items), _ITEMS_AT_A_TIME)):
                results += part
                advance(len(part))
    finally:
        executor.shutdown(cancel_futures=True)  # an interrupt need not wait for the rest
    return results


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure to a file atomically."""
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)
