"""Progress bars and charts of the commands that write reports."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from eca_lightning.utils.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def progress_bar() -> Progress:
    """Create a progress bar that disappears when it is done."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), transient=True)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure to a file atomically."""
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)
