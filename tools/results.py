"""Fill the tables of RESULTS.md from the CSV files under results/.

    make results

A block of RESULTS.md from ``<!-- table: results/NAME.csv VIEW -->`` to ``<!-- end -->`` becomes the
table of that file. results/models.csv is written by ``eca-lightning models --csv``; its views are
classifiers, detectors and kernels. results/NAME/cells.csv, without a view, is written by
``eca-lightning compare configs/ablation/NAME.yaml``, and its charts are drawn next to it. Where a
file does not exist yet, the block says so.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from eca_lightning.compare.grid import read_grid
from eca_lightning.compare.report import table
from eca_lightning.compare.run import compare
from eca_lightning.paper.command import tables
from eca_lightning.utils.atomic import atomic_write

ROOT = Path(__file__).parents[1]
GRIDS = ROOT / "configs" / "ablation"
BLOCK = re.compile(r"(<!-- table: (\S+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "*Not run yet.*"
VIEWS = {
    "classifiers": ("table 3", "released"),
    "detectors": ("table 5",),
    "kernels": ("Eq. 12", "Fig. 3", "released sizes"),
}
"""The tables of the paper whose rows each view of results/models.csv shows."""

Row = dict[str, str]


def fill(text: str, root: Path) -> str:
    """Replace the content of the blocks of a text.

    Args:
        text: The text of RESULTS.md.
        root: The folder that the paths in it are relative to.

    Raises:
        ValueError: If a block has no end, or there is no such view.
    """
    if text.count("<!-- table: ") != len(BLOCK.findall(text)):
        raise ValueError("RESULTS.md: each <!-- table: FILE --> needs an <!-- end --> after it")

    def filled(block: re.Match[str]) -> str:
        start, name, view, end = block.groups()
        content = _content(root, name, view) if (root / name).exists() else MISSING
        return f"{start}\n{content}\n\n{end}"

    return BLOCK.sub(filled, text)


def _content(root: Path, name: str, view: str | None) -> str:
    with (root / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if view is None:
        return comparison(rows, root, Path(name).parent)
    if view not in VIEWS:
        raise ValueError(f"RESULTS.md: {name} has no view {view}: take {', '.join(VIEWS)}")
    shown = tables([row for row in rows if row["table"] in VIEWS[view]])
    parts = [part for table in shown for part in (table.markdown(), *table.caption.splitlines())]
    return "\n\n".join(parts)


def comparison(rows: Sequence[Row], root: Path, folder: Path) -> str:
    """Format the table of a comparison and links to its charts.

    Args:
        rows: The rows of its cells.csv.
        root: The folder of RESULTS.md.
        folder: The folder of cells.csv, relative to it.
    """
    grid = read_grid(GRIDS / f"{folder.name}.yaml")
    charts = sorted((root / folder).glob("[!.]*.png"))
    images = [f"![{chart.stem}]({folder / chart.name})" for chart in charts]
    return "\n\n".join([table(grid.in_order(rows), grid.references), *images])


def main(root: Path = ROOT) -> None:
    """Draw the charts of the comparisons and fill the tables.

    Args:
        root: The folder of RESULTS.md.
    """
    text = (root / "RESULTS.md").read_text()
    for _, name, view, _ in BLOCK.findall(text):
        if not view and (root / name).exists():
            folder = (root / name).parent
            compare(GRIDS / f"{folder.name}.yaml", folder, report_only=True)
    filled = fill(text, root)
    with atomic_write(root / "RESULTS.md") as part:
        part.write_text(filled)


if __name__ == "__main__":
    main()
