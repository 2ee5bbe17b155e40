"""Tables in three formats, with the same content."""

import csv
import json
import sys

import pytest

from eca_lightning.utils.tables import check_table, write_table

COLUMNS = {"image": str, "class": int, "probability": float, "error": str}
ROWS = [
    {"image": 'a "b", c\u00e9.jpg', "class": 3, "probability": 0.25, "error": None},
    {"image": "d.jpg", "class": None, "probability": None, "error": None},
]


def test_csv(tmp_path):
    write_table(tmp_path / "new" / "t.csv", COLUMNS, iter(ROWS))
    with (tmp_path / "new" / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in ROWS]
    assert rows == texts


def test_json_lines(tmp_path):
    write_table(tmp_path / "t.jsonl", COLUMNS, iter(ROWS))
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_parquet(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("eca_lightning.utils.tables._ROWS_AT_A_TIME", 3)
    write_table(tmp_path / "t.parquet", COLUMNS, iter(ROWS * 4))
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.to_pylist() == ROWS * 4
    # Nothing but None has a type all the same, so that tables can be put together.
    assert list(map(str, table.schema.types)) == ["string", "int64", "double", "string"]


def test_the_name_is_checked(tmp_path, monkeypatch):
    message = r"^output: .*let t\.txt end in \.csv, \.jsonl, \.parquet"
    with pytest.raises(ValueError, match=message):
        check_table(tmp_path.relative_to(tmp_path) / "t.txt", "output")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_table(tmp_path / "t.jsonl", "output")
    with pytest.raises(ImportError, match=r"t\.parquet needs pyarrow.*'eca-lightning\[parquet\]'"):
        check_table(tmp_path / "t.parquet", "output")
