"""Fill the tables of RESULTS.md from the CSV files under results/.

    make results

A block of RESULTS.md from ``<!-- table: results/NAME.csv VIEW -->`` to ``<!-- end -->`` becomes the
table of that file. results/models.csv is what ``eca-lightning models --csv`` writes; its views are
classifiers, detectors and kernels. results/NAME/cells.csv, without a view, is that of
``eca-lightning compare configs/ablation/NAME.yaml``, whose charts are drawn beside it. Where a file
is not there yet, the block says so.
"""

import csv
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from eca_lightning.compare.grid import read_grid
from eca_lightning.compare.report import table
from eca_lightning.compare.run import compare
from eca_lightning.utils.atomic import atomic_write

ROOT = Path(__file__).parents[1]
GRIDS = ROOT / "configs" / "ablation"
BLOCK = re.compile(r"(<!-- table: (\S+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "*Not run yet.*"
UNITS = {1: "", 10**6: " M", 2**20: " Mi", 10**9: " G", 2**30: " Gi"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Row = dict[str, str]


def fill(text: str, root: Path) -> str:
    """Replace what stands in the blocks of a text.

    Args:
        text: That of RESULTS.md.
        root: The folder to which the paths in it belong.

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
    return VIEWS[view](rows)


def comparison(rows: Sequence[Row], root: Path, folder: Path) -> str:
    """The table of a comparison, and the charts that are beside its file.

    Args:
        rows: The lines of its cells.csv.
        root: The folder of RESULTS.md.
        folder: The folder of cells.csv, from there.
    """
    grid = read_grid(GRIDS / f"{folder.name}.yaml")
    charts = sorted((root / folder).glob("[!.]*.png"))
    images = [f"![{chart.stem}]({folder / chart.name})" for chart in charts]
    return "\n\n".join([table(grid.in_order(rows), grid.references), *images])


def classifiers(rows: Sequence[Row]) -> str:
    """The networks of table 3 and of the released checkpoints."""
    return _costs([row for row in rows if row["table"] in ("table 3", "released")])


def detectors(rows: Sequence[Row]) -> str:
    """The detectors of table 5."""
    return _costs([row for row in rows if row["table"] == "table 5"])


def kernels(rows: Sequence[Row]) -> str:
    """ECA's kernel sizes by each choice and what they cost, and the abstract's figures."""
    rows = [row for row in rows if row["table"] in ("Eq. 12", "Fig. 3", "released sizes")]
    choices = dict.fromkeys(row["table"] for row in rows)
    lines = [["", *choices], ["---"] * (len(choices) + 1)]
    for name, members in groupby(rows, key=lambda row: row["model"]):
        lines.append([name, *(f"{row['kernels']}: **{row['parameters']}**" for row in members)])
    claims = [
        [
            f"{row['model']}, {row['table']}",
            *_beside(row, "parameters"),
            f"{int(row['multiply_adds']) / 10**9:.1e} G",
            row["operations_paper"],
            f"{int(row['operations']) / 2**30:.1e} Gi",
        ]
        for row in rows
        if row["parameters_paper"]
    ]
    header = ["", "parameters", "abstract", "multiply-adds", "abstract", "operations"]
    claims = [header, ["---", *["---:"] * 5], *claims]
    return "\n\n".join([_markdown(lines), _markdown(claims), *_notes(rows)])


VIEWS = {view.__name__: view for view in (classifiers, detectors, kernels)}


def _costs(rows: Sequence[Row]) -> str:
    """Our counts, rounded as the paper's figures are, beside these."""
    notes = _notes(rows)
    header = ["", "parameters", "paper", "multiply-adds", "operations", "paper", ""]
    lines = [header, ["---", *["---:"] * 5, "---"]]
    for section, members in groupby(rows, key=_section):
        lines.append([f"**{section}**", *[""] * 6])
        lines += [
            [
                row["model"].split()[-1],
                *_beside(row, "parameters"),
                f"{float(row['multiply_adds_G']):.3f} G",
                *_beside(row, "operations"),
                LETTERS[notes.index(row["note"])] if row["note"] else "",
            ]
            for row in members
        ]
    return "\n\n".join([_markdown(lines), *map(": ".join, zip(LETTERS, notes, strict=False))])


def _section(row: Row) -> str:
    return row["model"].split()[0] if row["table"] == "table 5" else row["table"]


def _beside(row: Row, name: str) -> tuple[str, str]:
    """Our count in the unit and with the digits of the paper's figure, and that."""
    printed, unit = row[f"{name}_paper"], int(row[f"{name}_paper_unit"])
    counted = row["paper_counts"] if name == "operations" else name
    digits = len(printed.rstrip("GM").partition(".")[2])
    ours = f"{int(row[counted]) / unit:.{digits}f}{UNITS[unit]}"
    if row[f"{name}_agree"] != "True":
        ours += f" ({float(row[f'{name}_difference']):+.2f} %)"
    return ours, printed


def _notes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["note"] for row in rows if row["note"]))


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
